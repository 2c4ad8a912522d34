package operations_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// What the environment says that can't be meant is named at start, and never shown;
// the program serves all the same, traces and metrics included.
func TestVariablesAreWarnedOf(t *testing.T) {
	t.Parallel()
	const hidden = "v4lue-of-a-variable"
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	strangers := []string{"TEAMTOKEN_POLICY_FLIE", "TEAMTOKEN_WHATEVER", "TFE_TOKN", "teamtoken_state"}
	ignored := map[string]string{
		"OTEL_RESOURCE_ATTRIBUTES": "a=b," + hidden, "OTEL_BSP_MAX_QUEUE_SIZE": "-1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1", "OTEL_TRACES_SAMPLER": hidden,
		"OTEL_METRIC_EXPORT_INTERVAL": "-1", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x", "OTEL_EXPORTER_OTLP_TIMEOUT": hidden,
	}
	for _, name := range strangers {
		s.Env = append(s.Env, name+"="+hidden)
	}
	for name, value := range ignored {
		s.Env = append(s.Env, name+"="+value)
	}
	f := harness.Start(t, harness.Settings{Sim: sim, Upstream: url, Env: append(s.Env,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS=authorization="+hidden,
		"TEAMTOKEN_SERVICE_HOST=10.0.0.1", "TEAMTOKEN_PORT=tcp://10.0.0.1:9090", "TEAMTOKEN_PORT_9090_TCP_ADDR=10.0.0.1")})
	if _, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Error(err)
	}
	f.Stop(t, harness.Patience)
	named := func(message string) []string {
		var names []string
		for _, found := range regexp.MustCompile(`"msg":"`+message+`[^"]*","variable":"([^"]*)"`).FindAllStringSubmatch(f.Stderr.String(), -1) {
			names = append(names, found[1])
		}
		slices.Sort(names)
		return names
	}
	if got := named("an environment variable is not a setting"); !slices.Equal(got, slices.Sorted(slices.Values(strangers))) {
		t.Errorf("strangers: %q", got)
	}
	if got := named("an OpenTelemetry variable has"); len(got) != len(ignored) || slices.ContainsFunc(got, func(name string) bool { return ignored[name] == "" }) {
		t.Errorf("ignored: %q", got)
	}
	if !strings.Contains(f.Stderr.String(), `"did_you_mean":"TEAMTOKEN_POLICY_FILE"`) {
		t.Error("the setting that is meant is not named")
	}
	if strings.Contains(f.Stderr.String()+f.Stdout.String(), hidden) {
		t.Error("a value is shown")
	}
	for _, want := range []string{"authentication is off", "request_id"} {
		if !strings.Contains(f.Stderr.String(), want) {
			t.Errorf("%q is not said at start", want)
		}
	}
}

// Where telemetry goes must be right: otherwise the program says which variable is
// not, shows nothing of it, and ends with 2, whoever exports.
func TestVariablesThatEndTheStart(t *testing.T) {
	t.Parallel()
	const hidden = "v4lue-of-a-variable"
	free := []string{"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0", "TEAMTOKEN_CREDENTIALS=caller"}
	traces := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1"
	for _, row := range []struct {
		name string
		env  []string
	}{
		{"OTEL_EXPORTER_OTLP_ENDPOINT", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + hidden}},
		{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", []string{"TEAMTOKEN_AUDIT_FILE=otlp", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=" + hidden}},
		{"OTEL_EXPORTER_OTLP_HEADERS", []string{traces, "OTEL_EXPORTER_OTLP_HEADERS=" + hidden}},
		{"OTEL_EXPORTER_OTLP_HEADERS", []string{"TEAMTOKEN_AUDIT_FILE=otlp", "OTEL_EXPORTER_OTLP_HEADERS=a=%zz" + hidden}},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", []string{traces, "OTEL_EXPORTER_OTLP_CERTIFICATE=/does/not/exist/" + hidden}},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", []string{traces, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=" + hidden}},
		{"OTEL_TRACES_EXPORTER", []string{"OTEL_TRACES_EXPORTER=" + hidden}},
		{"OTEL_METRICS_EXPORTER", []string{"OTEL_METRICS_EXPORTER=" + hidden}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		cmd := exec.CommandContext(ctx, harness.Binary)
		cmd.Env = slices.Concat(free, row.env)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(stderr.String(), row.name+" must be ") || strings.Contains(stderr.String(), hidden) {
			t.Errorf("%s: %v\n%s", row.name, err, stderr.String())
		}
		cancel()
	}
}
