package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Link points a symbolic link elsewhere, without a moment in which it is not there.
func Link(t *testing.T, to, at string) {
	t.Helper()
	if err := errors.Join(os.Symlink(to, at+".next"), os.Rename(at+".next", at)); err != nil {
		t.Fatal(err)
	}
}

// Volume is a directory of files that are replaced while they are read.
type Volume struct {
	Dir        string
	Kubernetes bool // by one swap of a symbolic link, for all files at once
	generation int
}

// File is where one of the files is.
func (v *Volume) File(name string) string { return filepath.Join(v.Dir, name) }

// Publish replaces all files. A reader sees of each the old or the new content,
// and never a part of it.
func (v *Volume) Publish(t *testing.T, files map[string]string) {
	t.Helper()
	v.generation++
	if !v.Kubernetes {
		for name, content := range files {
			next := v.File("." + name)
			if err := errors.Join(os.WriteFile(next, []byte(content), 0o600), os.Rename(next, v.File(name))); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	data := fmt.Sprintf("..generation-%d", v.generation)
	if err := os.Mkdir(v.File(data), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(v.Dir, data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(v.File(name)); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join("..data", name), v.File(name)); err != nil {
			t.Fatal(err)
		}
	}
	Link(t, data, v.File("..data"))
	if err := os.RemoveAll(v.File(fmt.Sprintf("..generation-%d", v.generation-1))); err != nil {
		t.Fatal(err)
	}
}

// Reloads counts how often the program's log says this of a setting's file.
func (f *Server) Reloads(message, setting string) (n int) {
	for line := range strings.Lines(f.Stderr.String()) {
		var l struct{ Msg, Setting string }
		if !strings.Contains(line, message) { // there may be very many
			continue
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == message && l.Setting == setting {
			n++
		}
	}
	return n
}

// What the program's log says of a file that was replaced.
const (
	InUse  = "a changed file is in use"
	NotUse = "a changed file cannot be used, the last good one stays in use"
)

// After does something to files, and waits until the program's log says this of
// each of the settings anew.
func (f *Server) After(t *testing.T, message string, settings []string, do func()) {
	t.Helper()
	before := make(map[string]int)
	for _, s := range settings {
		before[s] = f.Reloads(message, s)
	}
	do()
	for _, s := range settings {
		Eventually(t, s+": "+message, func() bool { return f.Reloads(message, s) > before[s] })
	}
}

// The files that are rotated, and the settings by which the program's log calls
// them.
const (
	ServerPair  = "TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE"
	ClientCAs   = "TEAMTOKEN_TLS_CLIENT_CA_FILE"
	IssuerKeys  = "TEAMTOKEN_JWT_KEYS_FILE"
	PolicyFile  = "TEAMTOKEN_POLICY_FILE"
	Credential  = "TFE_TOKEN_FILE"
	UpstreamCAs = "TFE_CA_FILE"
)

// The callers who make the load, and who are allowed in every generation of the files.
const (
	ByCertificate = "spiffe://teamtoken.test/load"
	ByJWT         = "load"
	JWTIssuer     = "https://issuer.teamtoken.test"
	JWTAudience   = "teamtoken"
)
