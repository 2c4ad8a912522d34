package harness

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// Long is whether there are minutes to spend.
var Long = os.Getenv("TEAMTOKEN_LONG") != ""

// Request is one over REST for the token of a team.
func (f *Server) Request(ctx context.Context, method, team string, credential secret.Text) *http.Request {
	req := Must(http.NewRequestWithContext(ctx, method, f.REST+"/api/v2/teams/"+team+"/authentication-token", nil))
	if !credential.IsZero() {
		req.Header.Set("Authorization", "Bearer "+credential.Reveal())
	}
	return req
}

// Patience bounds every wait for something that is sure to come.
const Patience = 30 * time.Second

// ManyTeams is how many the simulator has, for as many changes at a time.
const ManyTeams = 256

// NewSimulator starts an upstream without a rate limit.
func NewSimulator(t *testing.T) (sim *simulator.Simulator, url string) {
	t.Helper()
	return Listen(t, simulator.Options{Rate: -1, Teams: ManyTeams})
}

// Listen serves a simulator until the test ends.
func Listen(t *testing.T, o simulator.Options) (sim *simulator.Simulator, url string) {
	t.Helper()
	sim = simulator.New(o)
	url, err := sim.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close(); scanners.Delete(sim) })
	return sim, url
}

// Server is a running program, and clients of it.
type Server struct {
	GRPC, REST, Admin string
	Client            teamtokenv1.TeamTokenServiceClient
	Conn              *grpc.ClientConn
	HTTP              *http.Client
	TLS               *tls.Config // what a client needs; nil in the clear

	Cmd            *exec.Cmd
	Stdout, Stderr Output
	Exited         chan struct{} // closed when the process has ended
	Answers        Output        // every error that a caller was given
	Terminate      func()        // sends SIGTERM, once: a second one would end the program at once

	audit struct { // what Audited has decoded
		mu    sync.Mutex
		read  int // bytes
		lines []audit.Record
	}
}

// Settings are what a test starts the program with.
type Settings struct {
	Upstream string // TFE_ADDRESS
	Sim      *simulator.Simulator
	Env      []string
	Args     []string
	TLS      *Authority
	Trusts   *tls.Config // what a client needs, where tls does not say so
	Program  string      // other than the one under test
	Root     string      // what it sees as its root directory; empty for this machine's
}

// Start runs the program until the test ends.
func Start(t *testing.T, s Settings) *Server {
	t.Helper()
	f := &Server{Exited: make(chan struct{})}
	env := []string{
		"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
		"TEAMTOKEN_LOG_LEVEL=debug", "TEAMTOKEN_UPSTREAM_RATE=0",
		"GORACE=atexit_sleep_ms=0", // a second less at every exit; a race that was seen is told all the same
	}
	if s.Upstream != "" {
		env = append(env, "TFE_ADDRESS="+s.Upstream)
	}
	if s.TLS != nil {
		env = append(env, "TEAMTOKEN_TLS_CERT_FILE="+s.TLS.CertFile, "TEAMTOKEN_TLS_KEY_FILE="+s.TLS.KeyFile)
		f.TLS = s.TLS.Client()
	}
	if s.Trusts != nil {
		f.TLS = s.Trusts
	}
	f.Cmd = exec.Command(cmp.Or(s.Program, Binary), s.Args...)
	f.Cmd.Env = append(env, s.Env...)
	if s.Root != "" {
		f.Cmd.SysProcAttr, f.Cmd.Dir = Jailed(s.Root), "/"
	}
	f.Cmd.Stdout, f.Cmd.Stderr = &f.Stdout, &f.Stderr
	if err := f.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = f.Cmd.Wait(); close(f.Exited) }()
	f.Terminate = sync.OnceFunc(func() { _ = f.Cmd.Process.Signal(syscall.SIGTERM) })
	t.Cleanup(func() {
		metrics := f.Metrics()
		f.Stop(t, Patience)
		if strings.Contains(f.Stderr.String(), "DATA RACE") {
			t.Errorf("the race detector:\n%s", f.Stderr.String())
		}
		NoSecretIn(t, s, f.Stdout.String(), f.Stderr.String(), f.Answers.String(), metrics, auditFile(f.Cmd.Env))
		if t.Failed() {
			t.Logf("the program wrote:\n%s%s", f.Stdout.String(), f.Stderr.String())
		}
	})

	var serving struct{ Msg, GRPC, REST, Admin string }
	Eventually(t, "the program serves", func() bool {
		select {
		case <-f.Exited:
			t.Fatalf("the program ended: %s", f.Stderr.String())
		default:
		}
		for line := range strings.Lines(f.Stderr.String()) {
			if json.Unmarshal([]byte(line), &serving) == nil && serving.Msg == "serving" {
				return true
			}
		}
		return false
	})
	f.GRPC, f.REST, f.Admin = serving.GRPC, serving.REST, serving.Admin
	if f.TLS != nil {
		f.REST = "https://" + strings.Replace(strings.TrimPrefix(f.REST, "https://"), "127.0.0.1", "localhost", 1)
	}
	f.HTTP = f.NewHTTPClient(t, f.TLS)
	f.Conn = f.Dial(t)
	f.Client = teamtokenv1.NewTeamTokenServiceClient(f.Conn)
	return f
}

