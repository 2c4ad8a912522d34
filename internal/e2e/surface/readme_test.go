package surface_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// Every command of the README is typed as it stands, but for the ports, and
// answers what the README says. Those of `make` are this test's own frame.
func TestReadme(t *testing.T) {
	t.Parallel()
	f := harness.Start(t, harness.Settings{Args: []string{"--simulator"}})
	r := newReader(t, f)

	readme := string(harness.Must(os.ReadFile("../../../README.md")))
	answers := []struct{ command, answer string }{
		{"make run", ""},
		{"make test", ""},
		{"make run-cluster", ""},
		{"grpcurl", `"secret":`},
		{"curl --request POST", `"type":"authentication-tokens"`},
		{"curl --request DELETE", "204 No Content"},
		{"bin/teamtoken --insecure", "Made token at-"},
		{"make build", ""},
		{"TFE_TOKEN_FILE=", "TFE_TOKEN_FILE (--tfe-token-file): open /run/secrets/tfe-token"},
		{"bin/teamtoken-server policy check", "ok: 1 rule"},
		{"TFE_ADDRESS=", "TEAMTOKEN_TLS_KEY_FILE: open tls.crt"},
	}
	policy := regexp.MustCompile("(?s)```yaml\n(rules:.*?)```").FindStringSubmatch(readme)
	if err := os.WriteFile(filepath.Join(r.dir, "policy.yaml"), []byte(policy[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(blocks) != len(answers) {
		t.Fatalf("%d commands, and answers to %d", len(blocks), len(answers))
	}
	for i, block := range blocks {
		command, want := block[1], answers[i]
		if strings.HasPrefix(command, "make ") {
			if strings.TrimSpace(command) != want.command {
				t.Errorf("%q, want %q", command, want.command)
			}
			continue
		}
		if printed := r.types(t, command); !strings.Contains(printed, want.answer) {
			t.Errorf("%s\nanswers %s\nwithout %s", command, printed, want.answer)
		}
	}
	for _, told := range []string{"grpcurl -plaintext", "curl --request POST", f.REST[len("http://127.0.0.1"):], "Stop with Ctrl-C"} {
		if !strings.Contains(f.Stdout.String(), told) {
			t.Errorf("what is printed at start does not say %q:\n%s", told, f.Stdout.String())
		}
	}
}

// The commands of docs/policy.md, about its own first policy, print what it shows.
func TestPolicyPage(t *testing.T) {
	t.Parallel()
	f := harness.Start(t, harness.Settings{Args: []string{"--simulator"}})
	r := newReader(t, f)
	page := string(harness.Must(os.ReadFile("../../../docs/policy.md")))
	policy := regexp.MustCompile("(?s)```yaml\n(rules:.*?)```").FindStringSubmatch(page)
	if err := os.WriteFile(filepath.Join(r.dir, "policy.yaml"), []byte(policy[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```\n(rule .*?)```").FindStringSubmatch(page)
	answers := []string{"ok: 2 rules\n", shown[1]}
	for i, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(page, -1) {
		if printed := r.types(t, block[1]); printed != answers[i] {
			t.Errorf("%s\nprints %s\nand not %s", block[1], printed, answers[i])
		}
	}
}

// The tests that docs/security.md names are there.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	tests := harness.Tests(t)
	page := string(harness.Must(os.ReadFile("../../../docs/security.md")))
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(page, -1)
	if len(named) < 20 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, name := range named {
		if !tests[name[1]] {
			t.Errorf("there is no %s", name[1])
		}
	}
}
