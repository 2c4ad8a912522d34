package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// written is a new file that holds this.
func written(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// withPolicy are the settings that use the simulator with the service's credential,
// for whom the policy allows.
func withPolicy(t *testing.T, sim *simulator.Simulator, url, policy string, env ...string) settings {
	t.Helper()
	return settings{sim: sim, upstream: url, env: append([]string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE=" + written(t, policy),
	}, env...)}
}

// tool is where a program from outside Go is. Where it is missing the test is
// skipped, unless TEAMTOKEN_TEST_REQUIRE names it.
func tool(t *testing.T, name, variable, how string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if slices.Contains(strings.Split(os.Getenv("TEAMTOKEN_TEST_REQUIRE"), ","), name) {
		t.Fatalf("%s is required here, and not found: %s", name, how)
	}
	t.Skipf("needs %s: %s", name, how)
	return ""
}

// from is a dialer whose connections come from an address of loopback.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
}

// answered is what became of one call, on either surface.
type answered struct {
	code    string // of gRPC, or the HTTP status
	reason  string
	outcome string
	lines   []audit.Record      // of the audit
	sent    []simulator.Request // to the upstream
}

// client makes calls on both surfaces, from one place with one identity.
type client struct {
	f       *facade
	sim     *simulator.Simulator
	conn    *grpc.ClientConn
	http    *http.Client
	rest    string
	headers http.Header // of every call, on both surfaces
}

// as is a client that connects with this TLS, nil for the clear, from this address.
func (f *facade) as(t *testing.T, sim *simulator.Simulator, config *tls.Config, address string, headers ...string) *client {
	t.Helper()
	c := &client{f: f, sim: sim, rest: f.rest, headers: http.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		c.headers.Add(headers[i], headers[i+1])
	}
	dial := from(address).DialContext
	c.conn = f.dialAs(t, config, grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
		return dial(ctx, "tcp", target)
	}))
	c.http = f.browser(t, config)
	c.http.Transport.(*listening).RoundTripper.(*http.Transport).DialContext = dial
	return c
}

// call makes a call of an RPC on a surface, with the fields of its message.
func (c *client) call(t *testing.T, surface string, method protoreflect.MethodDescriptor, fields map[string]any) answered {
	t.Helper()
	if surface == "rest" {
		verb, path, body := restOf(string(method.Name()), fields)
		return c.request(t, verb, "/api/v2"+path, body)
	}
	id, before := requestid.New(), len(c.sim.Requests())
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal(must(json.Marshal(fields)), in); err != nil {
		t.Fatal(err)
	}
	md := metadata.Pairs(requestid.Header, id)
	for name, values := range c.headers {
		md.Append(name, values...)
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), patience)
	defer cancel()
	err := c.conn.Invoke(ctx, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()), in, out)
	d := apierror.FromStatus(status.Convert(err))
	return c.answer(t, id, before, answered{code: status.Code(err).String(), reason: d.Reason, outcome: d.Outcome})
}

// request makes a REST request.
func (c *client) request(t *testing.T, method, path, body string) answered {
	t.Helper()
	id, before := requestid.New(), len(c.sim.Requests())
	req, err := http.NewRequestWithContext(t.Context(), method, c.rest+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range c.headers {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set(requestid.Header, id)
	if body != "" {
		req.Header.Set("Content-Type", "application/vnd.api+json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answered{code: strconv.Itoa(resp.StatusCode)}
	if resp.StatusCode >= 400 {
		e := errorsOf(t, resp)
		a.reason, a.outcome = e.Code, e.Meta.Outcome
	} else if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return c.answer(t, id, before, a)
}

// answer completes a with what the upstream saw and the audit has.
func (c *client) answer(t *testing.T, id string, before int, a answered) answered {
	t.Helper()
	a.sent = c.sim.Requests()[before:]
	done := func(r audit.Record) bool { return r.Event == audit.EventOutcome || r.Event == audit.EventRefusal }
	eventually(t, "the audit has the end of the call", func() bool {
		a.lines = nil
		for _, r := range c.f.audited() {
			if r.RequestID == id {
				a.lines = append(a.lines, r)
			}
		}
		return slices.ContainsFunc(a.lines, done)
	})
	return a
}

// events are those of the audit's lines, in order.
func (a answered) events() string {
	var names []string
	for _, r := range a.lines {
		names = append(names, r.Event)
	}
	return strings.Join(names, " ")
}

// last is the last line of the audit.
func (a answered) last() audit.Record { return a.lines[len(a.lines)-1] }

// workloadAPI is a SPIFFE Workload API that has one certificate, for ever, and CAs
// that may change.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	socket  string
	mu      sync.Mutex
	svid    *workload.X509SVIDResponse
	changed chan struct{}
}

// newWorkloadAPI serves a workload's certificate of a, and a as its trust domain's
// CA, on a socket.
func newWorkloadAPI(t *testing.T, a *authority, id string) (socket string) {
	t.Helper()
	return startWorkloadAPI(t, a, id).socket
}

func startWorkloadAPI(t *testing.T, a *authority, id string) *workloadAPI {
	t.Helper()
	pair := a.holder(t, id).Certificates[0]
	w := &workloadAPI{changed: make(chan struct{}), svid: &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: id, X509Svid: pair.Certificate[0], X509SvidKey: must(x509.MarshalPKCS8PrivateKey(pair.PrivateKey)), Bundle: a.ca.Raw,
	}}}}
	dir := must(os.MkdirTemp("", "spiffe")) // t.TempDir() is too long a name for a socket
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener := must(net.Listen("unix", filepath.Join(dir, "agent.sock")))
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	w.socket = "unix://" + listener.Addr().String()
	return w
}

// trust has the trust domain's CAs be others.
func (w *workloadAPI) trust(cas ...*authority) {
	w.mu.Lock()
	defer w.mu.Unlock()
	svid := proto.CloneOf(w.svid)
	svid.GetSvids()[0].Bundle = nil
	for _, ca := range cas {
		svid.GetSvids()[0].Bundle = append(svid.GetSvids()[0].Bundle, ca.ca.Raw...)
	}
	w.svid = svid
	close(w.changed)
	w.changed = make(chan struct{})
}

// FetchX509SVID tells who says that he asks for it, and goes on until he leaves.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	for {
		w.mu.Lock()
		svid, changed := w.svid, w.changed
		w.mu.Unlock()
		if err := stream.Send(svid); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}
