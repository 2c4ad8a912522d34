package limits_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// maxMemory is what the program may take, in MiB, whatever peers open who have not
// said who they are.
const maxMemory = 120

// protection is of the listeners by TLS.
type protection int

const (
	plain    protection = iota
	oneSided            // no client needs a certificate
	mutual
)

// hoards are ways to take a listener's connections and keep them, by peers whom
// nobody knows. Each peer does it anew when its connection ends.
var hoards = []struct {
	name string
	tls  protection
	do   func(p *peer)
}{
	{"health watches", plain, func(p *peer) { p.streams(1, "/grpc.health.v1.Health/Watch", harness.Frame(nil)) }},
	{"health watches of what is not there", plain, func(p *peer) {
		p.streams(1, "/grpc.health.v1.Health/Watch", harness.Frame(harness.Text(1, "none")))
	}},
	{"reflection", plain, func(p *peer) {
		p.streams(1, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", harness.Frame(harness.Text(4, "teamtoken.v1.TeamTokenService")))
	}},
	{"many health watches", plain, func(p *peer) { p.streams(100, "/grpc.health.v1.Health/Watch", harness.Frame(nil)) }},
	{"calls without a message", plain, func(p *peer) { p.streams(20, harness.Get, nil) }},
	{"gRPC without a call", plain, func(p *peer) { p.streams(0, "", nil) }},
	{"gRPC that pings", plain, func(p *peer) {
		for s := p.speak(true); s.goesOn(); s.flush() {
			s.try(s.fr.WritePing(false, [8]byte{1}))
		}
	}},
	{"calls of nobody over gRPC", plain, func(p *peer) {
		for s := p.speak(true); s.goesOn(); s.flush() {
			id := s.headers(s.call(), false)
			s.try(s.fr.WriteData(id, true, harness.Frame(harness.Text(1, harness.Team))))
		}
	}},
	{"health checks whose answers nobody has room for", plain, func(p *peer) {
		s := p.speak(true, h2.Setting{ID: h2.SettingInitialWindowSize, Val: 0})
		for range 50 {
			s.try(s.fr.WriteData(s.headers(s.to("/grpc.health.v1.Health/Check"), false), true, harness.Frame(nil)))
		}
		s.flush()
		<-s.ended
	}},
	{"long headers over gRPC", plain, func(p *peer) {
		s := p.speak(true)
		for range 4 {
			s.headers(append(s.to(harness.Get), s.encode(hpack.HeaderField{Name: "x-padding", Value: strings.Repeat("x", 16000), Sensitive: true})...), false)
		}
		s.flush()
		<-s.ended
	}},
	{"pings over REST", plain, func(p *peer) {
		conn := p.dial(p.rest)
		if conn == nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for p.say(conn, "GET /api/v2/ping HTTP/1.1\r\nHost: teamtoken.test\r\n\r\n") && p.wait() {
		}
	}},
	{"requests of nobody over REST", plain, func(p *peer) {
		conn := p.dial(p.rest)
		if conn == nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for p.say(conn, "GET "+harness.TokenPath+" HTTP/1.1\r\nHost: teamtoken.test\r\n\r\n") && p.wait() {
		}
	}},
	{"half a header over REST", plain, func(p *peer) {
		p.half(p.rest, "GET / HTTP/1.1\r\nHost: teamtoken.test\r\nX-Padding: "+strings.Repeat("x", 8000))
	}},
	{"long headers over REST", plain, func(p *peer) {
		p.half(p.rest, "GET / HTTP/1.1\r\nHost: teamtoken.test\r\nX-Padding: "+strings.Repeat("x", 200<<10))
	}},
	{"half a body over REST", plain, func(p *peer) {
		p.half(p.rest, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: teamtoken.test\r\nContent-Type: %s\r\nContent-Length: 65536\r\n\r\n", harness.TokenPath, harness.JSONAPI)+strings.Repeat(" ", 60000))
	}},
	{"a list of headers that unpacks, and never ends, over gRPC", plain, func(p *peer) {
		s := p.speak(true)
		s.headers(append(s.to(harness.Get), unpacking(14000)...), true)
		s.flush()
		<-s.ended
	}},
	{"lists of headers that unpack over gRPC", plain, func(p *peer) {
		s := p.speak(true)
		for range 2 {
			s.headers(append(s.to(harness.Get), unpacking(14000)...), false)
		}
		s.flush()
		<-s.ended
	}},
	{"many small headers over REST", plain, func(p *peer) {
		p.half(p.rest, "GET / HTTP/1.1\r\nHost: teamtoken.test\r\n"+manySmall(100<<10))
	}},
	{"many small headers and half a body over REST", plain, func(p *peer) {
		p.half(p.rest, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: teamtoken.test\r\nContent-Type: %s\r\nContent-Length: 65536\r\n", harness.TokenPath, harness.JSONAPI)+manySmall(100<<10)+"\r\n ")
	}},
	{"lists of headers that unpack over REST", oneSided, func(p *peer) {
		s := p.speakREST()
		for range 2 {
			s.headers(append(s.request(), unpacking(14000)...), false)
		}
		s.flush()
		<-s.ended
	}},
	{"a list of headers that unpacks, and never ends, over REST", oneSided, func(p *peer) {
		s := p.speakREST()
		s.headers(s.request(), false)
		s.headers(append(s.request(), unpacking(14000)...), true)
		s.flush()
		<-s.ended
	}},
	{"nothing at all", plain, func(p *peer) { p.half(p.grpc, "") }},
	{"half a preface", plain, func(p *peer) { p.half(p.grpc, h2.ClientPreface[:10]) }},
	{"one byte of a handshake, gRPC", mutual, func(p *peer) { p.half(p.grpc, "\x16") }},
	{"one byte of a handshake, REST", mutual, func(p *peer) { p.half(p.rest, "\x16") }},
	{"half of a long handshake", mutual, func(p *peer) {
		p.half(p.grpc, "\x16\x03\x01\x40\x00\x01\x00\xff\x00"+strings.Repeat("x", 16<<10-4)+"\x16\x03\x01\x40\x00"+strings.Repeat("x", 16<<10-100))
	}},
}

// storms are those whose peers also come back at once, and connect faster than a
// handshake is made.
var storms = []string{
	"gRPC without a call", "half a header over REST", "one byte of a handshake, gRPC", "one byte of a handshake, REST", "half of a long handshake",
}

// Whoever fills a listener keeps nobody else out, nor takes more memory than is
// meant. A caller who was there before goes on, and so does its call that is under
// way; 20 of 20 that come anew are served within 5 s each, over both surfaces.
func TestFullListener(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what the program takes is read from /proc")
	}
	limit, peers := 256, 400
	if harness.Long {
		limit, peers = 0, 4300
	}
	for i, hoard := range slices.Concat(hoards, hoards) {
		beat := 5 * time.Second
		if i >= len(hoards) {
			if !slices.Contains(storms, hoard.name) {
				continue
			}
			hoard.name, beat = "a storm, "+hoard.name, 200*time.Millisecond
		}
		t.Run(hoard.name, func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			key := harness.NewSigner(t, "1")
			s := harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.JWTIssuer+"#"+harness.ByJWT), "TEAMTOKEN_JWT_ISSUER="+harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE="+harness.JWTAudience,
				"TEAMTOKEN_JWT_KEYS_FILE="+harness.WriteTemp(t, harness.JWKS(key)), "TEAMTOKEN_LOG_LEVEL=info", "TEAMTOKEN_AUDIT_FILE=/dev/null")
			if limit > 0 {
				s.Env = append(s.Env, fmt.Sprintf("TEAMTOKEN_MAX_CONNECTIONS=%d", limit))
			}
			if hoard.tls != plain {
				s.TLS = harness.NewAuthority(t)
			}
			if hoard.tls == mutual {
				s.Env = append(s.Env, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+s.TLS.CAFile)
			}
			s.Program = harness.Shipped()
			f := harness.Start(t, s)
			if hoard.tls == mutual {
				f.TLS = s.TLS.ClientCert(t, "caller.teamtoken.test")
			}
			bearer := key.Sign(t, harness.ByJWT)
			old := teamtokenv1.NewTeamTokenServiceClient(f.Dial(t))
			if _, err := old.GenerateToken(harness.As(t.Context(), bearer), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
				t.Fatal(err)
			}
			release := make(chan struct{})
			fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 1, Hold: release})
			var under sync.WaitGroup
			under.Go(func() {
				if _, err := teamtokenv1.NewTeamTokenServiceClient(f.Dial(t)).GenerateToken(harness.As(context.Background(), bearer), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(1)}); err != nil {
					t.Errorf("the call that was under way: %v", err)
				}
			})
			<-fault.Hit()

			a := attack{beat: beat, do: hoard.do}
			var made assault
			end := a.begin(t, f, peers, &made)
			served := newcomers(t, f, bearer, 20)
			if _, err := old.GetToken(harness.As(t.Context(), bearer), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
				t.Errorf("a caller who was there before: %v", err)
			}
			took := memory(t, f, "VmHWM")
			close(release)
			under.Wait()
			end()
			t.Logf("%d peers, %d connections: %d of 40 were served, at most %d MiB", peers, made.connections.Load(), served, took)
			if served != 40 {
				t.Errorf("%d of 40 who came anew were served", served)
			}
			if took > maxMemory {
				t.Errorf("the program took %d MiB, %d at most are meant", took, maxMemory)
			}
		})
	}
}

