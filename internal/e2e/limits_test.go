package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// caught is how soon after a limit a client must notice: far less than the
// limit's default, and far more than a busy machine takes.
const caught = 3 * time.Second

// bystander is somebody else, who calls all the time over both surfaces, on
// connections that he keeps. The function that is returned ends him, and fails
// the test if a call of his failed. He only reads: a team must have a token.
func bystander(t *testing.T, f *facade, credential secret.Text) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(as(context.Background(), credential))
	client := teamtokenv1.NewTeamTokenServiceClient(f.dial(t))
	browser := f.browser(t, f.tls)
	read := func() error {
		if _, err := client.GetToken(context.WithoutCancel(ctx), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
			return err
		}
		return isOK(browser, f.request(context.WithoutCancel(ctx), http.MethodGet, simulator.SeedTeam, credential))
	}
	var calls sync.WaitGroup
	done := 0
	calls.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := read(); err != nil {
				t.Errorf("somebody else was disturbed in his call %d: %v", done, err)
				return
			}
			done++
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	leave = sync.OnceFunc(func() {
		cancel()
		calls.Wait()
		if err := read(); err != nil {
			t.Errorf("somebody else was disturbed in the end: %v", err)
		}
	})
	t.Cleanup(leave)
	return leave
}

// isOK makes a request, and returns an error unless it is answered with 200.
func isOK(client *http.Client, req *http.Request) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// request is one over REST for the token of a team.
func (f *facade) request(ctx context.Context, method, team string, credential secret.Text) *http.Request {
	req := must(http.NewRequestWithContext(ctx, method, f.rest+"/api/v2/teams/"+team+"/authentication-token", nil))
	if !credential.IsZero() {
		req.Header.Set("Authorization", "Bearer "+credential.Reveal())
	}
	return req
}

// limited starts the program with callers' own credentials and these settings,
// and gives the seed's team a token for bystanders to read.
func limited(t *testing.T, sim *simulator.Simulator, url string, encrypted *authority, env ...string) *facade {
	t.Helper()
	s := withCallers(sim, url)
	s.tls = encrypted
	s.env = append(s.env, env...)
	f := start(t, s)
	if _, err := f.client.GenerateToken(as(t.Context(), sim.OwnerToken()), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Fatal(err)
	}
	return f
}

