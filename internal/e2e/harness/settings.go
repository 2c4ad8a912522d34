package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// WithCallers are the settings that use the simulator with each caller's own
// credential.
func WithCallers(sim *simulator.Simulator, url string) Settings {
	return Settings{Sim: sim, Upstream: url, Env: []string{"TEAMTOKEN_CREDENTIALS=caller"}}
}

// WithService are the settings that use the simulator with a credential of the
// service's own, for any caller.
func WithService(sim *simulator.Simulator, url string) Settings {
	return Settings{Sim: sim, Upstream: url, Env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
	}}
}

// WriteTemp is a new file that holds this.
func WriteTemp(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// WithPolicy are the settings that use the simulator with the service's credential,
// for whom the policy allows.
func WithPolicy(t *testing.T, sim *simulator.Simulator, url, policy string, env ...string) Settings {
	t.Helper()
	return Settings{Sim: sim, Upstream: url, Env: append([]string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE=" + WriteTemp(t, policy),
	}, env...)}
}

// Tool is where a program from outside Go is. Where it is missing the test is
// skipped, unless TEAMTOKEN_TEST_REQUIRE names it.
func Tool(t *testing.T, name, variable, how string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if slices.Contains(strings.Split(os.Getenv("TEAMTOKEN_TEST_REQUIRE"), ","), name) {
		t.Fatalf("%s is required here, and not found: %s", name, how)
	}
	t.Skipf("needs %s: %s", name, how)
	return ""
}

// StateKey makes a file of keys, as an operator does.
func StateKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "state-key.json")
	if out, err := exec.Command(Binary, "state-key", "new", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// WithRedis are settings of replicas that share what is in r.
func WithRedis(t *testing.T, s Settings, r *statetest.Redis, env ...string) Settings {
	t.Helper()
	s.Env = append(append(append([]string{}, s.Env...),
		"TEAMTOKEN_STATE="+r.URL(), "TEAMTOKEN_STATE_KEY_FILE="+StateKey(t)), env...)
	return s
}

// PolicyFor allows these callers everything.
func PolicyFor(callers ...string) string {
	return fmt.Sprintf("rules:\n  - name: all\n    callers: %s\n    methods: [\"*\"]\n    teams: [\"*\"]\n    organizations: [\"*\"]\n",
		Must(json.Marshal(callers)))
}