// Streams of health and reflection are bounded, those of one connection and those of
// all, and none keeps the program from stopping.
func TestWatches(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	for _, ofOne := range []int{10, 100} {
		raw := harness.DialHTTP2(t, f.GRPC, nil)
		if ofOne == 100 { // its caller is known
			call := raw.CallMessage(t, harness.Generate)
			raw.Outcomes(t, call)
		}
		for range ofOne {
			raw.Open(t, "/grpc.health.v1.Health/Watch")
		}
		id := raw.Open(t, "/grpc.health.v1.Health/Watch")
		if got := raw.Outcomes(t, id)[id]; got.Code() != codes.ResourceExhausted {
			t.Errorf("one more than %d: %v", ofOne, got)
		}
	}
	const ofOne = 10
	raw := harness.DialHTTP2(t, f.GRPC, nil)
	open := map[uint32]string{}
	for i := range ofOne {
		method := []string{"/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}[i%3]
		id := raw.Open(t, method)
		open[id] = method
		if i%2 == 0 && i%3 == 0 {
			if err := raw.WriteData(id, false, harness.Frame(nil)); err != nil { // the others wait for a message
				t.Fatal(err)
			}
		}
	}
	for _, method := range []string{"/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
		id := raw.Open(t, method)
		if got := raw.Outcomes(t, id)[id]; got.Code() != codes.ResourceExhausted {
			t.Errorf("one more %s: %v", method, got)
		}
	}
	one := raw.CallMessage(t, harness.Get)
	if got := raw.Outcomes(t, one)[one]; got.Code() == codes.ResourceExhausted {
		t.Errorf("a call over that connection: %v", got)
	}
	other := harness.DialHTTP2(t, f.GRPC, nil)
	watch := other.Open(t, "/grpc.health.v1.Health/Watch")
	if err := other.WriteData(watch, true, harness.Frame(nil)); err != nil {
		t.Fatal(err)
	}
	if status, reset := other.Answer(t, watch); reset || status != "200" {
		t.Errorf("another connection's watch: %s", status)
	}
	begun := time.Now()
	f.Terminate()
	streams := slices.Collect(maps.Keys(open))
	for id, got := range raw.Outcomes(t, streams...) {
		if got.Code() != codes.Unavailable {
			t.Errorf("%s ends with %v", open[id], got)
		}
	}
	<-f.Exited
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it stopped after %v", took)
	}
}

