package limits_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A caller who has as many calls under way as he may is refused one more, at
// once and on both surfaces, and nothing of it goes upstream. Others never
// notice, however many he makes.
func TestCallsPerCaller(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_MAX_CALLS_PER_CALLER=2")
	greedy, other := sim.UserToken(), sim.OrganizationToken()
	teams := simulator.Teams()
	release := make(chan struct{})
	sim.Reset()
	sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 2, Hold: release})
	sent := func() (n int) {
		for _, r := range sim.Requests() {
			if r.Bearer.Equal(greedy) {
				n++
			}
		}
		return n
	}

	var held sync.WaitGroup
	held.Go(func() {
		if _, err := f.Client.GenerateToken(harness.As(context.Background(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[1].ID}); err != nil {
			t.Errorf("a call within the cap: %v", err)
		}
	})
	held.Go(func() {
		resp, err := f.HTTP.Do(f.Request(context.Background(), http.MethodPost, teams[2].ID, greedy))
		if err != nil {
			t.Errorf("a request within the cap: %v", err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Errorf("a request within the cap: %s", resp.Status)
		}
	})
	harness.Eventually(t, "two of his calls are upstream", func() bool { return sent() == 2 })

	leave := harness.BackgroundCaller(t, f, other)
	for _, c := range []struct {
		name    string
		call    func() error
		outcome string
	}{
		{"a change", func() error {
			_, err := f.Client.GenerateToken(harness.As(t.Context(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID})
			return err
		}, "not_applied"},
		{"a read", func() error {
			_, err := f.Client.GetToken(harness.As(t.Context(), greedy), &teamtokenv1.GetTokenRequest{TeamId: teams[3].ID})
			return err
		}, ""},
		{"on a connection of its own", func() error {
			_, err := teamtokenv1.NewTeamTokenServiceClient(f.Dial(t)).
				GenerateToken(harness.As(t.Context(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID})
			return err
		}, "not_applied"},
	} {
		err := c.call()
		d := apierror.FromStatus(status.Convert(err))
		if status.Code(err) != codes.ResourceExhausted || d.Reason != "CALLER_QUOTA_EXCEEDED" || d.Outcome != c.outcome || d.RetryAfter != time.Second {
			t.Errorf("%s over the cap: %v, %+v", c.name, err, d)
		}
	}
	resp := harness.Must(f.HTTP.Do(f.Request(t.Context(), http.MethodPost, teams[3].ID, greedy)))
	defer resp.Body.Close()
	if e := harness.ErrorsOf(t, resp); resp.StatusCode != http.StatusTooManyRequests || e.Code != "CALLER_QUOTA_EXCEEDED" ||
		e.Meta.Outcome != "not_applied" || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("over REST: %s, %+v, Retry-After %q", resp.Status, e, resp.Header.Get("Retry-After"))
	}
	var flood sync.WaitGroup
	for range 20 {
		flood.Go(func() {
			for range 25 {
				if _, err := f.Client.GetToken(harness.As(context.Background(), greedy), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); status.Code(err) != codes.ResourceExhausted {
					t.Errorf("one of very many: %v", err)
				}
			}
		})
	}
	for range 10 {
		if _, err := f.Client.GenerateToken(harness.As(t.Context(), other), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID}); err != nil {
			t.Errorf("a change of somebody else: %v", err)
		}
	}
	flood.Wait()
	leave()
	if n := sent(); n != 2 {
		t.Errorf("%d of his requests went upstream, want the 2", n)
	}
	close(release)
	held.Wait()
	if _, err := f.Client.GetToken(harness.As(t.Context(), greedy), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Errorf("once his calls are answered: %v", err)
	}
}

// Where nobody is asked who he is, there is nobody to count calls of.
func TestCallsOfNobodyInParticular(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_MAX_CALLS_PER_CALLER=1")
	f := harness.Start(t, s)
	release := make(chan struct{})
	sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 3, Hold: release})
	var calls sync.WaitGroup
	for _, team := range simulator.Teams()[:3] {
		calls.Go(func() {
			if _, err := f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: team.ID}); err != nil {
				t.Error(err)
			}
		})
	}
	harness.Eventually(t, "all are upstream", func() bool { return len(sim.Requests()) == 3 })
	close(release)
	calls.Wait()
}