// A caller who has as many calls under way as he may is refused one more, at
// once and on both surfaces, and nothing of it goes upstream. Others never
// notice, however many he makes.
func TestCallsPerCaller(t *testing.T) {
	sim, url := newSimulator(t)
	f := limited(t, sim, url, nil, "TEAMTOKEN_MAX_CALLS_PER_CALLER=2")
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
		if _, err := f.client.GenerateToken(as(context.Background(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[1].ID}); err != nil {
			t.Errorf("a call within the cap: %v", err)
		}
	})
	held.Go(func() {
		resp, err := f.http.Do(f.request(context.Background(), http.MethodPost, teams[2].ID, greedy))
		if err != nil {
			t.Errorf("a request within the cap: %v", err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Errorf("a request within the cap: %s", resp.Status)
		}
	})
	eventually(t, "two of his calls are upstream", func() bool { return sent() == 2 })

	leave := bystander(t, f, other)
	for _, c := range []struct {
		name    string
		call    func() error
		outcome string
	}{
		{"a change", func() error {
			_, err := f.client.GenerateToken(as(t.Context(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID})
			return err
		}, "not_applied"},
		{"a read", func() error {
			_, err := f.client.GetToken(as(t.Context(), greedy), &teamtokenv1.GetTokenRequest{TeamId: teams[3].ID})
			return err
		}, ""},
		{"on a connection of its own", func() error {
			_, err := teamtokenv1.NewTeamTokenServiceClient(f.dial(t)).
				GenerateToken(as(t.Context(), greedy), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID})
			return err
		}, "not_applied"},
	} {
		err := c.call()
		d := apierror.FromStatus(status.Convert(err))
		if status.Code(err) != codes.ResourceExhausted || d.Reason != "CALLER_QUOTA_EXCEEDED" || d.Outcome != c.outcome || d.RetryAfter != time.Second {
			t.Errorf("%s over the cap: %v, %+v", c.name, err, d)
		}
	}
	resp := must(f.http.Do(f.request(t.Context(), http.MethodPost, teams[3].ID, greedy)))
	defer resp.Body.Close()
	if e := errorsOf(t, resp); resp.StatusCode != http.StatusTooManyRequests || e.Code != "CALLER_QUOTA_EXCEEDED" ||
		e.Meta.Outcome != "not_applied" || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("over REST: %s, %+v, Retry-After %q", resp.Status, e, resp.Header.Get("Retry-After"))
	}
	var flood sync.WaitGroup
	for range 20 {
		flood.Go(func() {
			for range 25 {
				if _, err := f.client.GetToken(as(context.Background(), greedy), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); status.Code(err) != codes.ResourceExhausted {
					t.Errorf("one of very many: %v", err)
				}
			}
		})
	}
	for range 10 {
		if _, err := f.client.GenerateToken(as(t.Context(), other), &teamtokenv1.GenerateTokenRequest{TeamId: teams[3].ID}); err != nil {
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
	if _, err := f.client.GetToken(as(t.Context(), greedy), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Errorf("once his calls are answered: %v", err)
	}
}

// Where nobody is asked who he is, there is nobody to count calls of.
func TestCallsOfNobodyInParticular(t *testing.T) {
	sim, url := newSimulator(t)
	s := withService(sim, url)
	s.env = append(s.env, "TEAMTOKEN_MAX_CALLS_PER_CALLER=1")
	f := start(t, s)
	release := make(chan struct{})
	sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 3, Hold: release})
	var calls sync.WaitGroup
	for _, team := range simulator.Teams()[:3] {
		calls.Go(func() {
			if _, err := f.client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: team.ID}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all are upstream", func() bool { return len(sim.Requests()) == 3 })
	close(release)
	calls.Wait()
}

// rawHTTP2 is a connection on which frames go out as the test makes them.
type rawHTTP2 struct {
	*h2.Framer
	conn     net.Conn
	settings map[h2.SettingID]uint32 // the server's
	block    bytes.Buffer
	encoder  *hpack.Encoder
	next     uint32 // the id of the stream that is opened next
}

// dialHTTP2 makes the handshake of HTTP/2.
func dialHTTP2(t *testing.T, address string, config *tls.Config) *rawHTTP2 {
	t.Helper()
	conn := must(net.Dial("tcp", address))
	t.Cleanup(func() { _ = conn.Close() })
	if config != nil {
		config = config.Clone()
		config.NextProtos, config.ServerName = []string{"h2"}, "localhost"
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, h2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &rawHTTP2{Framer: h2.NewFramer(conn, conn), conn: conn, settings: map[h2.SettingID]uint32{}, next: 1}
	c.encoder = hpack.NewEncoder(&c.block)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	settings, ok := c.until(t, func(f h2.Frame) bool {
		s, ok := f.(*h2.SettingsFrame)
		return ok && !s.IsAck()
	}).(*h2.SettingsFrame)
	if !ok {
		t.Fatal("the server sent no settings")
	}
	_ = settings.ForeachSetting(func(s h2.Setting) error { c.settings[s.ID] = s.Val; return nil })
	if err := c.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	return c
}

// until reads frames up to one that is meant, which is nil if the connection
// ends before it.
func (c *rawHTTP2) until(t *testing.T, meant func(h2.Frame) bool) h2.Frame {
	t.Helper()
	for {
		frame, err := c.ReadFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatal("the connection is silent, and stays open")
		case err != nil:
			return nil
		case meant(frame):
			return frame
		}
	}
}

// call opens a stream with a whole GetToken over gRPC, or what method and path say.
func (c *rawHTTP2) call(t *testing.T, method, path string, headers ...string) (stream uint32) {
	t.Helper()
	if method == http.MethodPost {
		return c.callMessage(t, path, headers...)
	}
	c.fields(method, path, headers...)
	stream = c.stream()
	c.headers(t, stream, true)
	return stream
}

// start is call, with trailers after its message.
func (c *rawHTTP2) start(t *testing.T, method, path string, trailers []string, headers ...string) (stream uint32) {
	t.Helper()
	if trailers == nil {
		return c.call(t, method, path, headers...)
	}
	c.fields(method, path, headers...)
	stream = c.stream()
	c.headers(t, stream, false)
	if method == http.MethodPost {
		if err := c.WriteData(stream, false, frame(text(1, simulator.SeedTeam))); err != nil {
			t.Fatal(err)
		}
	}
	c.block.Reset()
	for i := 0; i < len(trailers); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: trailers[i], Value: trailers[i+1]})
	}
	c.headers(t, stream, true)
	return stream
}

