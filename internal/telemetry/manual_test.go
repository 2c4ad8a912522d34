package telemetry_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/otlptranslator"

	"github.com/teamtoken/teamtoken/internal/telemetry"
)

var update = flag.Bool("update", false, "write the table of docs/observability.md anew")

const (
	manual = "../../docs/observability.md"
	from   = "<!-- Made of internal/telemetry/instrument.go by: go test ./internal/telemetry -update -->\n"
	to     = "<!-- The end of it. -->\n"
)

// The manual has every instrument as it is: its name, that which Prometheus gives
// it, its kind, unit and labels, and what it tells.
func TestManual(t *testing.T) {
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(content), from)
	_, tail, ended := strings.Cut(rest, to)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", manual)
	}
	want := head + from + table(t) + to + tail
	if *update {
		if err := os.WriteFile(manual, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(content) != want {
		t.Errorf("%s is not what the instruments are: go test ./internal/telemetry -update", manual)
	}
}

func table(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| OpenTelemetry | Prometheus | Kind | Unit | Labels | What it tells |\n|---|---|---|---|---|---|\n")
	namer := otlptranslator.NewMetricNamer("", otlptranslator.UnderscoreEscapingWithSuffixes)
	types := map[telemetry.Kind]otlptranslator.MetricType{
		telemetry.Counter: otlptranslator.MetricTypeMonotonicCounter, telemetry.Gauge: otlptranslator.MetricTypeGauge,
		telemetry.Histogram: otlptranslator.MetricTypeHistogram,
	}
	for _, i := range telemetry.Instruments {
		name, err := namer.Build(otlptranslator.Metric{Name: i.Name, Unit: i.Unit, Type: types[i.Kind]})
		if err != nil {
			t.Fatal(err)
		}
		var labels []string
		for _, l := range i.Labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | `%s` | %s | %s |\n", i.Name, name, i.Kind, i.Unit, strings.Join(labels, ", "), i.Help)
	}
	return b.String()
}
