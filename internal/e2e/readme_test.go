package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command of the README is typed as it stands, but for the ports, and
// answers what the README says. Those of `make` are this test's own frame.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("the README's commands need curl")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-modfile=../../tools/grpcurl/go.mod", "-o", filepath.Join(bin, "grpcurl"),
		"github.com/fullstorydev/grpcurl/cmd/grpcurl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(bin, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(bin, "bin", "teamtoken")); err != nil {
		t.Fatal(err)
	}
	f := start(t, settings{args: []string{"--simulator"}})

	readme := string(must(os.ReadFile("../../README.md")))
	answers := []struct{ command, answer string }{
		{"make run", ""},
		{"make test", ""},
		{"grpcurl", `"secret":`},
		{"curl --request POST", `"type":"authentication-tokens"`},
		{"curl --request DELETE", "204"},
		{"make build", ""},
		{"TFE_TOKEN_FILE=", "TFE_TOKEN_FILE: open /run/secrets/tfe-token"},
		{"TFE_ADDRESS=", "TEAMTOKEN_TLS_KEY_FILE: open tls.crt"},
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
		command = strings.NewReplacer("localhost:9090", f.grpc, "http://localhost:8080", f.rest, "curl \\\n", "curl -s -w '%{http_code}' \\\n").
			Replace(command)
		sh := exec.CommandContext(t.Context(), "sh", "-c", command)
		sh.Dir = bin
		sh.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "TOKEN=whatever",
			"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0")
		out, _ := sh.CombinedOutput()
		if !strings.Contains(string(out), want.answer) {
			t.Errorf("%s\nanswers %s\nwithout %s", command, out, want.answer)
		}
	}
	for _, told := range []string{"grpcurl -plaintext", "curl --request POST", f.rest[len("http://127.0.0.1"):], "Stop with Ctrl-C"} {
		if !strings.Contains(f.stdout.String(), told) {
			t.Errorf("what is printed at start does not say %q:\n%s", told, f.stdout.String())
		}
	}
}
