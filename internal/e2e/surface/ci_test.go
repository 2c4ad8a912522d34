package surface_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// .ci/run says in its last line that known vulnerabilities were not looked for, and
// fails where that is required. Every program but the one that runs `make vuln` is
// replaced by one that does nothing.
func TestWhatWasNotCheckedIsSaid(t *testing.T) {
	t.Parallel()
	const unchecked = "NOT CHECKED: known vulnerabilities (database unreachable)"
	dir := t.TempDir()
	program := func(name, script string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"go", "apt-get", "curl", "jq", "sslscan", "redis-server", "nginx", "promtool", "chromium", "mvn", "zsh", "fish", "systemd-analyze", "gcc", "envoy",
	} {
		program(name, "exit 0")
	}
	program("make", `[ "$1" != vuln ] || exec `+harness.Must(exec.LookPath("make"))+` "$@" VULN=`+dir+`/govulncheck`)
	for _, row := range []struct {
		name, check, required string
		passes, said          bool
	}{
		{"nothing is found", "echo No vulnerabilities found.", "", true, false},
		{"nothing is found, and the check is required", "exit 0", "1", true, false},
		{"something is found", "echo GO-2026-0001; exit 3", "", false, false},
		{"the check does not run", "exit 127", "", false, false},
		{"no database", "echo 'govulncheck: fetching vulnerabilities: no such host' >&2; exit 1", "", true, true},
		{"no database, and none is required", "echo 'govulncheck: fetching vulnerabilities: no such host' >&2; exit 1", "0", true, true},
		{"no database, and the check is required", "echo 'govulncheck: fetching vulnerabilities: no such host' >&2; exit 1", "1", false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			program("govulncheck", row.check)
			cmd := exec.CommandContext(t.Context(), "../../../.ci/run")
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + dir, "VULN_REQUIRED=" + row.required}
			out, err := cmd.CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if (err == nil) != row.passes || strings.Contains(string(out), unchecked) != row.said {
				t.Errorf("%v\n%s", err, out)
			}
			if row.passes && row.said && lines[len(lines)-1] != unchecked {
				t.Errorf("the last line is %q", lines[len(lines)-1])
			}
			if row.passes != strings.Contains(string(out), "== make test") {
				t.Errorf("it goes on: %s", out)
			}
		})
	}
}

// `make test` names each folder of internal/e2e once, so that none is forgotten.
func TestEveryFolderIsTested(t *testing.T) {
	t.Parallel()
	makefile := string(harness.Must(os.ReadFile("../../../Makefile")))
	var named []string
	for _, m := range regexp.MustCompile(`(?m)^E2E_(?:BESIDE|ALONE) +=(.*)$`).FindAllStringSubmatch(makefile, -1) {
		named = append(named, strings.Fields(m[1])...)
	}
	var there []string
	for _, entry := range harness.Must(os.ReadDir("..")) {
		there = append(there, entry.Name())
	}
	slices.Sort(named)
	if !slices.Equal(named, there) {
		t.Errorf("make test runs %v, and there are %v", named, there)
	}
}