// A connection has no more calls under way than it may: one more is refused by
// itself. Another connection is none of it.
func TestStreamsPerConnection(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	f := harness.Limited(t, sim, url, a, "TEAMTOKEN_MAX_STREAMS=2")
	me := []string{"authorization", "Bearer " + sim.UserToken().Reveal()}
	for _, c := range []struct{ surface, address, method, path string }{
		{"grpc", f.GRPC, http.MethodPost, harness.Get},
		{"rest", strings.Replace(strings.TrimPrefix(f.REST, "https://"), "localhost", "127.0.0.1", 1), http.MethodGet, harness.TokenPath},
	} {
		t.Run(c.surface, func(t *testing.T) {
			release := make(chan struct{})
			sim.Reset()
			sim.Inject(simulator.Fault{Method: http.MethodGet, Times: 2, Hold: release})
			raw := harness.DialHTTP2(t, c.address, a.Client())
			if got := raw.Settings[h2.SettingMaxConcurrentStreams]; got != 2 {
				t.Errorf("the server says that %d streams may be open, want 2", got)
			}
			first, second := raw.Call(t, c.method, c.path, me...), raw.Call(t, c.method, c.path, me...)
			harness.Eventually(t, "two calls are upstream", func() bool { return len(sim.Requests()) == 2 })
			leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
			if status, reset := raw.Answer(t, raw.Call(t, c.method, c.path, me...)); !reset {
				t.Errorf("a third stream: %s", status)
			}
			leave()
			close(release)
			open := []uint32{first, second}
			for len(open) > 0 { // they may be answered in any order
				got := raw.Until(t, func(f h2.Frame) bool {
					return slices.Contains(open, f.Header().StreamID) && f.Header().Type == h2.FrameHeaders
				})
				headers, ok := got.(*h2.MetaHeadersFrame)
				if !ok || headers.PseudoValue("status") != "200" {
					t.Fatalf("the first two are answered: %v", got)
				}
				open = slices.DeleteFunc(open, func(id uint32) bool { return id == headers.StreamID })
			}
		})
	}
}

// A message that is larger than it may be is refused before anything of it goes
// upstream, and the connection that it came on is of use still.
func TestSizes(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_MAX_MESSAGE_BYTES=1024")
	ctx := harness.As(t.Context(), sim.UserToken())
	leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
	defer leave()
	posted := func() (n int) {
		for _, r := range sim.Requests() {
			if r.Method == http.MethodPost {
				n++
			}
		}
		return n
	}

	t.Run("message", func(t *testing.T) {
		before := posted()
		_, err := f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
			TeamId: simulator.SeedTeam, Description: new(strings.Repeat("d", 1100)),
		})
		if status.Code(err) != codes.ResourceExhausted || posted() != before {
			t.Errorf("a message that is too long: %v", err)
		}
		_, err = f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
			TeamId: simulator.SeedTeam, Description: new(strings.Repeat("d", 200)),
		})
		if err != nil {
			t.Errorf("one that is not: %v", err)
		}
	})
}

// longHeaders are requests whose header lists are over the limit of 4096 bytes, up
// to far over what proxies pass.
func longHeaders() map[string][]string {
	many := func(n int) (headers []string) {
		for i := range n {
			headers = append(headers, fmt.Sprintf("x-%d", i), "v")
		}
		return headers
	}
	return map[string][]string{
		"one that is a little over": {"x-more", strings.Repeat("h", 4200)},
		"one of 33 KiB":             {"x-more", strings.Repeat("h", 33<<10)},
		"one of 60 KiB":             {"x-more", strings.Repeat("h", 60<<10)},
		"one of 200 KiB":            {"x-more", strings.Repeat("h", 200<<10)},
		"twenty of 3 KiB":           slices.Concat(slices.Repeat([]string{"x-more", strings.Repeat("h", 3<<10)}, 20)),
		"many that are small":       many(2000),
		"a JWT of 40 KiB":           {"authorization", "Bearer " + strings.Repeat("h", 40<<10)},
		"a request id of 40 KiB":    {"x-request-id", strings.Repeat("h", 40<<10)},
	}
}

