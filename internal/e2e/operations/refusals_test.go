package operations_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// refusedCalls is a kind of call that is refused before its attempt.
type refusedCalls struct {
	name, caller, surface string
	message               []byte // over gRPC
}

var refusedKinds = []refusedCalls{
	{"unknown callers over gRPC", "", "grpc", harness.Frame(harness.Text(1, harness.Team))},
	{"unknown callers over REST", "", "rest", nil},
	{"a caller whom the policy denies, over gRPC", harness.NoisyCaller, "grpc", harness.Frame(harness.Text(1, harness.Team))},
	{"a caller whom the policy denies, over REST", harness.NoisyCaller, "rest", nil},
	{"malformed calls", harness.NoisyCaller, "grpc", harness.Frame([]byte{0xff})},
}

// flood makes calls of a kind until ctx ends, and returns how many were refused. One
// that was not answered fails the test.
func (k refusedCalls) flood(ctx context.Context, t *testing.T, f *harness.Server, client *http.Client) (refused int) {
	for ctx.Err() == nil {
		target := "http://" + f.GRPC + harness.Generate
		if k.surface == "rest" {
			target = f.REST + harness.TokenPath
		}
		req := harness.Must(http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, target, bytes.NewReader(k.message)))
		if k.surface == "grpc" {
			req.Header.Set("Content-Type", "application/grpc")
			req.Header.Set("Te", "trailers")
		}
		if k.caller != "" {
			req.Header.Set("X-Forwarded-Client-Cert", "URI="+k.caller)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
			return refused
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		grpcStatus := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status")
		if k.surface == "rest" && resp.StatusCode < 400 || k.surface == "grpc" && (grpcStatus == "" || grpcStatus == "0") {
			t.Errorf("%s: %s, status %q", k.name, resp.Status, grpcStatus)
			return refused
		}
		refused++
	}
	return refused
}

// client is one for calls of the kind, any number of them at once.
func (k refusedCalls) client(t *testing.T) *http.Client {
	t.Helper()
	if k.surface == "grpc" {
		return harness.HTTP2(t)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: harness.Patience}
}

// slowPipe is a named pipe whose reader takes pieces of it, with a pause after each.
func slowPipe(t *testing.T, piece int, pause time.Duration) (path string, text func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := harness.Must(os.OpenFile(path, os.O_RDWR, 0)) // so that it has no end before the program's
	var got harness.Output
	var reading sync.WaitGroup
	var hurry atomic.Bool
	reading.Go(func() {
		b := make([]byte, piece)
		for {
			n, err := pipe.Read(b)
			_, _ = got.Write(b[:n])
			if err != nil {
				return
			}
			if !hurry.Load() {
				time.Sleep(pause)
			}
		}
	})
	t.Cleanup(func() { _ = pipe.Close(); reading.Wait() })
	return path, func() string {
		hurry.Store(true)
		_ = pipe.SetReadDeadline(time.Now().Add(2 * time.Second)) // once the program has ended, the rest is in the pipe
		reading.Wait()
		return got.String()
	}
}

// slowCollector takes its time for each export.
type slowCollector struct {
	logCollector
	pause time.Duration
}

func (c *slowCollector) Export(ctx context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	time.Sleep(c.pause)
	return c.logCollector.Export(ctx, req)
}

