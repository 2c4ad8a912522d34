package telemetry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/teamtoken/teamtoken/internal/ciphers"
)

// spanExporter makes the exporter that the variables name.
func spanExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	if !overHTTP("TRACES") {
		return autoexport.NewSpanExporter(ctx)
	}
	client, err := exporterClient("TRACES")
	if err != nil {
		return nil, err
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithHTTPClient(client))
}

// metricReader makes the reader of the exporter that the variables name.
func metricReader(ctx context.Context) (sdkmetric.Reader, error) {
	if !overHTTP("METRICS") {
		return autoexport.NewMetricReader(ctx)
	}
	client, err := exporterClient("METRICS")
	if err != nil {
		return nil, err
	}
	exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithHTTPClient(client))
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewPeriodicReader(exporter), nil
}

// overHTTP reports whether a signal is exported by OTLP over HTTP, which is the default.
func overHTTP(signal string) bool {
	exporter := os.Getenv("OTEL_" + signal + "_EXPORTER")
	return (exporter == "" || exporter == "otlp") && cmp.Or(otlpVariable(signal, "PROTOCOL"), "http/protobuf") == "http/protobuf"
}

// otlpVariable is the signal's own, or else that of all signals.
func otlpVariable(signal, name string) string {
	return cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_"+name), os.Getenv("OTEL_EXPORTER_OTLP_"+name))
}

// exporterTimeout is of one request, as OpenTelemetry has it by default.
const exporterTimeout = 10 * time.Second

// exporterClient is what OTLP goes over. OpenTelemetry's own client reads the same
// variables, but offers the TLS suites of Go's default, CBC among them. Variables has
// checked the files.
func exporterClient(signal string) (*http.Client, error) {
	config := ciphers.Client(nil)
	if file := otlpVariable(signal, "CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", file)
		}
	}
	if certificate, key := otlpVariable(signal, "CLIENT_CERTIFICATE"), otlpVariable(signal, "CLIENT_KEY"); certificate != "" && key != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	timeout := exporterTimeout
	if ms, err := strconv.Atoi(otlpVariable(signal, "TIMEOUT")); err == nil && ms > 0 {
		timeout = time.Duration(ms) * time.Millisecond
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
		MaxIdleConns: 2, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: exporterTimeout,
	}
	return &http.Client{Transport: transport, Timeout: timeout}, nil
}
