package operations_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// eventful runs a replica to which everything happens that is counted, over and over.
func eventful(t *testing.T) *harness.Server {
	t.Helper()
	sim, upstream := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	redis := statetest.Start(t)
	policy := harness.WriteTemp(t, harness.PolicyFor("friend"))
	s := harness.WithRedis(t, harness.Settings{Sim: sim, Upstream: upstream, TLS: ca, Trusts: ca.ClientCert(t, "friend"), Env: []string{
		"TFE_TOKEN_FILE=" + harness.WriteTemp(t, sim.UserToken().Reveal()), "TEAMTOKEN_POLICY_FILE=" + policy,
		"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + ca.CAFile, "TEAMTOKEN_UNKNOWN_HOLD=300ms", "TEAMTOKEN_UPSTREAM_RATE=1000",
	}}, redis)
	f := harness.Start(t, s)
	events := func(n int) {
		id := fmt.Sprintf("event-%d", n)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		lost := simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyFirst, Drop: simulator.DropFIN}
		sim.Inject(lost) // and so it is sent once more
		_, _ = f.Client.GenerateToken(ctx, harness.Asking(id))
		_, _ = f.Client.GenerateToken(ctx, harness.Asking(id)) // a replay
		lost.Apply = simulator.ApplyNever
		sim.Inject(lost) // and so nobody knows, for a time
		other := harness.Asking("")
		other.TeamId = simulator.AnotherTeam(n % 200)
		_, _ = f.Client.GenerateToken(ctx, other)
		_, _ = f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
	}
	events(0)
	redis.Kill()
	_, _ = f.Client.GenerateToken(t.Context(), harness.Asking(""))
	redis.Run()
	f.After(t, harness.NotUse, []string{harness.PolicyFile}, func() {
		if err := os.WriteFile(policy, []byte("rules: nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 1; ctx.Err() == nil; n++ {
			events(n)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return f
}

// dashboard is what Grafana is given.
type dashboard struct {
	Panels []struct {
		ID          int
		Title, Type string
		Targets     []struct{ Expr string }
	}
}

// alerts are the rules for Prometheus.
type alerts struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Annotations map[string]string
		}
	}
}

// names finds metrics in a query or in prose: what looks like one of those that are
// exported, and is no label.
var names = regexp.MustCompile(`\b(?:teamtoken|rpc|http|db|go|process|target|promhttp)_[a-z0-9_]+\b`)

// Every metric that the documentation, the alerts and the dashboard name exists on a
// live /metrics, and every query of the dashboard returns something from a real
// Prometheus that scrapes it.
func TestObservability(t *testing.T) {
	t.Parallel()
	prometheus := harness.Tool(t, "prometheus", "TEAMTOKEN_PROMETHEUS", "apt-get install prometheus")
	f := eventful(t)
	var board dashboard
	if err := json.Unmarshal(harness.Must(os.ReadFile("../../../deploy/grafana/dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	var rules alerts
	if err := yaml.Unmarshal(harness.Must(os.ReadFile("../../../deploy/prometheus/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}

	// What is there to be named.
	var exported, labels map[string]bool
	look := func() {
		exported, labels = map[string]bool{}, map[string]bool{}
		for line := range strings.Lines(f.Metrics()) {
			name, rest, _ := strings.Cut(line, "{")
			if strings.HasPrefix(line, "#") {
				continue
			}
			exported[strings.Fields(name)[0]] = true
			for _, label := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(rest, -1) {
				labels[label[1]] = true
			}
		}
	}
	texts := map[string]string{"docs/observability.md": string(harness.Must(os.ReadFile("../../../docs/observability.md")))}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			texts["panel "+p.Title] += target.Expr + "\n"
		}
	}
	runbook := string(harness.Must(os.ReadFile("../../../docs/operations.md")))
	for _, r := range rules.Groups[0].Rules {
		texts["alert "+r.Alert] = r.Expr
		if _, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#"); anchor != strings.ToLower(r.Alert) ||
			!strings.Contains(runbook, "\n### "+r.Alert+"\n") {
			t.Errorf("docs/operations.md does not say what to do for %s", r.Alert)
		}
	}
	missing := func() (all []string) {
		look()
		for where, text := range texts {
			for _, name := range names.FindAllString(text, -1) {
				if !labels[name] && !exported[name] && !exported[name+"_count"] {
					all = append(all, where+": "+name)
				}
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	harness.Soon(100*time.Millisecond, func() bool { return len(missing()) == 0 })
	for _, m := range missing() {
		t.Errorf("not on /metrics: %s", m)
	}

	// What queries return.
	api := scraped(t, prometheus, f)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "10s")
			var last string
			ok := func() bool {
				var answer struct {
					Status string
					Error  string
					Data   struct{ Result []json.RawMessage }
				}
				resp, err := http.Get(api + "/api/v1/query?query=" + url.QueryEscape(expr))
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				_ = json.NewDecoder(resp.Body).Decode(&answer)
				last = answer.Status + " " + answer.Error
				return len(answer.Data.Result) > 0
			}
			if !harness.Soon(200*time.Millisecond, ok) {
				t.Errorf("the panel %q is empty: %s: %s", p.Title, expr, last)
			}
		}
	}
}

// scraped runs a real Prometheus that scrapes the program, and returns where its API is.
func scraped(t *testing.T, prometheus string, f *harness.Server) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(`global: {scrape_interval: 500ms, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs: [{job_name: teamtoken, static_configs: [{targets: [%q]}]}]
`, harness.Must(filepath.Abs("../../../deploy/prometheus/alerts.yaml")), strings.TrimPrefix(f.Admin, "http://"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", statetest.FreePort(t)) // it does not say which port it took
	var said harness.Output
	cmd := exec.Command(prometheus, "--config.file", config, "--storage.tsdb.path", dir, "--web.listen-address", address)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", said.String())
		}
	})
	harness.Eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + address
}

// Each alert fires when it is to, alone, and not when it is not.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := harness.Tool(t, "promtool", "TEAMTOKEN_PROMTOOL", "apt-get install prometheus")
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../../../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	tests := string(harness.Must(os.ReadFile("../../../deploy/prometheus/alerts_test.yaml")))
	var rules alerts
	if err := yaml.Unmarshal(harness.Must(os.ReadFile("../../../deploy/prometheus/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, r := range rules.Groups[0].Rules {
		if !strings.Contains(tests, fmt.Sprintf("alertname=\"%s\"", r.Alert)) {
			t.Errorf("%s has no test", r.Alert)
		}
	}
}