// While callers who are refused make as many calls as they can, to whatever sink, an
// honest one is served, its lines are all there, the program is ready, and the log
// tells of exactly as many refusals as there were.
func TestAFloodOfRefusals(t *testing.T) {
	last := 2 * time.Second
	if harness.Long {
		last = time.Minute
	}
	for _, sink := range []struct {
		name string
		open func(t *testing.T) (destination string, env []string, text func() string)
	}{
		{"a file", func(t *testing.T) (string, []string, func() string) {
			path := filepath.Join(t.TempDir(), "audit")
			return path, nil, func() string { return string(harness.Must(os.ReadFile(path))) }
		}},
		{"a file held by the disk", func(t *testing.T) (string, []string, func() string) {
			path := filepath.Join(t.TempDir(), "audit")
			return path, []string{"TEAMTOKEN_AUDIT_SYNC=true"}, func() string { return string(harness.Must(os.ReadFile(path))) }
		}},
		{"standard output", func(*testing.T) (string, []string, func() string) { return audit.Stdout, nil, nil }},
		{"a pipe that is read slowly", func(t *testing.T) (string, []string, func() string) {
			path, text := slowPipe(t, 1<<10, 50*time.Millisecond) // 20 KiB a second
			return path, nil, text
		}},
		{"a pipe that is read now and then", func(t *testing.T) (string, []string, func() string) {
			path, text := slowPipe(t, 1<<16, time.Second)
			return path, nil, text
		}},
		{"a slow collector", func(t *testing.T) (string, []string, func() string) {
			c := &slowCollector{pause: 50 * time.Millisecond}
			at := serveLogs(t, c)
			return audit.OTLP, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + at}, func() string {
				slices.Sort(c.bodies) // an export whose answer came too late is made again, the same to the letter
				return strings.Join(slices.Compact(c.bodies), "")
			}
		}},
	} {
		t.Run(sink.name, func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			destination, env, text := sink.open(t)
			f := harness.Start(t, auditTo(harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.HonestCaller), append(env,
				"TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32")...), destination))
			if text == nil {
				text = f.Stdout.String
			}
			flood, end := context.WithTimeout(t.Context(), last)
			defer end()
			var calls sync.WaitGroup
			refused := make([]int, len(refusedKinds))
			var mu sync.Mutex
			for i, k := range refusedKinds {
				client := k.client(t)
				for range 60 { // at once, so that their lines are more than a slow sink takes in the time that an attempt waits
					calls.Go(func() {
						n := k.flood(flood, t, f, client)
						mu.Lock()
						defer mu.Unlock()
						refused[i] += n
					})
				}
			}
			honest := 0
			calls.Go(func() {
				for flood.Err() == nil {
					ctx := metadata.AppendToOutgoingContext(marked(t.Context(), fmt.Sprintf("honest-%d", honest)), "x-forwarded-client-cert", "URI="+harness.HonestCaller)
					if _, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}); err != nil {
						t.Errorf("honest call %d: %v", honest, err)
						return
					}
					honest++
				}
			})
			calls.Go(func() {
				for flood.Err() == nil {
					if code, body := f.Get(t, "/readyz"); code != http.StatusOK {
						t.Errorf("not ready: %d %s", code, body)
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
			late := lateIn(t, f, sim)
			calls.Wait()
			late()
			f.Stop(t, harness.Patience)

			lines := linesIn(text())
			counted := map[string]int{}
			byID := map[string]string{}
			for _, r := range lines {
				switch r.Event {
				case audit.EventRefusal:
					counted[r.Caller+" "+r.Surface]++
				case audit.EventRefusals:
					counted[r.Caller+" "+r.Surface] += r.Count
				default:
					byID[r.RequestID] += r.Event + " "
				}
			}
			want, sum := map[string]int{}, 0
			for i, k := range refusedKinds {
				sum += refused[i]
				want[k.caller+" "+k.surface] += refused[i]
				if refused[i] == 0 {
					t.Errorf("%s: none was made", k.name)
				}
			}
			if !maps.Equal(counted, want) { // whatever the reasons: of so many calls, some are over the caller's share
				t.Errorf("the log tells of %v, and there were %v", counted, want)
			}
			for i := range honest {
				if id := fmt.Sprintf("honest-%d", i); byID[id] != "attempt outcome " {
					t.Errorf("%s left %q", id, byID[id])
				}
			}
			if byID["left"] != "attempt outcome late " {
				t.Errorf("who left: %q", byID["left"])
			}
			if n := len(linesIn(f.Stderr.String())); n != 0 {
				t.Errorf("%d lines are on standard error", n)
			}
			if n := strings.Count(f.Stderr.String(), `"msg":"call"`); n > 4000+2*honest { // of two budgets
				t.Errorf("the program's log has %d calls", n)
			}
			t.Logf("%d refused, %d lines, %d honest calls", sum, len(lines), honest)
		})
	}
}