// newcomers connect anew, n over each surface, and call. Each is served within 5 s,
// or it is not counted.
func newcomers(t *testing.T, f *harness.Server, bearer secret.Text, n int) int {
	t.Helper()
	var served atomic.Int64
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(harness.As(t.Context(), bearer), 5*time.Second)
			defer cancel()
			conn := f.DialAs(t, f.TLS)
			defer conn.Close()
			if _, err := teamtokenv1.NewTeamTokenServiceClient(conn).GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
				t.Logf("over gRPC: %v", err)
				return
			}
			served.Add(1)
		})
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			transport := &http.Transport{TLSClientConfig: f.TLS.Clone(), ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Do(f.Request(ctx, http.MethodGet, simulator.SeedTeam, bearer))
			if err != nil {
				t.Logf("over REST: %v", err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Logf("over REST: %s", resp.Status)
				return
			}
			served.Add(1)
		})
		time.Sleep(50 * time.Millisecond) // they come one after the other
	}
	all.Wait()
	return int(served.Load())
}

// streams opens n streams of a method, each with a message or without one, and waits
// until the connection ends.
func (p *peer) streams(n int, method string, message []byte) {
	s := p.speak(true)
	for range n {
		id := s.headers(s.to(method), false)
		if message != nil {
			s.data(id, message)
		}
	}
	s.flush()
	<-s.ended
}

// half says something, and no more.
func (p *peer) half(address, what string) {
	conn := p.dial(address)
	if conn == nil || !p.say(conn, what) {
		return
	}
	_, _ = io.Copy(io.Discard, conn)
}

func (p *peer) say(conn net.Conn, what string) bool {
	_, err := io.WriteString(conn, what)
	return err == nil
}

// unpacking is a block of n headers of one byte each, which HTTP/2's static table has.
func unpacking(n int) []byte {
	const age = 0x80 | 21
	return bytes.Repeat([]byte{age}, n)
}

// manySmall is headers of HTTP/1.1, size bytes of them, each of which has another name.
func manySmall(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strconv.FormatInt(int64(i), 36) + ":\r\n")
	}
	return b.String()
}

// speakREST begins HTTP/2 with the REST listener, over TLS without a certificate.
func (p *peer) speakREST() *speaker {
	conn := p.dial(p.rest)
	if conn != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	return p.speakOver(conn, true)
}

// request is the block of the headers of a request of REST, whose body is to come.
func (s *speaker) request() (block []byte) {
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", harness.TokenPath}, {":authority", "teamtoken.test"}, {"content-type", harness.JSONAPI}} {
		block = append(block, s.encode(hpack.HeaderField{Name: h[0], Value: h[1]})...)
	}
	return block
}
