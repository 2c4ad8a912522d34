// Command cluster runs two replicas of the service that share their state in a
// Redis, in front of one simulator of the upstream and behind one address, for
// trying things out. It promises that it ends as a whole: when it is interrupted,
// or when one part of it ends, no part is left.
//
// redis-server and nginx have to be installed, as Debian packages for example.
package main

import (
	"bufio"
	"context"
	_ "embed" // nginx's configuration, and what is told at the start
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

func main() {
	grpc := flag.String("grpc", "127.0.0.1:9090", "`address` of the replicas' gRPC")
	rest := flag.String("rest", "127.0.0.1:8080", "`address` of the replicas' REST")
	server := flag.String("server", "bin/teamtoken-server", "the built `program`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *grpc, *rest, *server, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

// run runs the cluster until ctx ends, or a part of it does.
func run(ctx context.Context, grpc, rest, server string, out io.Writer) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &cluster{end: cancel, out: out}
	defer c.parts.Wait()
	defer cancel(nil)
	if c.dir, err = os.MkdirTemp("", "teamtoken-cluster"); err != nil {
		return err
	}
	defer func() { c.parts.Wait(); _ = os.RemoveAll(c.dir) }()
	defer cancel(nil)

	sim := simulator.New(simulator.Options{})
	upstream, err := sim.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = sim.Close() }()
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	if _, err := c.start(ctx, "redis", "redis-server", nil,
		"--port", port, "--bind", "127.0.0.1", "--dir", c.dir, "--save", "", "--loglevel", "warning"); err != nil {
		return err
	}
	keys := filepath.Join(c.dir, "state-key.json")
	if text, err := exec.CommandContext(ctx, server, "state-key", "new", keys).CombinedOutput(); err != nil { //nolint:gosec // the program to run
		return fmt.Errorf("%s: %w\n%s", server, err, text)
	}
	var replicas [2]serving
	for i := range replicas {
		lines, err := c.start(ctx, fmt.Sprintf("replica %d", i+1), server, []string{
			"TFE_ADDRESS=" + upstream, "TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
			"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
			"TEAMTOKEN_STATE=redis://127.0.0.1:" + port, "TEAMTOKEN_STATE_KEY_FILE=" + keys,
		})
		if err != nil {
			return err
		}
		if replicas[i], err = awaitServing(ctx, lines); err != nil {
			return err
		}
	}
	conf := filepath.Join(c.dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(proxy(c.dir, grpc, rest, replicas)), 0o600); err != nil {
		return err
	}
	if _, err := c.start(ctx, "nginx", "nginx", nil, "-c", conf, "-p", c.dir, "-e", "stderr"); err != nil {
		return err
	}
	if err := await(ctx, rest); err != nil {
		return err
	}
	fmt.Fprintf(out, welcome, grpc, rest, replicas[0].GRPC, replicas[0].Admin, replicas[1].GRPC, replicas[1].Admin, simulator.SeedTeam)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

//go:embed welcome.txt
var welcome string

//go:embed nginx.conf
var nginx string

// proxy is nginx's configuration: calls go to the replicas in turn, and none is
// repeated, since nginx can't tell what was done.
func proxy(dir, grpc, rest string, replicas [2]serving) string {
	return fmt.Sprintf(nginx, dir, grpc, rest, replicas[0].GRPC, replicas[1].GRPC,
		strings.TrimPrefix(replicas[0].REST, "http://"), strings.TrimPrefix(replicas[1].REST, "http://"))
}

// cluster is the processes that run.
type cluster struct {
	dir   string
	end   context.CancelCauseFunc
	parts sync.WaitGroup

	mu  sync.Mutex
	out io.Writer
}

// grace is how long a part has to end in order.
const grace = 15 * time.Second

// start runs a part until ctx ends, and passes on what it writes, with its name.
// When it ends by itself, all end.
func (c *cluster) start(ctx context.Context, name, program string, env []string, args ...string) (lines <-chan string, err error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("%s is needed: apt-get install redis-server nginx, or make build", program)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // the program to run
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	first := make(chan string, 64)
	c.parts.Go(func() {
		scanner := bufio.NewScanner(r)
		for scanner.Scan() {
			c.mu.Lock()
			fmt.Fprintf(c.out, "%-9s | %s\n", name, scanner.Text())
			c.mu.Unlock()
			select {
			case first <- scanner.Text():
			default:
			}
		}
		_, _ = io.Copy(io.Discard, r) // after a line that is too long
		close(first)
	})
	c.parts.Go(func() {
		err := cmd.Wait()
		_ = w.Close()
		c.end(fmt.Errorf("%s ended: %w", name, errors.Join(err, errEnded)))
	})
	return first, nil
}

var errEnded = errors.New("so all parts do")

// serving is where a replica serves, by its own log.
type serving struct{ Msg, GRPC, REST, Admin string }

func awaitServing(ctx context.Context, lines <-chan string) (serving, error) {
	for line := range lines {
		var s serving
		if json.Unmarshal([]byte(line), &s) == nil && s.Msg == "serving" {
			return s, nil
		}
	}
	return serving{}, fmt.Errorf("a replica does not serve: %w", context.Cause(ctx))
}

// await waits until something listens.
func await(ctx context.Context, address string) error {
	var d net.Dialer
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			tick.Stop()
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return context.Cause(ctx)
		}
	}
}

// freePort is a port for Redis, which can't choose one by itself.
func freePort(ctx context.Context) (string, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
