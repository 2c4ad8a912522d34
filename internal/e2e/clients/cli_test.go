package clients_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// ran is what a command did.
type ran struct {
	exit           int
	stdout, stderr string
}

func runCommand(t *testing.T, env []string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.CommandLine(), args...)
	cmd.Env = append(env, "GORACE=atexit_sleep_ms=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

var update = flag.Bool("update", false, "write testdata/cli anew")

// What is another each time, and what stands for it in the golden files.
var passing = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{regexp.MustCompile(`\bat-[A-Za-z0-9]{16}\b`), "<token>"},
	{regexp.MustCompile(`\b[A-Z2-7]{26}\b`), "<call>"},
	{regexp.MustCompile(`/tmp/\S*/out\b`), "<file>"},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// golden compares what a command did with the file of this name.
func (r ran) golden(t *testing.T, name string, secrets ...string) {
	t.Helper()
	text := fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", r.exit, r.stdout, r.stderr)
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, "<secret>")
	}
	for _, p := range passing {
		text = p.what.ReplaceAllString(text, p.as)
	}
	path := filepath.Join("testdata", "cli", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := string(harness.Must(os.ReadFile(path))); text != want {
		t.Errorf("%s:\n%s\nwant:\n%s", name, text, want)
	}
}

// The command line, as a person or a job uses it: what it prints, in each form, and
// what it exits with. A secret stands where it was asked for, and nowhere else.
func TestCommandLine(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, url, `
rules:
  - {name: all, callers: [friend], methods: ["*"], teams: ["*"], organizations: ["*"]}
`, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_UNKNOWN_HOLD=1m")
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "friend")
	f := harness.Start(t, s)
	friend, friendKey := ca.Issue(t, harness.DNSName("friend"))
	stranger, strangerKey := ca.Issue(t, harness.DNSName("stranger"))
	address := strings.Replace(f.GRPC, "127.0.0.1", "localhost", 1)
	env := []string{
		"TEAMTOKEN_ADDRESS=" + address, "TEAMTOKEN_CA_FILE=" + ca.CAFile,
		"TEAMTOKEN_CERT_FILE=" + friend, "TEAMTOKEN_KEY_FILE=" + friendKey,
	}
	empty := "{}"
	last := func() string { m := sim.Minted(); return m[len(m)-1].Secret.Reveal() }
	team := simulator.SeedTeam

	// A token is made: its secret goes where it is to go.
	r := runCommand(t, env, "generate", team)
	if r.stdout != last()+"\n" || harness.Leaked(r.stderr, last()) != "" {
		t.Errorf("standard output is not the secret alone: %q, %q", r.stdout, r.stderr)
	}
	r.golden(t, "generate", last())
	first := sim.Minted()[0].ID
	r = runCommand(t, env, "generate", team, "-o", "json", "--expires-in", "720h", "--expect", first)
	r.golden(t, "generate-json", last())
	for _, args := range [][]string{{"generate", team}, {"generate", team, "-o", "json"}} {
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(out, []byte("what was there\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r = runCommand(t, env, append(args, "--out", out)...)
		info := harness.Must(os.Stat(out))
		if content := string(harness.Must(os.ReadFile(out))); content != last()+"\n" || info.Mode().Perm() != 0o600 {
			t.Errorf("%v: the file has mode %v, and not the secret", args, info.Mode())
		}
		if harness.Leaked(r.stdout+r.stderr, last()) != "" {
			t.Errorf("%v: the secret stands elsewhere too", args)
		}
		if left := harness.Must(os.ReadDir(filepath.Dir(out))); len(left) != 1 {
			t.Errorf("%v: %d files are left", args, len(left))
		}
		r.golden(t, "generate-out-"+fmt.Sprint(len(args)))
	}
	made := len(sim.Minted())
	runCommand(t, env, "generate", team, "--out", "/does/not/exist/out").golden(t, "generate-out-nowhere")
	if len(sim.Minted()) != made {
		t.Error("a token was made, although its secret had nowhere to go")
	}
	once := runCommand(t, env, "generate", team, "--request-id", "once")
	if again := runCommand(t, env, "generate", team, "--request-id", "once"); again != once || len(sim.Minted()) != made+1 {
		t.Error("the same call again is not the same call")
	}
	r = runCommand(t, env, "create", team, "--description", "for <ci> & \"co\"")
	r.golden(t, "create", last())
	named := sim.Minted()[len(sim.Minted())-1].ID

	// A secret that can't be written was made all the same.
	full := exec.Command("sh", "-c", `"$0" generate "$1" --request-id full > /dev/full`, harness.CommandLine(), team)
	full.Env = env
	var stderr bytes.Buffer
	full.Stderr = &stderr
	_ = full.Run()
	ran{full.ProcessState.ExitCode(), "", stderr.String()}.golden(t, "generate-undelivered")

	// Tokens are described.
	for _, format := range []string{"text", "json", "table"} {
		runCommand(t, env, "get", team, "-o", format).golden(t, "get-"+format)
		runCommand(t, env, "get", named, "-o", format).golden(t, "get-id-"+format)
		runCommand(t, env, "list", simulator.Organization, "-o", format, "--limit", "2", "--sort=team-name").golden(t, "list-"+format)
	}
	all := runCommand(t, env, "list", simulator.Organization)
	if n := strings.Count(all.stdout, "\n"); n != 1+2 {
		t.Errorf("the list has %d lines", n)
	}

	// What goes wrong.
	for _, row := range []struct {
		name string
		env  []string
		args []string
		does func()
	}{
		{"wrong-id", nil, []string{"get", "team-x"}, nil},
		{"wrong-expect", nil, []string{"generate", team, "--expect", "at-0000000000000000"}, nil},
		{"not-found", nil, []string{"get", simulator.AnotherTeam(5)}, nil},
		{"not-allowed", []string{"TEAMTOKEN_CERT_FILE=" + stranger, "TEAMTOKEN_KEY_FILE=" + strangerKey}, []string{"delete", team}, nil},
		{"no-team", nil, []string{"generate"}, nil},
		{"no-such-flag", nil, []string{"get", team, "--tokn", "x"}, nil},
		{"no-such-command", nil, []string{"make"}, nil},
		{"two-expiries", nil, []string{"generate", team, "--expires-in", "1h", "--expires-at", "2030-01-01T00:00:00Z"}, nil},
		{"team-flags", nil, []string{"delete", named, "--allow-missing"}, nil},
		{"insecure-and-certificates", nil, []string{"get", team, "--insecure"}, nil},
		{"no-such-file", []string{"TEAMTOKEN_BEARER_FILE=/does/not/exist"}, []string{"get", team}, nil},
		{"unreachable", []string{"TEAMTOKEN_ADDRESS=127.0.0.1:1"}, []string{"get", team}, nil},
		{"generate-unreachable", []string{"TEAMTOKEN_ADDRESS=127.0.0.1:1"}, []string{"generate", team}, nil},
		{"deadline", nil, []string{"generate", simulator.AnotherTeam(8), "--timeout", "500ms"}, func() {
			sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: 5 * time.Second, Apply: simulator.ApplyNever, Drop: simulator.DropFIN})
		}},
		{"unknown", nil, []string{"generate", simulator.AnotherTeam(6)}, func() {
			sim.Inject(simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyNever, Drop: simulator.DropFIN})
		}},
		{"useless", nil, []string{"generate", simulator.AnotherTeam(7)}, func() {
			sim.Inject(simulator.Fault{Method: http.MethodPost, Status: http.StatusCreated, Body: &empty})
		}},
		{"missing", nil, []string{"delete", simulator.AnotherTeam(9)}, nil},
		{"missing-allowed", nil, []string{"delete", simulator.AnotherTeam(9), "--allow-missing"}, nil},
		{"delete-id", nil, []string{"delete", named}, nil},
		{"delete", nil, []string{"delete", team}, nil},
		{"deleted", nil, []string{"get", team, "-o", "json"}, nil},
		{"version", nil, []string{"version"}, nil},
		{"help", nil, []string{"--help"}, nil},
		{"help-generate", nil, []string{"generate", "--help"}, nil},
		{"completion-bash", nil, []string{"completion", "bash"}, nil},
		{"completion-zsh", nil, []string{"completion", "zsh"}, nil},
		{"completion-fish", nil, []string{"completion", "fish"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.does != nil {
				row.does()
			}
			r := runCommand(t, append(append([]string{}, env...), row.env...), row.args...)
			r.golden(t, row.name)
			if row.name == "unknown" {
				id := regexp.MustCompile(`--request-id (\S+):`).FindStringSubmatch(r.stderr)
				if len(id) != 2 {
					t.Fatalf("no request id to call again with: %s", r.stderr)
				}
				again := runCommand(t, env, append(row.args, "--request-id", id[1], "-o", "json")...)
				again.golden(t, "unknown-again")
			}
		})
	}
}

// Completion scripts are ones that the shells take, and that complete.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			program := harness.Tool(t, shell, "TEAMTOKEN_"+strings.ToUpper(shell), "apt-get install "+shell)
			script := filepath.Join(t.TempDir(), "completion")
			r := runCommand(t, nil, "completion", shell)
			if err := os.WriteFile(script, []byte(r.stdout), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(program, "-n", script).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s", err, out)
			}
			ask := map[string]string{
				"bash": `source "$0"; COMP_WORDS=(teamtoken "${@:1:$#}"); COMP_CWORD=$#; _teamtoken; printf '%s\n' "${COMPREPLY[@]}"`,
				"fish": `source $argv[1]; complete -C "teamtoken $argv[2..]"`,
			}[shell]
			if ask == "" { // zsh's can only be asked from its line editor
				return
			}
			for words, want := range map[string]string{"gen": "generate", "generate --out": "--out", "completion f": "fish", "list --li": "--limit", "get -o --outp": "--output"} {
				args := append([]string{"-c", ask, script}, strings.Fields(words)...)
				if shell == "fish" {
					args = []string{"-c", ask, script, words}
				}
				out, err := exec.Command(program, args...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%q is completed to %q: %v", words, out, err)
				}
			}
		})
	}
}