// A call whose headers are too long is refused by itself: others call over the same
// connection, before, meanwhile and afterwards.
func TestLongHeaders(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	f := harness.Limited(t, sim, url, a, "TEAMTOKEN_MAX_HEADER_BYTES=4096")
	me := []string{"authorization", "Bearer " + sim.UserToken().Reveal()}
	rest := strings.Replace(strings.TrimPrefix(f.REST, "https://"), "localhost", "127.0.0.1", 1)

	t.Run("grpc", func(t *testing.T) {
		raw := harness.DialHTTP2(t, f.GRPC, a.Client())
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				if headers[0] != "authorization" {
					headers = append(headers, me...)
				}
				before := raw.Call(t, http.MethodPost, harness.Get, me...)
				long := raw.CallMessage(t, harness.Generate, headers...)
				after := raw.Call(t, http.MethodPost, harness.Get, me...)
				got := raw.Outcomes(t, before, long, after)
				d := apierror.FromStatus(got[long])
				if got[long].Code() != codes.ResourceExhausted || d.Reason != "INVALID_FIELD" || d.Outcome != "not_applied" {
					t.Errorf("it is answered %v, %+v", got[long], d)
				}
				if got[before].Code() != codes.OK || got[after].Code() != codes.OK {
					t.Errorf("others over its connection: %v, %v", got[before], got[after])
				}
			})
		}
		for name, path := range map[string]string{
			"a method of the service": "/teamtoken.v1.TeamTokenService/" + strings.Repeat("m", 40<<10),
			"another method":          "/" + strings.Repeat("m", 40<<10) + "/m",
			"health":                  "/grpc.health.v1.Health/" + strings.Repeat("m", 40<<10),
		} {
			t.Run("a path, "+name, func(t *testing.T) {
				long, after := raw.Call(t, http.MethodPost, path), raw.Call(t, http.MethodPost, harness.Get, me...)
				if got := raw.Outcomes(t, long, after); got[long].Code() != codes.ResourceExhausted || got[after].Code() != codes.OK {
					t.Errorf("%v, and another %v", got[long], got[after])
				}
			})
		}
		// gRPC has no trailers of requests, and a proxy forwards them.
		for _, n := range []int{1, 33 << 10, 60 << 10, 200 << 10} {
			for name, message := range map[string][]byte{
				"with a message": harness.Frame(harness.Text(1, simulator.SeedTeam)), "without one": nil, "with half a one": harness.Frame(harness.Text(1, simulator.SeedTeam))[:4],
			} {
				t.Run(fmt.Sprintf("trailers of %d bytes, %s", n, name), func(t *testing.T) {
					before := raw.Call(t, http.MethodPost, harness.Get, me...)
					trailed := raw.Open(t, harness.Get, me...)
					if err := raw.WriteData(trailed, false, message); err != nil {
						t.Fatal(err)
					}
					raw.Block.Reset()
					_ = raw.Encoder.WriteField(hpack.HeaderField{Name: "x-trailer", Value: strings.Repeat("t", n)})
					raw.Headers(t, trailed, true)
					after := raw.Call(t, http.MethodPost, harness.Get, append([]string{"x-trailer", "t"}, me...)...)
					if got := raw.Outcomes(t, before, trailed, after); got[before].Code() != codes.OK || got[after].Code() != codes.OK {
						t.Errorf("others over its connection: %v, %v", got[before], got[after])
					}
				})
			}
		}
	})
	t.Run("rest, HTTP/2", func(t *testing.T) {
		raw := harness.DialHTTP2(t, rest, a.Client())
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				if status, _ := raw.Answer(t, raw.Call(t, http.MethodGet, harness.TokenPath, append(headers, me...)...)); status != "431" {
					t.Errorf("it is answered %s", status)
				}
				if status, _ := raw.Answer(t, raw.Call(t, http.MethodGet, harness.TokenPath, me...)); status != "200" {
					t.Errorf("another one over its connection: %s", status)
				}
			})
		}
	})
	t.Run("rest, HTTP/1.1", func(t *testing.T) {
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				req := f.Request(t.Context(), http.MethodPost, simulator.SeedTeam, sim.UserToken())
				for i := 0; i < len(headers); i += 2 {
					req.Header.Add(headers[i], headers[i+1])
				}
				config := a.Client()
				transport := &http.Transport{TLSClientConfig: config} // without HTTP/2
				defer transport.CloseIdleConnections()
				resp := harness.Must((&http.Client{Transport: transport}).Do(req))
				defer resp.Body.Close()
				if e := harness.ErrorsOf(t, resp); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || e.Meta.Outcome != "not_applied" || e.Meta.RequestID == "" {
					t.Errorf("it is answered %s, %+v", resp.Status, e)
				}
			})
		}
	})
	t.Run("that fit", func(t *testing.T) {
		raw := harness.DialHTTP2(t, f.GRPC, a.Client())
		call := raw.Call(t, http.MethodPost, harness.Get, append([]string{"x-more", strings.Repeat("h", 3000)}, me...)...)
		if got := raw.Outcomes(t, call)[call]; got.Code() != codes.OK {
			t.Errorf("over gRPC: %v", got)
		}
		raw = harness.DialHTTP2(t, rest, a.Client())
		if status, _ := raw.Answer(t, raw.Call(t, http.MethodGet, harness.TokenPath, append([]string{"x-more", strings.Repeat("h", 3000)}, me...)...)); status != "200" {
			t.Errorf("over REST: %s", status)
		}
	})
}

