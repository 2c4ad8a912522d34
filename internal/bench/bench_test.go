package main_test

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBench runs the bench as `make bench` does, for a moment: what it measures
// in that time is noise, and what it says of it must still be right.
func TestBench(t *testing.T) {
	bench := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", bench, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := filepath.Join(t.TempDir(), "teamtoken")
	if out, err := exec.Command("go", "build", "-o", server, "../../cmd/server").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct {
		name   string
		args   []string
		exit   int
		stdout string
		stderr string
	}{
		{"within its guards", []string{"-server", server, "-guard-grpc", "1000", "-guard-rest", "1000"}, 0, "teamtoken REST / bare gateway, direct", ""},
		{"builds the program if none is given", []string{"-guard-grpc", "1000", "-guard-rest", "1000"}, 0, "teamtoken gRPC / bare gRPC", ""},
		{"gRPC over its guard", []string{"-server", server, "-guard-grpc", "0.001", "-guard-rest", "1000"}, 1, "teamtoken gRPC / bare gRPC", "teamtoken gRPC costs"},
		{"REST over its guard", []string{"-server", server, "-guard-grpc", "1000", "-guard-rest", "0.001"}, 1, "teamtoken gRPC / bare gRPC", "teamtoken REST costs"},
		{"a program that does not serve", []string{"-server", "/bin/false"}, 2, "", "does not serve"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, bench, append([]string{"-rounds", "2", "-calls", "100"}, tt.args...)...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.exit {
				t.Errorf("exit code %d, want %d", got, tt.exit)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("want %q and %q in\n%s\n%s", tt.stdout, tt.stderr, &stdout, &stderr)
			}
		})
	}
}
