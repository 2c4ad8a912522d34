package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"
)

// Binary is the program under test, with the race detector if Raced.
var Binary string

// Main is the TestMain of every package of tests: it builds the program under test, once.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "teamtoken-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	Binary = filepath.Join(dir, "teamtoken-server")
	code := 1
	if err := build(Binary, "server", Raced()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Shipped is the program as it is shipped, without the race detector, whose memory and
// time are its own: for tests of what an attack may cost.
var Shipped = sync.OnceValue(func() string {
	if !Raced() {
		return Binary
	}
	program := Binary + "-shipped"
	if err := build(program, "server", false); err != nil {
		panic(err)
	}
	return program
})

// CommandLine is the client for people, built once.
var CommandLine = sync.OnceValue(func() string {
	program := filepath.Join(filepath.Dir(Binary), "teamtoken")
	if err := build(program, "teamtoken", Raced()); err != nil {
		panic(err)
	}
	return program
})

// build makes a program of cmd.
func build(program, command string, race bool) error {
	out, err := exec.Command("go", "build", fmt.Sprintf("-race=%t", race), "-ldflags", "-X main.version=v0.0.0-test",
		"-o", program, "github.com/teamtoken/teamtoken/cmd/"+command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("building %s: %w\n%s", command, err, out)
	}
	return nil
}

// Raced is whether the programs are built with the race detector: if this test is, or where
// TEAMTOKEN_TEST_RACE says so. Races are looked for in the program; a test binary with the
// detector finds none of those, and takes the processors from it.
func Raced() bool {
	if os.Getenv("TEAMTOKEN_TEST_RACE") == "1" {
		return true
	}
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}
