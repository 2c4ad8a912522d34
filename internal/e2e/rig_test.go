// Package e2e tests the program from outside: the built binary, its listeners,
// real clients, and the simulator for upstream. The rig in this file is the only
// one. Whatever a test does with it, at its end nothing that the program wrote,
// and no error that it answered, may hold a secret.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
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
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// patience bounds every wait for something that is sure to come.
const patience = 30 * time.Second

// binary is the program under test, built with the race detector if the tests are.
var binary string

// shipped is the program as it is shipped, without the race detector, whose memory and
// time are its own: for tests of what an attack may cost.
var shipped = sync.OnceValue(func() string {
	if raced() != "true" {
		return binary
	}
	program := binary + "-shipped"
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=v0.0.0-test", "-o", program, "../../cmd/server").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	return program
})

// raced is how this test was built: the race detector needs a C compiler, and
// not every machine has one.
func raced() string {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value
		}
	}
	return "false"
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "teamtoken-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "teamtoken-server")
	build := exec.Command("go", "build", "-race="+raced(), "-ldflags", "-X main.version=v0.0.0-test", "-o", binary, "../../cmd/server")
	build.Stderr = os.Stderr
	code := 1
	if build.Run() == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// manyTeams is how many the simulator has, for as many changes at a time.
const manyTeams = 256

// newSimulator starts an upstream without a rate limit.
func newSimulator(t *testing.T) (sim *simulator.Simulator, url string) {
	t.Helper()
	return listen(t, simulator.Options{Rate: -1, Teams: manyTeams})
}

// listen serves a simulator until the test ends.
func listen(t *testing.T, o simulator.Options) (sim *simulator.Simulator, url string) {
	t.Helper()
	sim = simulator.New(o)
	url, err := sim.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	return sim, url
}

// facade is a running program, and clients of it.
type facade struct {
	grpc, rest, admin string
	client            teamtokenv1.TeamTokenServiceClient
	conn              *grpc.ClientConn
	http              *http.Client
	tls               *tls.Config // what a client needs; nil in the clear

	cmd            *exec.Cmd
	stdout, stderr output
	exited         chan struct{} // closed when the process has ended
	answers        output        // every error that a caller was given
	terminate      func()        // sends SIGTERM, once: a second one would end the program at once
}

// settings are what a test starts the program with.
type settings struct {
	upstream string // TFE_ADDRESS
	sim      *simulator.Simulator
	env      []string
	args     []string
	tls      *authority
	trusts   *tls.Config // what a client needs, where tls does not say so
	program  string      // other than the one under test
	root     string      // what it sees as its root directory; empty for this machine's
}

// start runs the program until the test ends.
func start(t *testing.T, s settings) *facade {
	t.Helper()
	f := &facade{exited: make(chan struct{})}
	env := []string{
		"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
		"TEAMTOKEN_LOG_LEVEL=debug", "TEAMTOKEN_UPSTREAM_RATE=0",
		"GORACE=atexit_sleep_ms=0", // a second less at every exit; a race that was seen is told all the same
	}
	if s.upstream != "" {
		env = append(env, "TFE_ADDRESS="+s.upstream)
	}
	if s.tls != nil {
		env = append(env, "TEAMTOKEN_TLS_CERT_FILE="+s.tls.certFile, "TEAMTOKEN_TLS_KEY_FILE="+s.tls.keyFile)
		f.tls = s.tls.client()
	}
	if s.trusts != nil {
		f.tls = s.trusts
	}
	f.cmd = exec.Command(cmp.Or(s.program, binary), s.args...)
	f.cmd.Env = append(env, s.env...)
	if s.root != "" {
		f.cmd.SysProcAttr, f.cmd.Dir = jailed(s.root), "/"
	}
	f.cmd.Stdout, f.cmd.Stderr = &f.stdout, &f.stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = f.cmd.Wait(); close(f.exited) }()
	f.terminate = sync.OnceFunc(func() { _ = f.cmd.Process.Signal(syscall.SIGTERM) })
	t.Cleanup(func() {
		metrics := f.metrics()
		f.stop(t, patience)
		if strings.Contains(f.stderr.String(), "DATA RACE") {
			t.Errorf("the race detector:\n%s", f.stderr.String())
		}
		noSecretIn(t, s, f.stdout.String(), f.stderr.String(), f.answers.String(), metrics)
		if t.Failed() {
			t.Logf("the program wrote:\n%s%s", f.stdout.String(), f.stderr.String())
		}
	})

	var serving struct{ Msg, GRPC, REST, Admin string }
	eventually(t, "the program serves", func() bool {
		select {
		case <-f.exited:
			t.Fatalf("the program ended: %s", f.stderr.String())
		default:
		}
		for line := range strings.Lines(f.stderr.String()) {
			if json.Unmarshal([]byte(line), &serving) == nil && serving.Msg == "serving" {
				return true
			}
		}
		return false
	})
	f.grpc, f.rest, f.admin = serving.GRPC, serving.REST, serving.Admin
	if f.tls != nil {
		f.rest = "https://" + strings.Replace(strings.TrimPrefix(f.rest, "https://"), "127.0.0.1", "localhost", 1)
	}
	f.http = f.browser(t, f.tls)
	f.conn = f.dial(t)
	f.client = teamtokenv1.NewTeamTokenServiceClient(f.conn)
	return f
}

