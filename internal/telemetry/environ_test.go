package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// canary is in values that must not be shown.
const canary = "c4nary"

// A variable of the SDK with a value that can't be right ends the start and is named,
// or is ignored and named; nothing panics, and no value is shown.
func TestVariablesThatCannotBeRight(t *testing.T) {
	numbers := []string{"x", "-2", "1.5", "1e3", " 5 ", "99999999999999999999", "9223372036854775807", "1000000000000", canary}
	positive := append([]string{"-1", "0"}, numbers...)
	words := []string{"x", " ", canary, "true,false", "1"}
	type family struct {
		names  []string
		values []string
		fatal  bool
	}
	otlp := func(name string) []string {
		return []string{"OTEL_EXPORTER_OTLP_" + name, "OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_METRICS_" + name, "OTEL_EXPORTER_OTLP_LOGS_" + name}
	}
	for _, f := range []family{
		{[]string{
			"OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BLRP_MAX_QUEUE_SIZE",
			"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_EXPORT_TIMEOUT", "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT",
		}, positive, false},
		{[]string{
			"OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
			"OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
			"OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_GO_X_CARDINALITY_LIMIT",
		}, numbers, false},
		{[]string{"OTEL_TRACES_SAMPLER"}, append([]string{"parentbased_jaeger_remote", "xray"}, words...), false},
		{[]string{"OTEL_TRACES_SAMPLER_ARG"}, []string{"x", "-0.1", "1.1", "NaN", "Inf", "1e400", canary}, false},
		{[]string{"OTEL_METRICS_EXEMPLAR_FILTER", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "OTEL_METRICS_PRODUCERS", "OTEL_SDK_DISABLED"}, words, false},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES"}, []string{"a=b,", ",", "a", "=b", "=", "a=%zz", "a=b,,c=d", "a=b,c", "a=\xff", "\xff=b", canary, "a=b," + canary, "a=%FF"}, false},
		{[]string{"OTEL_SERVICE_NAME"}, []string{" ", "\xff" + canary}, false},
		{otlp("TIMEOUT"), positive, false},
		{otlp("COMPRESSION"), append([]string{"GZIP", "zstd"}, words...), false},
		{otlp("INSECURE"), words, false},
		{otlp("ENDPOINT"), []string{
			"x", canary, "localhost:4317", "127.0.0.1:4317", "ftp://h", "grpc://h:1", "http://", "https://", "://", "http://h:99999", "http://h:0", "http://h:x", "http://u:" + canary + "@h", "http://[::1",
			"\x01" + canary, "%zz", "http://h/%zz", "unix://", "//h:1",
		}, true},
		{otlp("HEADERS"), []string{
			canary, "=" + canary, "a b=" + canary, "a=%zz" + canary, "a=" + canary + "%0A", "a=b," + canary, "A\x01=" + canary, "ä=" + canary, "a=" + canary + "\x7f", "a=" + canary + "%00", ",,b",
		}, true},
		{otlp("PROTOCOL"), []string{"x", "GRPC", "http/json", "http", canary}, true},
		{otlp("CERTIFICATE"), []string{"/does/not/exist", "/dev/null", "/etc/hostname", canary}, true},
		{append(otlp("CLIENT_CERTIFICATE"), otlp("CLIENT_KEY")...), []string{"/does/not/exist", "/dev/null", canary}, true},
		{[]string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"}, []string{"x", "OTLP", "otlp,console", " otlp", "zipkin", "jaeger", canary}, true},
	} {
		for _, name := range f.names {
			for _, value := range f.values {
				try(t, name, value, f.fatal)
			}
		}
	}
}

// try starts telemetry with everything exported, and one variable more.
func try(t *testing.T, name, value string, fatal bool) {
	t.Run(name, func(t *testing.T) {
		for name, value := range map[string]string{
			"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
			"OTEL_TRACES_SAMPLER": "traceidratio", name: value,
		} {
			t.Setenv(name, value)
		}
		ignored, err := telemetry.Variables(true)
		var variable *telemetry.VariableError
		switch {
		case fatal && (!errors.As(err, &variable) || !strings.Contains(err.Error(), name+" ")):
			t.Errorf("%s=%q: %v", name, value, err)
		case !fatal && (err != nil || !slices.Equal(ignored, []string{name})):
			t.Errorf("%s=%q: ignored %q, %v", name, value, ignored, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("a value is shown: %v", err)
			}
			return
		}
		if strings.Contains(os.Getenv(name), canary) {
			t.Errorf("%s is still there", name)
		}
		started(t)
	})
}

// started starts and ends telemetry, which must work.
func started(t *testing.T) {
	t.Helper()
	var b bytes.Buffer
	log := telemetry.NewLogger(&b, 0, false)
	told, err := telemetry.New(t.Context(), "v1", log)
	if err != nil {
		t.Error(err)
		return
	}
	ended, end := context.WithCancel(context.Background())
	end()
	_ = told.Shutdown(ended) // which nobody listens to
	if strings.Contains(b.String(), canary) {
		t.Errorf("a value is in the log: %s", b.String())
	}
}

// What is right stays as it is, and a good part of what is not.
func TestVariablesThatAreRight(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example.com:4317", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20" + canary + ",x-b = c,",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:4318/v1/traces", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "unix:///run/otel.sock", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		"OTEL_BSP_MAX_QUEUE_SIZE": "4096", "OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01",
		"OTEL_EXPORTER_OTLP_TIMEOUT": "1000", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_RESOURCE_ATTRIBUTES": "a=b,service.namespace=x%20y", "OTEL_SERVICE_NAME": "a b", "OTEL_PROPAGATORS": "b3", "OTEL_LOGS_EXPORTER": "x",
	} {
		t.Setenv(name, value)
	}
	if ignored, err := telemetry.Variables(true); len(ignored) != 0 || err != nil {
		t.Errorf("%q, %v", ignored, err)
	}
	started(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b,c,d=e,")
	if ignored, err := telemetry.Variables(true); !slices.Equal(ignored, []string{"OTEL_RESOURCE_ATTRIBUTES"}) || err != nil || os.Getenv("OTEL_RESOURCE_ATTRIBUTES") != "a=b,d=e" {
		t.Errorf("%q, %v", ignored, err)
	}
}

// Of what nobody reads nothing ends the start.
func TestVariablesThatAreNotUsed(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "x")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x")
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/does/not/exist")
	if _, err := telemetry.Variables(false); err != nil {
		t.Error(err)
	}
	if _, err := telemetry.Variables(true); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three are wrong: %v", err)
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "x")
	t.Setenv("OTEL_TRACES_EXPORTER", "x")
	if _, err := telemetry.Variables(false); err != nil {
		t.Error(err)
	}
}
