package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/seal"
)

// The file of keys is made once, changed in place, and never shown or readable by
// others.
func TestStateKeyCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		args []string
		code int
		said string
	}{
		{"a new file", []string{"new", file}, 0, ""},
		{"not over one that is there", []string{"new", file}, 2, "file exists"},
		{"a further key", []string{"add", file}, 0, ""},
		{"which seals now", []string{"promote", file}, 0, ""},
		{"alone", []string{"drop", file}, 0, ""},
		{"a file that is none", []string{"add", bad}, 2, "it is no keyset"},
		{"no file", []string{"promote", filepath.Join(t.TempDir(), "none")}, 2, "no such file"},
		{"no command", nil, 2, "expected one of"},
		{"help", []string{"--help"}, 0, ""},
	} {
		var stdout, stderr strings.Builder
		code := run(append([]string{"state-key"}, row.args...), func(string) (string, bool) { return "", false }, &stdout, &stderr)
		if code != row.code || !strings.Contains(stderr.String(), row.said) {
			t.Errorf("%s: %d, %s", row.name, code, stderr.String())
		}
		if strings.Contains(stdout.String()+stderr.String(), "keyData") {
			t.Errorf("%s: a key is shown", row.name)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Parse(content); err != nil || strings.Count(string(content), "keyData") != 1 {
		t.Errorf("one key is left: %v", err)
	}
}