// browser is one more client of the REST listener, nil for one in the clear.
func (f *facade) browser(t *testing.T, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     &listening{transport, &f.answers},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dial opens one more connection to the gRPC listener.
func (f *facade) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return f.dialAs(t, f.tls)
}

// dialAs opens one more connection to the gRPC listener, nil for one in the clear.
func (f *facade) dialAs(t *testing.T, config *tls.Config, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(f.grpc, append(options, grpc.WithTransportCredentials(creds),
		grpc.WithUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			err := next(ctx, method, req, reply, cc, opts...)
			if err != nil {
				fmt.Fprintf(&f.answers, "%v\n", err)
			}
			return err
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// withService are the settings that use the simulator with a credential of the
// service's own, for any caller.
func withService(sim *simulator.Simulator, url string) settings {
	return settings{sim: sim, upstream: url, env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
	}}
}

// withCallers are the settings that use the simulator with each caller's own
// credential.
func withCallers(sim *simulator.Simulator, url string) settings {
	return settings{sim: sim, upstream: url, env: []string{"TEAMTOKEN_CREDENTIALS=caller"}}
}

// stop ends the program in order, and returns what it exited with.
func (f *facade) stop(t *testing.T, within time.Duration) int {
	t.Helper()
	f.terminate()
	select {
	case <-f.exited:
	case <-time.After(within):
		_ = f.cmd.Process.Kill()
		t.Errorf("the program did not stop within %v of SIGTERM", within)
	}
	return f.cmd.ProcessState.ExitCode()
}

// metrics is all that the program counts, or nothing if it has ended.
func (f *facade) metrics() string {
	resp, err := http.Get(f.admin + "/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// get is the body of a GET from the admin listener.
func (f *facade) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(f.admin + path)
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

// output is what may be written and read at once.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// listening keeps the errors among the answers, head and body.
type listening struct {
	http.RoundTripper
	errors io.Writer
}

func (l *listening) RoundTrip(r *http.Request) (*http.Response, error) {
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

// eventually waits for what must come true, and fails the test if it does not.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !soon(5*time.Millisecond, ok) {
		t.Fatalf("not within %v: %s", patience, what)
	}
}

// soon reports whether something comes true while there is patience. It is looked at
// each interval.
func soon(interval time.Duration, ok func() bool) bool {
	deadline := time.NewTimer(patience)
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

// authority is a CA, and the certificate of a server and a client made by it.
type authority struct {
	pool                      *x509.CertPool
	caFile, certFile, keyFile string
	pair                      tls.Certificate
	ca                        *x509.Certificate
	caKey                     *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool(), caKey: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, a.caKey.Public(), a.caKey))
	a.ca = must(x509.ParseCertificate(der))
	a.pool.AddCert(a.ca)
	a.caFile = filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, a.caFile, "CERTIFICATE", der)
	a.certFile, a.keyFile = a.issue(t, func(leaf *x509.Certificate) {
		leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	a.pair = must(tls.LoadX509KeyPair(a.certFile, a.keyFile))
	return a
}

// issue makes one more certificate, for a server and a client, valid for as long
// as the CA unless change says otherwise.
func (a *authority) issue(t *testing.T, change func(leaf *x509.Certificate)) (certFile, keyFile string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leaf := &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: a.ca.NotBefore, NotAfter: a.ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(leaf)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, leaf, a.ca, key.Public(), a.caKey)))
	writePEM(t, keyFile, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	return certFile, keyFile
}

// dnsName gives a certificate a name.
func dnsName(name string) func(leaf *x509.Certificate) {
	return func(leaf *x509.Certificate) { leaf.DNSNames = []string{name} }
}

// holder issues a certificate for a client with these SANs, URIs and DNS names,
// and returns what such a client needs.
func (a *authority) holder(t *testing.T, sans ...string) *tls.Config {
	t.Helper()
	certFile, keyFile := a.issue(t, func(leaf *x509.Certificate) {
		for _, san := range sans {
			if strings.Contains(san, "://") {
				leaf.URIs = append(leaf.URIs, must(url.Parse(san)))
				continue
			}
			leaf.DNSNames = append(leaf.DNSNames, san)
		}
	})
	client := a.client()
	client.Certificates = []tls.Certificate{must(tls.LoadX509KeyPair(certFile, keyFile))}
	return client
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// client is what a client of a server of this authority needs.
func (a *authority) client() *tls.Config {
	return &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS12}
}

// audited are the lines of the audit log that the program wrote to standard output.
func (f *facade) audited() []audit.Record {
	var lines []audit.Record
	for line := range strings.Lines(f.stdout.String()) {
		var r audit.Record
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &r) == nil && r.Event != "" {
			lines = append(lines, r)
		}
	}
	return lines
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(errors.Join(errors.New("the rig"), err))
	}
	return v
}
