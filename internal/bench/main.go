// Command bench measures what a call of teamtoken costs, as a ratio to the least
// that could be put in its place: a bare grpc-go handler that makes the same
// upstream request, and a bare grpc-gateway in front of it.
//
// It runs the program as shipped, the bare handler and an upstream without delay
// as processes of their own, loads one path at a time, and divides the CPU time
// that the path's process used by the calls that it answered. Paths that are
// compared follow each other at once, round by round, in an order that turns
// round each time; what is judged is the median of the rounds' ratios. The
// processes are started anew a few times in a run, since two processes of one
// program differ by some percent for as long as they live. Times of two runs, or
// of two machines, cannot be compared; the ratios can.
//
// It exits with 1 if a ratio is over its guard, and with 2 if it cannot measure.
// It needs Linux, for the CPU time of other processes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"
)

type options struct {
	rounds, calls, callers int
	limit                  time.Duration
	guardGRPC, guardREST   float64
	server, profile        string
}

func main() {
	var o options
	quick := flag.Bool("quick", false, "a third of the rounds")
	flag.IntVar(&o.rounds, "rounds", 36, "how often each path is loaded, in all")
	flag.IntVar(&o.calls, "calls", 3000, "calls of one path in one round")
	flag.IntVar(&o.callers, "callers", 64, "callers at a time")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "when to end, with the rounds that are done by then")
	flag.Float64Var(&o.guardGRPC, "guard-grpc", 1.37, "the most that gRPC may cost, as a ratio to the bare handler")
	flag.Float64Var(&o.guardREST, "guard-rest", 1.40, "the most that REST may cost, as a ratio to the bare gateway that calls its handler directly")
	flag.StringVar(&o.server, "server", "", "the built `program` to measure, instead of building cmd/server")
	flag.StringVar(&o.profile, "profile", "", "`directory` to write CPU profiles of the program to, when all is measured")
	role := flag.String("role", "", "what to be: the bench starts itself as `upstream` and as bare")
	upstream := flag.String("upstream", "", "`URL` that the bare handler calls")
	flag.Parse()
	if *quick {
		o.rounds = max(1, o.rounds/3)
	}

	var err error
	switch *role {
	case "":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o, os.Stdout)
		stop()
	case "upstream":
		err = serveUpstream()
	case "bare":
		err = serveBare(*upstream)
	default:
		err = fmt.Errorf("no role %q", *role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		if errors.Is(err, errDear) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}

// lives is how often the processes are started in one run.
const lives = 3

// comparison is a path of the program and the bare one that it is held against.
type comparison struct {
	of, against *path
	guard       float64 // 0 has none
}

func run(ctx context.Context, o options, w io.Writer) error {
	program := o.server
	if program == "" {
		dir, err := os.MkdirTemp("", "teamtoken-bench")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		program = filepath.Join(dir, "teamtoken")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/teamtoken/teamtoken/cmd/server") //nolint:gosec // a directory of our own
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building cmd/server: %w", err)
		}
	}
	end := time.Now().Add(o.limit)
	var total rig
	for range lives {
		r, err := newRig(ctx, o, program)
		if err != nil {
			return err
		}
		err = r.measure(ctx, o, (o.rounds+lives-1)/lives, end)
		r.close()
		if err != nil {
			return err
		}
		total.add(r)
	}
	if len(total.grpc.costs) == 0 {
		return errors.New("the time was over before one round was done")
	}
	comparisons := []comparison{
		{total.grpc, total.bareGRPC, o.guardGRPC},
		{total.rest, total.direct, o.guardREST},
		{total.rest, total.dialled, 0},
	}
	if err := report(w, total.paths(), comparisons); err != nil {
		return err
	}
	if o.profile != "" {
		if err := writeProfiles(ctx, o, program); err != nil {
			return err
		}
	}
	return judge(comparisons)
}

func report(w io.Writer, paths []*path, comparisons []comparison) error {
	fmt.Fprintf(w, "%d rounds; medians, and quartiles in brackets\n\n", len(paths[0].costs))
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "path\tCPU µs per call\tallocations per call")
	for _, p := range paths {
		fmt.Fprintf(table, "%s\t%.1f\t%.0f\n", p.name, spreadOf(p.costs, cpuMicros).median, spreadOf(p.costs, allocations).median)
	}
	fmt.Fprintln(table, "\t\t\nratio\tCPU\tallocations\tguard")
	for _, c := range comparisons {
		guard := "none"
		if c.guard > 0 {
			guard = fmt.Sprintf("%.2f", c.guard)
		}
		fmt.Fprintf(table, "%s / %s\t%v\t%v\t%s\n", c.of.name, c.against.name, c.ratio(cpuMicros), c.ratio(allocations), guard)
	}
	return table.Flush()
}

// errDear is what a comparison over its guard ends with.
var errDear = errors.New("dearer than its guard allows")

func judge(comparisons []comparison) error {
	var errs []error
	for _, c := range comparisons {
		if r := c.ratio(cpuMicros).median; c.guard > 0 && r > c.guard {
			errs = append(errs, fmt.Errorf("%s costs %.2f of %s, %w: %.2f", c.of.name, r, c.against.name, errDear, c.guard))
		}
	}
	return errors.Join(errs...)
}
