// Command server is the teamtoken service: TeamTokenService over gRPC, and as the
// upstream's own REST API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // a policy's conditions name time zones, and not every host has them

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/alecthomas/kong"
	"google.golang.org/grpc/grpclog"

	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// version is set by the linker.
var version = "devel"

const (
	// memory is from where on garbage is collected more often than GOGC says, with as
	// many connections as there may be without a setting. Calls alone never take as
	// much; a flood of connections would have the heap grow to five times of what lives.
	memory             = 64 << 20
	defaultConnections = 1024
	// connectionMemory is what one more connection on each listener may take.
	connectionMemory = 2 * 32 << 10
)

// limitMemory is asked once the settings are read; GOMEMLIMIT goes before it.
func limitMemory(connections int) {
	limit := int64(memory + max(0, connections-defaultConnections)*connectionMemory)
	if os.Getenv("GOMEMLIMIT") == "" && debug.SetMemoryLimit(-1) > limit {
		debug.SetMemoryLimit(limit)
	}
}

func main() {
	if os.Getenv("GOGC") == "" {
		// A call leaves some garbage and nothing that lives: the heap is a few
		// megabytes, and twice as much of it costs less than collecting it.
		debug.SetGCPercent(400)
	}
	// In a container, nine tenths of its memory; GOMEMLIMIT goes before that. Its error
	// is that there is no limit.
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup), memlimit.WithRatio(0.9))
	// gRPC's and the gateway's own log quotes what clients send, and is not ours.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	// net/http quotes there what an upstream sends unasked, which may be a token.
	log.SetOutput(io.Discard)
	// A reader of the audit log who goes away is an error to write, and no end.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is the program: 0 after an orderly stop, 1 if it could not start or serve,
// 2 if its settings are wrong. Its subcommands `policy` and `state-key` serve nothing.
func run(args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "policy" {
		return policyCommand(args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == "state-key" {
		return stateKeyCommand(args[1:], stdout, stderr)
	}
	cfg, err := config.Load(args, env, stdout, version)
	switch {
	case errors.Is(err, config.ErrShown):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		return 2
	}
	limitMemory(cfg.MaxConnections)
	// The first signal stops in order, a second one at once: by then it has its
	// default meaning again.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals)
		stop()
	}()

	if err := serve(ctx, cfg, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		if variable := new(telemetry.VariableError); errors.As(err, &variable) {
			return 2
		}
		return 1
	}
	return 0
}

// subcommand runs a command that serves nothing.
func subcommand(name, description string, line any, args []string, stdout, stderr io.Writer) int {
	shown := false
	parser, err := kong.New(line, kong.Name("teamtoken-server "+name), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { shown = true }), kong.BindTo(stdout, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		return 2
	}
	ctx, err := parser.Parse(args)
	if shown {
		return 0
	}
	if err == nil {
		err = ctx.Run()
	}
	switch {
	case errors.Is(err, errDenied):
		return 1
	case err != nil:
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		return 2
	}
	return 0
}