// callMessage makes a call over gRPC whose message names the seed's team.
func (c *rawHTTP2) callMessage(t *testing.T, path string, headers ...string) (stream uint32) {
	t.Helper()
	stream = c.open(t, path, headers...)
	if err := c.WriteData(stream, true, frame(text(1, simulator.SeedTeam))); err != nil {
		t.Fatal(err)
	}
	return stream
}

// open begins a call over gRPC.
func (c *rawHTTP2) open(t *testing.T, path string, headers ...string) (stream uint32) {
	t.Helper()
	c.fields(http.MethodPost, path, headers...)
	stream = c.stream()
	c.headers(t, stream, false)
	return stream
}

func (c *rawHTTP2) stream() uint32 {
	c.next += 2
	return c.next - 2
}

// fields makes the header block of a request.
func (c *rawHTTP2) fields(method, path string, headers ...string) {
	c.block.Reset()
	write := func(name, value string) { _ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	write(":method", method)
	write(":scheme", "http")
	write(":authority", "localhost")
	write(":path", path)
	if method == http.MethodPost {
		if !slices.Contains(headers, "content-type") {
			write("content-type", "application/grpc")
		}
		write("te", "trailers")
	}
	for i := 0; i < len(headers); i += 2 {
		write(headers[i], headers[i+1])
	}
}

// headers sends the header block.
func (c *rawHTTP2) headers(t *testing.T, stream uint32, last bool) {
	t.Helper()
	block := c.block.Bytes()
	const most = 16 << 10 // of one frame
	first := block[:min(most, len(block))]
	err := c.WriteHeaders(h2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: len(first) == len(block), EndStream: last})
	for rest := block[len(first):]; len(rest) > 0 && err == nil; {
		n := min(most, len(rest))
		err = c.WriteContinuation(stream, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	if err != nil {
		t.Fatal(err)
	}
}

// outcomes are what gRPC calls end with. Of a stream that is reset it is CANCELLED,
// and UNAVAILABLE of all that are open when the connection ends.
func (c *rawHTTP2) outcomes(t *testing.T, streams ...uint32) map[uint32]*status.Status {
	t.Helper()
	got := map[uint32]*status.Status{}
	for len(got) < len(streams) {
		switch f := c.until(t, func(f h2.Frame) bool {
			return slices.Contains(streams, f.Header().StreamID) && (f.Header().Type == h2.FrameHeaders || f.Header().Type == h2.FrameRSTStream)
		}).(type) {
		case *h2.MetaHeadersFrame:
			if f.StreamEnded() {
				got[f.StreamID] = statusOf(t, f)
			}
		case *h2.RSTStreamFrame:
			if got[f.StreamID] == nil {
				got[f.StreamID] = status.New(codes.Canceled, f.ErrCode.String())
			}
		default:
			for _, s := range streams {
				if got[s] == nil {
					got[s] = status.New(codes.Unavailable, "the connection ended")
				}
			}
		}
	}
	return got
}

// statusOf is what trailers tell.
func statusOf(t *testing.T, f *h2.MetaHeadersFrame) *status.Status {
	t.Helper()
	var st spb.Status
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "grpc-status":
			st.Code = int32(must(strconv.Atoi(h.Value)))
		case "grpc-status-details-bin":
			if err := proto.Unmarshal(must(base64.RawStdEncoding.DecodeString(h.Value)), &st); err != nil {
				t.Error(err)
			}
		}
	}
	return status.FromProto(&st)
}

// answer is the first of what comes back on a stream, and the status that it tells.
func (c *rawHTTP2) answer(t *testing.T, stream uint32) (status string, reset bool) {
	t.Helper()
	switch got := c.until(t, func(f h2.Frame) bool {
		kind := f.Header().Type
		return f.Header().StreamID == stream && (kind == h2.FrameHeaders || kind == h2.FrameRSTStream)
	}).(type) {
	case *h2.MetaHeadersFrame:
		return got.PseudoValue("status"), false
	case *h2.RSTStreamFrame:
		return got.ErrCode.String(), true
	default:
		return "the connection ended", true
	}
}

