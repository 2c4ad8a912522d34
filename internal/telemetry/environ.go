package telemetry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// VariableError is of variables OTEL_* that the program does not start with. It names
// them, and shows no value: those of headers are secrets.
type VariableError struct{ error }

// Variables checks what the environment says to OpenTelemetry's SDK, before that
// reads it: the SDK panics on some values, takes others for another one in silence,
// and prints headers that it can't read. audit says that the audit log is exported
// by OTLP.
//
// A value that says where telemetry goes, or who may read it on its way, must be
// right: err names each that is not. Another one that is not right is taken out of
// the environment, so that its default holds, and is returned by name.
func Variables(audit bool) (ignored []string, err error) {
	var wrong []error
	refuse := func(name, must string) { wrong = append(wrong, fmt.Errorf("%s must be %s", name, must)) }
	drop := func(name string) {
		ignored = append(ignored, name)
		_ = os.Unsetenv(name)
	}
	for _, v := range tunables() {
		if value := os.Getenv(v.name); value != "" && !v.good(value) {
			drop(v.name)
		}
	}
	if value := os.Getenv(resourceAttributes); value != "" {
		if kept := attributes(value); kept != value {
			drop(resourceAttributes)
			_ = os.Setenv(resourceAttributes, kept)
		}
	}
	for name, exporters := range map[string][]string{"TRACES": {"otlp", "console", "none"}, "METRICS": {"otlp", "console", "none", "prometheus"}} {
		name = "OTEL_" + name + "_EXPORTER"
		if value := os.Getenv(name); value != "" && !slices.Contains(exporters, value) && !disabled() {
			refuse(name, "one of "+strings.Join(exporters, ", "))
		}
	}
	signals := []string{}
	for _, signal := range []string{"TRACES", "METRICS"} {
		if exporterConfigured(signal) && os.Getenv("OTEL_"+signal+"_EXPORTER") != "console" {
			signals = append(signals, signal+"_")
		}
	}
	if audit {
		signals = append(signals, "LOGS_")
	}
	if len(signals) > 0 {
		signals = append(signals, "")
	}
	for _, signal := range signals {
		for _, v := range destinations {
			name := "OTEL_EXPORTER_OTLP_" + signal + v.name
			if value := os.Getenv(name); value != "" && !v.good(value) {
				refuse(name, v.must)
			}
		}
		certificate, key := "OTEL_EXPORTER_OTLP_"+signal+"CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_"+signal+"CLIENT_KEY"
		if c, k := os.Getenv(certificate), os.Getenv(key); c != "" || k != "" {
			if _, err := tls.LoadX509KeyPair(c, k); err != nil {
				refuse(certificate+" and "+key, "the files of a certificate and its key, in PEM")
			}
		}
	}
	if len(wrong) == 0 {
		slices.Sort(ignored)
		return ignored, nil
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return ignored, &VariableError{errors.Join(wrong...)}
}

// variable is one of the SDK's, and what it may be.
type variable struct {
	name string
	good func(string) bool
	must string
}

// destinations say where telemetry goes, after OTEL_EXPORTER_OTLP_.
var destinations = []variable{
	{"ENDPOINT", endpoint, "http://HOST:PORT or https://HOST:PORT and maybe a path, without a user"},
	{"HEADERS", headers, "NAME=VALUE,… with values percent-encoded"},
	{"PROTOCOL", oneOf("grpc", "http/protobuf"), "grpc or http/protobuf"},
	{"CERTIFICATE", certificates, "the file of CAs, in PEM"},
}

const (
	resourceAttributes = "OTEL_RESOURCE_ATTRIBUTES"
	// maxSize is the most that a queue or a batch may hold, for which the SDK takes
	// the memory at once.
	maxSize = 1 << 20
)

// tunables say how telemetry is made and sent, and can be left as they are by default.
func tunables() []variable {
	var all []variable
	add := func(good func(string) bool, names ...string) {
		for _, name := range names {
			all = append(all, variable{name: name, good: good})
		}
	}
	add(between(1, maxSize), "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE")
	add(between(1, math.MaxInt32), "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_EXPORT_TIMEOUT",
		"OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT")
	add(between(-1, math.MaxInt32), "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
		"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
		"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_GO_X_CARDINALITY_LIMIT")
	add(folded("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"), "OTEL_TRACES_SAMPLER")
	add(ratio, "OTEL_TRACES_SAMPLER_ARG")
	add(oneOf("always_on", "always_off", "trace_based"), "OTEL_METRICS_EXEMPLAR_FILTER")
	add(oneOf("none", "prometheus"), "OTEL_METRICS_PRODUCERS")
	add(folded("cumulative", "delta", "lowmemory"), "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
	add(folded("explicit_bucket_histogram", "base2_exponential_bucket_histogram"), "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION")
	add(folded("true", "false"), "OTEL_SDK_DISABLED")
	add(func(s string) bool { return utf8.ValidString(s) && strings.TrimSpace(s) != "" }, "OTEL_SERVICE_NAME")
	for _, signal := range []string{"", "TRACES_", "METRICS_", "LOGS_"} {
		add(between(1, math.MaxInt32), "OTEL_EXPORTER_OTLP_"+signal+"TIMEOUT")
		add(oneOf("gzip", "none"), "OTEL_EXPORTER_OTLP_"+signal+"COMPRESSION")
		add(folded("true", "false"), "OTEL_EXPORTER_OTLP_"+signal+"INSECURE")
	}
	return all
}

func oneOf(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

// folded is oneOf for what the SDK takes in letters of any size.
func folded(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, strings.ToLower(s)) }
}

func between(least, most int) func(string) bool {
	return func(s string) bool {
		n, err := strconv.Atoi(s)
		return err == nil && n >= least && n <= most
	}
}

func ratio(s string) bool {
	f, err := strconv.ParseFloat(s, 64)
	return err == nil && f >= 0 && f <= 1
}

func endpoint(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.User != nil {
		return false
	}
	if u.Scheme == "unix" {
		return u.Path != ""
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && (u.Port() == "" || err == nil && port > 0)
}

func headers(s string) bool {
	for pair := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) || !httpguts.ValidHeaderFieldValue(value) {
			return false
		}
	}
	return true
}

func certificates(path string) bool {
	pem, err := os.ReadFile(path) //nolint:gosec // which files are read is what settings are for
	return err == nil && x509.NewCertPool().AppendCertsFromPEM(pem)
}

// attributes are those pairs that are NAME=VALUE.
func attributes(s string) string {
	var kept []string
	for pair := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(pair, "=")
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if ok && err == nil && strings.TrimSpace(name) != "" && utf8.ValidString(name) && utf8.ValidString(decoded) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, ",")
}