// auditFile is what stands in the file that a program writes its audit to, if it is one.
func auditFile(env []string) string {
	for _, variable := range slices.Backward(env) {
		if file, is := strings.CutPrefix(variable, "TEAMTOKEN_AUDIT_FILE="); is {
			if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
				return ""
			}
			content, _ := os.ReadFile(file) // which may be none of ours to read
			return string(content)
		}
	}
	return ""
}

// NewHTTPClient is one more client of the REST listener, nil for one in the clear.
func (f *Server) NewHTTPClient(t *testing.T, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     &RecordingTransport{transport, &f.Answers},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Dial opens one more connection to the gRPC listener.
func (f *Server) Dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return f.DialAs(t, f.TLS)
}

// DialAs opens one more connection to the gRPC listener, nil for one in the clear.
func (f *Server) DialAs(t *testing.T, config *tls.Config, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(f.GRPC, append(options, grpc.WithTransportCredentials(creds),
		grpc.WithUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			err := next(ctx, method, req, reply, cc, opts...)
			if err != nil {
				fmt.Fprintf(&f.Answers, "%v\n", err)
			}
			return err
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Stop ends the program in order, and returns what it exited with.
func (f *Server) Stop(t *testing.T, within time.Duration) int {
	t.Helper()
	f.Terminate()
	select {
	case <-f.Exited:
	case <-time.After(within):
		_ = f.Cmd.Process.Kill()
		t.Errorf("the program did not stop within %v of SIGTERM", within)
	}
	return f.Cmd.ProcessState.ExitCode()
}

// Metrics is all that the program counts, or nothing if it has ended.
func (f *Server) Metrics() string {
	resp, err := http.Get(f.Admin + "/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// Get is the body of a GET from the admin listener.
func (f *Server) Get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(f.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Output is what may be written and read at once.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// from is what stands after so many bytes.
func (o *Output) from(at int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.b.Bytes()[at:])
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// RecordingTransport keeps the errors among the answers, head and body.
type RecordingTransport struct {
	http.RoundTripper
	errors io.Writer
}

// RoundTrip makes a request.
func (l *RecordingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode < 400 {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	fmt.Fprintf(l.errors, "%v %v %s\n", resp.Status, resp.Header, body)
	return resp, err
}

// Eventually waits for what must come true, and fails the test if it does not.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !Soon(5*time.Millisecond, ok) {
		t.Fatalf("not within %v: %s", Patience, what)
	}
}

// Soon reports whether something comes true while there is patience. It is looked at
// each interval.
func Soon(interval time.Duration, ok func() bool) bool {
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// Audited are the lines of the audit log that the program wrote to standard output. Each is
// decoded once: tests that make thousands of calls ask after every one.
func (f *Server) Audited() []audit.Record {
	f.audit.mu.Lock()
	defer f.audit.mu.Unlock()
	whole := f.Stdout.from(f.audit.read)
	whole = whole[:strings.LastIndexByte(whole, '\n')+1]
	f.audit.read += len(whole)
	for line := range strings.Lines(whole) {
		var r audit.Record
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &r) == nil && r.Event != "" {
			f.audit.lines = append(f.audit.lines, r)
		}
	}
	return slices.Clip(f.audit.lines)
}

// Must is for what fails only if the machine does: it panics.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(errors.Join(errors.New("the harness"), err))
	}
	return v
}