// A connection has no more calls under way than it may: one more is refused by
// itself. Another connection is none of it.
func TestStreamsPerConnection(t *testing.T) {
	sim, url := newSimulator(t)
	a := newAuthority(t)
	f := limited(t, sim, url, a, "TEAMTOKEN_MAX_STREAMS=2")
	me := []string{"authorization", "Bearer " + sim.UserToken().Reveal()}
	for _, c := range []struct{ surface, address, method, path string }{
		{"grpc", f.grpc, http.MethodPost, get},
		{"rest", strings.Replace(strings.TrimPrefix(f.rest, "https://"), "localhost", "127.0.0.1", 1), http.MethodGet, tokenPath},
	} {
		t.Run(c.surface, func(t *testing.T) {
			release := make(chan struct{})
			sim.Reset()
			sim.Inject(simulator.Fault{Method: http.MethodGet, Times: 2, Hold: release})
			raw := dialHTTP2(t, c.address, a.client())
			if got := raw.settings[h2.SettingMaxConcurrentStreams]; got != 2 {
				t.Errorf("the server says that %d streams may be open, want 2", got)
			}
			first, second := raw.call(t, c.method, c.path, me...), raw.call(t, c.method, c.path, me...)
			eventually(t, "two calls are upstream", func() bool { return len(sim.Requests()) == 2 })
			leave := bystander(t, f, sim.OrganizationToken())
			if status, reset := raw.answer(t, raw.call(t, c.method, c.path, me...)); !reset {
				t.Errorf("a third stream: %s", status)
			}
			leave()
			close(release)
			open := []uint32{first, second}
			for len(open) > 0 { // they may be answered in any order
				got := raw.until(t, func(f h2.Frame) bool {
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
	sim, url := newSimulator(t)
	f := limited(t, sim, url, nil, "TEAMTOKEN_MAX_MESSAGE_BYTES=1024")
	ctx := as(t.Context(), sim.UserToken())
	leave := bystander(t, f, sim.OrganizationToken())
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
		_, err := f.client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
			TeamId: simulator.SeedTeam, Description: new(strings.Repeat("d", 1100)),
		})
		if status.Code(err) != codes.ResourceExhausted || posted() != before {
			t.Errorf("a message that is too long: %v", err)
		}
		_, err = f.client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
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
	sim, url := newSimulator(t)
	a := newAuthority(t)
	f := limited(t, sim, url, a, "TEAMTOKEN_MAX_HEADER_BYTES=4096")
	me := []string{"authorization", "Bearer " + sim.UserToken().Reveal()}
	rest := strings.Replace(strings.TrimPrefix(f.rest, "https://"), "localhost", "127.0.0.1", 1)

	t.Run("grpc", func(t *testing.T) {
		raw := dialHTTP2(t, f.grpc, a.client())
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				if headers[0] != "authorization" {
					headers = append(headers, me...)
				}
				before := raw.call(t, http.MethodPost, get, me...)
				long := raw.callMessage(t, generate, headers...)
				after := raw.call(t, http.MethodPost, get, me...)
				got := raw.outcomes(t, before, long, after)
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
				long, after := raw.call(t, http.MethodPost, path), raw.call(t, http.MethodPost, get, me...)
				if got := raw.outcomes(t, long, after); got[long].Code() != codes.ResourceExhausted || got[after].Code() != codes.OK {
					t.Errorf("%v, and another %v", got[long], got[after])
				}
			})
		}
		// gRPC has no trailers of requests, and a proxy forwards them.
		for _, n := range []int{1, 33 << 10, 60 << 10, 200 << 10} {
			for name, message := range map[string][]byte{
				"with a message": frame(text(1, simulator.SeedTeam)), "without one": nil, "with half a one": frame(text(1, simulator.SeedTeam))[:4],
			} {
				t.Run(fmt.Sprintf("trailers of %d bytes, %s", n, name), func(t *testing.T) {
					before := raw.call(t, http.MethodPost, get, me...)
					trailed := raw.open(t, get, me...)
					if err := raw.WriteData(trailed, false, message); err != nil {
						t.Fatal(err)
					}
					raw.block.Reset()
					_ = raw.encoder.WriteField(hpack.HeaderField{Name: "x-trailer", Value: strings.Repeat("t", n)})
					raw.headers(t, trailed, true)
					after := raw.call(t, http.MethodPost, get, append([]string{"x-trailer", "t"}, me...)...)
					if got := raw.outcomes(t, before, trailed, after); got[before].Code() != codes.OK || got[after].Code() != codes.OK {
						t.Errorf("others over its connection: %v, %v", got[before], got[after])
					}
				})
			}
		}
	})
	t.Run("rest, HTTP/2", func(t *testing.T) {
		raw := dialHTTP2(t, rest, a.client())
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				if status, _ := raw.answer(t, raw.call(t, http.MethodGet, tokenPath, append(headers, me...)...)); status != "431" {
					t.Errorf("it is answered %s", status)
				}
				if status, _ := raw.answer(t, raw.call(t, http.MethodGet, tokenPath, me...)); status != "200" {
					t.Errorf("another one over its connection: %s", status)
				}
			})
		}
	})
	t.Run("rest, HTTP/1.1", func(t *testing.T) {
		for name, headers := range longHeaders() {
			t.Run(name, func(t *testing.T) {
				req := f.request(t.Context(), http.MethodPost, simulator.SeedTeam, sim.UserToken())
				for i := 0; i < len(headers); i += 2 {
					req.Header.Add(headers[i], headers[i+1])
				}
				config := a.client()
				transport := &http.Transport{TLSClientConfig: config} // without HTTP/2
				defer transport.CloseIdleConnections()
				resp := must((&http.Client{Transport: transport}).Do(req))
				defer resp.Body.Close()
				if e := errorsOf(t, resp); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || e.Meta.Outcome != "not_applied" || e.Meta.RequestID == "" {
					t.Errorf("it is answered %s, %+v", resp.Status, e)
				}
			})
		}
	})
	t.Run("that fit", func(t *testing.T) {
		raw := dialHTTP2(t, f.grpc, a.client())
		call := raw.call(t, http.MethodPost, get, append([]string{"x-more", strings.Repeat("h", 3000)}, me...)...)
		if got := raw.outcomes(t, call)[call]; got.Code() != codes.OK {
			t.Errorf("over gRPC: %v", got)
		}
		raw = dialHTTP2(t, rest, a.client())
		if status, _ := raw.answer(t, raw.call(t, http.MethodGet, tokenPath, append([]string{"x-more", strings.Repeat("h", 3000)}, me...)...)); status != "200" {
			t.Errorf("over REST: %s", status)
		}
	})
}