// ended waits for the other side to close a connection, and returns when it did.
func ended(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	_ = conn.SetReadDeadline(start.Add(harness.Patience))
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not closed within %v", harness.Patience)
	}
	return time.Since(start)
}

// Who connects and says nothing, or not enough, is not waited for.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	const prompt = "200ms"
	for _, c := range []struct {
		name, setting string
		encrypted     *harness.Authority
		grpc          bool
		say           func(t *testing.T, conn net.Conn)
	}{
		{"no TLS handshake, gRPC", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, nil},
		{"no TLS handshake, REST", "TEAMTOKEN_READ_HEADER_TIMEOUT", a, false, nil},
		{"half a TLS handshake, gRPC", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, func(t *testing.T, conn net.Conn) { harness.Say(t, conn, "\x16\x03\x01") }},
		{"no HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", nil, true, nil},
		{"half an HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", nil, true, func(t *testing.T, conn net.Conn) { harness.Say(t, conn, h2.ClientPreface) }},
		{"TLS, and no HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, func(t *testing.T, conn net.Conn) {
			config := a.Client()
			config.ServerName, config.NextProtos = "localhost", []string{"h2"}
			if err := tls.Client(conn, config).Handshake(); err != nil {
				t.Error(err)
			}
		}},
		{"no request", "TEAMTOKEN_READ_HEADER_TIMEOUT", nil, false, nil},
		{"half a request", "TEAMTOKEN_READ_HEADER_TIMEOUT", nil, false, func(t *testing.T, conn net.Conn) {
			harness.Say(t, conn, "GET "+harness.TokenPath+" HTTP/1.1\r\nHost: x\r\nX-A: ")
		}},
		{"half a body", "TEAMTOKEN_READ_TIMEOUT", nil, false, func(t *testing.T, conn net.Conn) {
			harness.Say(t, conn, "POST "+harness.TokenPath+" HTTP/1.1\r\nHost: x\r\nContent-Type: "+harness.JSONAPI+"\r\nContent-Length: 9\r\n\r\n{")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := harness.Limited(t, sim, url, c.encrypted, c.setting+"="+prompt)
			leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
			defer leave()
			address := f.GRPC
			if !c.grpc {
				_, address, _ = strings.Cut(f.REST, "://")
			}
			conn := harness.Must(net.Dial("tcp", address))
			defer conn.Close()
			if c.say != nil {
				c.say(t, conn)
			}
			if took := ended(t, conn); took > harness.Caught {
				t.Errorf("closed after %v, as if there were no %s=%s", took, c.setting, prompt)
			}
		})
	}
}

// A connection without a call is closed, one with a call is not: however long
// that takes. Its client connects anew without a failed call.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_IDLE_TIMEOUT=300ms")
	ctx := harness.As(t.Context(), sim.UserToken())
	leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
	defer leave()

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	busy := f.Dial(t)
	var under sync.WaitGroup
	under.Go(func() {
		if _, err := teamtokenv1.NewTeamTokenServiceClient(busy).GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.Teams()[1].ID}); err != nil {
			t.Errorf("a call that took longer: %v", err)
		}
	})
	<-fault.Hit()

	idle := f.Dial(t)
	client := teamtokenv1.NewTeamTokenServiceClient(idle)
	for range 2 { // the second time on a connection that was closed
		if _, err := client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
			t.Error(err)
		}
		leaves(t, idle, harness.Caught)
	}
	conn := harness.Must(net.Dial("tcp", strings.TrimPrefix(f.REST, "http://")))
	defer conn.Close()
	harness.Say(t, conn, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n")
	if took := ended(t, conn); took > harness.Caught {
		t.Errorf("over REST it is closed after %v", took)
	}
	if state := busy.GetState(); state != connectivity.Ready {
		t.Errorf("the connection of the call under way is %v", state)
	}
	close(release)
	under.Wait()
}

