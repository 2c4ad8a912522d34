package telemetry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"
)

// Telemetry is the metrics and the traces of the program.
type Telemetry struct {
	Metrics *Metrics
	// Tracer makes the program's own spans; nil if nobody is given any, so that
	// nothing is paid for them.
	Tracer trace.Tracer

	provider trace.TracerProvider
	shutdown []func(context.Context) error
}

// New sets up metrics and traces as the variables OTEL_* say. What can't be
// exported later is logged to log.
func New(ctx context.Context, version string, log *slog.Logger) (*Telemetry, error) {
	otel.SetLogger(logr.Discard()) // which shows values, of headers too
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("telemetry can't be exported", KeyError, err)
	}))
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(ServiceName), semconv.ServiceVersion(version),
			semconv.ServiceInstanceID(rand.Text())), // else the metrics of replicas are one
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // after ours, which it replaces
	)
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES can't be read") // its error shows the value
	}
	t := &Telemetry{}
	return t, errors.Join(t.meter(ctx, about), t.tracer(ctx, about))
}

// runtimeInterval is how old what is told of Go's runtime may be: by default 15 seconds, which
// Prometheus would take for the present.
const runtimeInterval = 100 * time.Millisecond

// meter makes the metrics: for /metrics, and for whom the variables name besides.
func (t *Telemetry) meter(ctx context.Context, about *resource.Resource) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := prometheusexporter.New(prometheusexporter.WithRegisterer(registry), prometheusexporter.WithoutScopeInfo())
	if err != nil {
		return err
	}
	readers := []sdkmetric.Option{sdkmetric.WithResource(about), sdkmetric.WithReader(scraped)}
	if exporterConfigured("METRICS") {
		pushed, err := metricReader(ctx)
		if err != nil {
			return fmt.Errorf("OTEL_METRICS_EXPORTER: %w", err)
		}
		readers = append(readers, sdkmetric.WithReader(pushed))
	}
	provider := sdkmetric.NewMeterProvider(readers...)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	if err := runtime.Start(runtime.WithMeterProvider(provider), runtime.WithMinimumReadMemStatsInterval(runtimeInterval)); err != nil {
		return err
	}
	t.Metrics, err = newMetrics(provider.Meter("github.com/teamtoken/teamtoken"), registry)
	return err
}

func (t *Telemetry) tracer(ctx context.Context, about *resource.Resource) error {
	if !exporterConfigured("TRACES") {
		return nil
	}
	exporter, err := spanExporter(ctx)
	if err != nil {
		return fmt.Errorf("OTEL_TRACES_EXPORTER: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(exporter))
	t.provider, t.Tracer = provider, provider.Tracer("github.com/teamtoken/teamtoken")
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// exporterConfigured reports whether a signal, METRICS or TRACES, goes to somebody. Without a
// word about the exporter it does where there is an OTLP endpoint: the SDK's own
// default is one on this very machine, which is nothing to assume of a server.
// `prometheus` is what /metrics is.
func exporterConfigured(signal string) bool {
	if disabled() {
		return false
	}
	switch os.Getenv("OTEL_" + signal + "_EXPORTER") {
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
	case "none", "prometheus":
		return false
	default:
		return true
	}
}

func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

// GRPCStatsHandler makes a span of each call of a gRPC service, which goes on with the caller's
// trace; nil if there are no traces. GRPCStatsHandler of other services, health checks among
// them, have none.
func (t *Telemetry) GRPCStatsHandler(service string) stats.Handler {
	if t.provider == nil {
		return nil
	}
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithMeterProvider(noopmetric.NewMeterProvider()), // the interceptors know more
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(call *stats.RPCTagInfo) bool {
			return strings.HasPrefix(call.FullMethodName, "/"+service+"/")
		}),
	)
}

// Shutdown exports what there still is, until ctx ends.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, shutdown := range t.shutdown {
		errs = append(errs, shutdown(ctx))
	}
	return errors.Join(errs...)
}