// ended waits for the other side to close a connection, and returns when it did.
func ended(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	_ = conn.SetReadDeadline(start.Add(patience))
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not closed within %v", patience)
	}
	return time.Since(start)
}

// Who connects and says nothing, or not enough, is not waited for.
func TestSilentClients(t *testing.T) {
	sim, url := newSimulator(t)
	a := newAuthority(t)
	const prompt = "200ms"
	for _, c := range []struct {
		name, setting string
		encrypted     *authority
		grpc          bool
		say           func(t *testing.T, conn net.Conn)
	}{
		{"no TLS handshake, gRPC", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, nil},
		{"no TLS handshake, REST", "TEAMTOKEN_READ_HEADER_TIMEOUT", a, false, nil},
		{"half a TLS handshake, gRPC", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, func(t *testing.T, conn net.Conn) { say(t, conn, "\x16\x03\x01") }},
		{"no HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", nil, true, nil},
		{"half an HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", nil, true, func(t *testing.T, conn net.Conn) { say(t, conn, h2.ClientPreface) }},
		{"TLS, and no HTTP/2 handshake", "TEAMTOKEN_HANDSHAKE_TIMEOUT", a, true, func(t *testing.T, conn net.Conn) {
			config := a.client()
			config.ServerName, config.NextProtos = "localhost", []string{"h2"}
			if err := tls.Client(conn, config).Handshake(); err != nil {
				t.Error(err)
			}
		}},
		{"no request", "TEAMTOKEN_READ_HEADER_TIMEOUT", nil, false, nil},
		{"half a request", "TEAMTOKEN_READ_HEADER_TIMEOUT", nil, false, func(t *testing.T, conn net.Conn) { say(t, conn, "GET "+tokenPath+" HTTP/1.1\r\nHost: x\r\nX-A: ") }},
		{"half a body", "TEAMTOKEN_READ_TIMEOUT", nil, false, func(t *testing.T, conn net.Conn) {
			say(t, conn, "POST "+tokenPath+" HTTP/1.1\r\nHost: x\r\nContent-Type: "+jsonAPI+"\r\nContent-Length: 9\r\n\r\n{")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := limited(t, sim, url, c.encrypted, c.setting+"="+prompt)
			leave := bystander(t, f, sim.OrganizationToken())
			defer leave()
			address := f.grpc
			if !c.grpc {
				_, address, _ = strings.Cut(f.rest, "://")
			}
			conn := must(net.Dial("tcp", address))
			defer conn.Close()
			if c.say != nil {
				c.say(t, conn)
			}
			if took := ended(t, conn); took > caught {
				t.Errorf("closed after %v, as if there were no %s=%s", took, c.setting, prompt)
			}
		})
	}
}