// leaves waits for the server to ask a client to leave its connection.
func leaves(t *testing.T, conn *grpc.ClientConn, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if !conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Errorf("not asked to leave within %v", within)
	}
}

// A client is asked to connect anew when its connection is old. The call that is
// under way then is answered on the old one, and later ones go over a new one.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_MAX_CONNECTION_AGE=300ms")
	ctx := harness.As(t.Context(), sim.UserToken())
	leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
	defer leave()

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	conn := f.Dial(t)
	client := teamtokenv1.NewTeamTokenServiceClient(conn)
	var old, anew grpcpeer.Peer
	var under sync.WaitGroup
	under.Go(func() {
		resp, err := client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.Teams()[1].ID}, grpc.Peer(&old))
		if err != nil || resp.GetSecret() == "" {
			t.Errorf("the call that was under way: %v", err)
		}
	})
	<-fault.Hit()
	leaves(t, conn, harness.Caught)
	if _, err := client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}, grpc.Peer(&anew)); err != nil {
		t.Errorf("a call on the new connection: %v", err)
	}
	close(release)
	under.Wait()
	if old.LocalAddr == nil || anew.LocalAddr == nil || old.LocalAddr.String() == anew.LocalAddr.String() {
		t.Errorf("both calls went over the connection from %v", old.LocalAddr)
	}
}

// Who sends keep-alive pings all the time is cut off; who sends them as seldom
// as he should is answered.
func TestPings(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	for _, c := range []struct {
		interval string
		cut      bool
	}{{"1m", true}, {"1ms", false}} {
		t.Run(c.interval, func(t *testing.T) {
			f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_MIN_PING_INTERVAL="+c.interval)
			leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
			defer leave()
			raw := harness.DialHTTP2(t, f.GRPC, nil)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			answered, why := 0, ""
			for i := range 10 {
				<-tick.C
				if raw.WritePing(false, [8]byte{byte(i)}) != nil {
					break
				}
				if away, ok := raw.Until(t, func(f h2.Frame) bool {
					ping, ok := f.(*h2.PingFrame)
					return ok && ping.IsAck() || f.Header().Type == h2.FrameGoAway
				}).(*h2.GoAwayFrame); ok {
					why = fmt.Sprintf("%v %s", away.ErrCode, away.DebugData())
					break
				}
				answered++
			}
			if cut := why != ""; cut != c.cut || cut && why != "ENHANCE_YOUR_CALM too_many_pings" || !cut && answered != 10 {
				t.Errorf("%d pings were answered, and then: %q", answered, why)
			}
		})
	}
}

// A caller who leaves has his calls under way counted for as long as they go on
// upstream: he could have any number of them otherwise.
func TestCallsOfACallerWhoLeaves(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Limited(t, sim, url, nil, "TEAMTOKEN_MAX_CALLS_PER_CALLER=2")
	sim.Reset()
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 2, Hold: release})
	for i := range 2 {
		ctx, leave := context.WithCancel(harness.As(t.Context(), sim.UserToken()))
		var left sync.WaitGroup
		left.Go(func() {
			_, err := f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.AnotherTeam(i), Description: new("d")})
			if status.Code(err) != codes.Canceled {
				t.Errorf("he left: %v", err)
			}
		})
		harness.Eventually(t, "his call is upstream", func() bool { return len(sim.Requests()) == i+1 })
		leave()
		left.Wait()
		harness.Eventually(t, "the server has seen him leave", func() bool { return strings.Count(f.Stderr.String(), `"UPSTREAM_TIMEOUT"`) == i+1 })
	}
	read := func() error {
		_, err := f.Client.GetToken(harness.As(t.Context(), sim.UserToken()), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return err
	}
	if err := read(); apierror.FromStatus(status.Convert(err)).Reason != "CALLER_QUOTA_EXCEEDED" {
		t.Errorf("with two of his changes under way: %v", err)
	}
	close(release)
	<-fault.Done()
	harness.Eventually(t, "he may call again", func() bool { return read() == nil })
}