// lateIn has a caller leave whose change is made later: when the function that is
// returned is called.
func lateIn(t *testing.T, f *harness.Server, sim *simulator.Simulator) (finish func()) {
	t.Helper()
	release := make(chan struct{})
	other := simulator.Teams()[1].ID
	fault := sim.Inject(simulator.Fault{Path: "teams/" + other + "/authentication-token", Hold: release, Apply: simulator.ApplyLate})
	ctx, leave := context.WithCancel(metadata.AppendToOutgoingContext(marked(t.Context(), "left"), "x-forwarded-client-cert", "URI="+harness.HonestCaller))
	var call sync.WaitGroup
	call.Go(func() {
		if _, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: other}); status.Code(err) != codes.Canceled {
			t.Errorf("the caller left: %v", err)
		}
	})
	select {
	case <-fault.Hit():
	case <-time.After(harness.Patience):
		t.Error("the caller who is to leave is not served")
	}
	leave()
	call.Wait()
	harness.Eventually(t, "the program has noticed who left", func() bool { return strings.Contains(f.Stderr.String(), `"request_id":"left"`) })
	return func() {
		close(release)
		select {
		case <-fault.Done():
		case <-time.After(harness.Patience):
			t.Error("the late change is not made")
		}
	}
}

// A sink that takes nothing any more is told of by the attempts, as ever; the refusals
// that come meanwhile are counted, and told of when it takes lines again.
func TestRefusalsWhileTheAuditIsBlocked(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "audit")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := harness.Must(os.OpenFile(fifo, os.O_RDWR, 0))
	defer pipe.Close()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, auditTo(harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.HonestCaller),
		"TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32"), fifo))
	refused := 0
	var mu sync.Mutex
	flood := func() {
		ctx, end := context.WithTimeout(t.Context(), 3*time.Second)
		defer end()
		var calls sync.WaitGroup
		for range 4 {
			for _, k := range refusedKinds {
				client := k.client(t)
				calls.Go(func() {
					n := k.flood(ctx, t, f, client)
					mu.Lock()
					defer mu.Unlock()
					refused += n
				})
			}
		}
		calls.Wait()
	}
	flood()
	ready(t, f, true) // nobody has tried anything else
	honest := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-client-cert", "URI="+harness.HonestCaller)
	var err error
	for range 1000 { // far more than the pipe holds
		if _, err = f.Client.GetToken(honest, &teamtokenv1.GetTokenRequest{TeamId: harness.Team}); status.Code(err) != codes.NotFound {
			break
		}
	}
	if harness.Details(err).Reason != "AUDIT_UNAVAILABLE" {
		t.Fatalf("an attempt that can't be written: %v", err)
	}
	ready(t, f, false)
	flood()

	var got harness.Output
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&got, pipe) })
	ready(t, f, true)
	f.Stop(t, harness.Patience)
	_ = pipe.SetReadDeadline(time.Now().Add(2 * time.Second))
	reading.Wait()
	told := 0
	for _, r := range linesIn(got.String()) {
		switch {
		case r.Event == audit.EventRefusals:
			told += r.Count
		case r.Event == audit.EventRefusal && r.Reason != "AUDIT_UNAVAILABLE":
			told++
		}
	}
	if told != refused {
		t.Errorf("the log tells of %d refusals of %d", told, refused)
	}
	t.Logf("%d refused", refused)
}

// serveLogs has a collector listen until the test ends.
func serveLogs(t *testing.T, c collectorv1.LogsServiceServer) (address string) {
	t.Helper()
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	server := grpc.NewServer()
	collectorv1.RegisterLogsServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return listener.Addr().String()
}