func say(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Error(err)
	}
}

// A connection without a call is closed, one with a call is not: however long
// that takes. Its client connects anew without a failed call.
func TestIdleConnections(t *testing.T) {
	sim, url := newSimulator(t)
	f := limited(t, sim, url, nil, "TEAMTOKEN_IDLE_TIMEOUT=300ms")
	ctx := as(t.Context(), sim.UserToken())
	leave := bystander(t, f, sim.OrganizationToken())
	defer leave()

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	busy := f.dial(t)
	var under sync.WaitGroup
	under.Go(func() {
		if _, err := teamtokenv1.NewTeamTokenServiceClient(busy).GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.Teams()[1].ID}); err != nil {
			t.Errorf("a call that took longer: %v", err)
		}
	})
	<-fault.Hit()

	idle := f.dial(t)
	client := teamtokenv1.NewTeamTokenServiceClient(idle)
	for range 2 { // the second time on a connection that was closed
		if _, err := client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
			t.Error(err)
		}
		leaves(t, idle, caught)
	}
	conn := must(net.Dial("tcp", strings.TrimPrefix(f.rest, "http://")))
	defer conn.Close()
	say(t, conn, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n")
	if took := ended(t, conn); took > caught {
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
	sim, url := newSimulator(t)
	f := limited(t, sim, url, nil, "TEAMTOKEN_MAX_CONNECTION_AGE=300ms")
	ctx := as(t.Context(), sim.UserToken())
	leave := bystander(t, f, sim.OrganizationToken())
	defer leave()

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	conn := f.dial(t)
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
	leaves(t, conn, caught)
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
	sim, url := newSimulator(t)
	for _, c := range []struct {
		interval string
		cut      bool
	}{{"1m", true}, {"1ms", false}} {
		t.Run(c.interval, func(t *testing.T) {
			f := limited(t, sim, url, nil, "TEAMTOKEN_MIN_PING_INTERVAL="+c.interval)
			leave := bystander(t, f, sim.OrganizationToken())
			defer leave()
			raw := dialHTTP2(t, f.grpc, nil)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			answered, why := 0, ""
			for i := range 10 {
				<-tick.C
				if raw.WritePing(false, [8]byte{byte(i)}) != nil {
					break
				}
				if away, ok := raw.until(t, func(f h2.Frame) bool {
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
	sim, url := newSimulator(t)
	f := limited(t, sim, url, nil, "TEAMTOKEN_MAX_CALLS_PER_CALLER=2")
	sim.Reset()
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 2, Hold: release})
	for i := range 2 {
		ctx, leave := context.WithCancel(as(t.Context(), sim.UserToken()))
		var left sync.WaitGroup
		left.Go(func() {
			_, err := f.client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.AnotherTeam(i), Description: new("d")})
			if status.Code(err) != codes.Canceled {
				t.Errorf("he left: %v", err)
			}
		})
		eventually(t, "his call is upstream", func() bool { return len(sim.Requests()) == i+1 })
		leave()
		left.Wait()
		eventually(t, "the server has seen him leave", func() bool { return strings.Count(f.stderr.String(), `"UPSTREAM_TIMEOUT"`) == i+1 })
	}
	read := func() error {
		_, err := f.client.GetToken(as(t.Context(), sim.UserToken()), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return err
	}
	if err := read(); apierror.FromStatus(status.Convert(err)).Reason != "CALLER_QUOTA_EXCEEDED" {
		t.Errorf("with two of his changes under way: %v", err)
	}
	close(release)
	<-fault.Done()
	eventually(t, "he may call again", func() bool { return read() == nil })
}
