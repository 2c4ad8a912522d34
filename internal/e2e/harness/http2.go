package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// Caught is how soon after a limit a client must notice: far less than the
// limit's default, and far more than a busy machine takes.
const Caught = 3 * time.Second

// BackgroundCaller is somebody else, who calls all the time over both surfaces, on
// connections that he keeps. The function that is returned ends him, and fails
// the test if a call of his failed. He only reads: a team must have a token.
func BackgroundCaller(t *testing.T, f *Server, credential secret.Text) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(As(context.Background(), credential))
	client := teamtokenv1.NewTeamTokenServiceClient(f.Dial(t))
	browser := f.NewHTTPClient(t, f.TLS)
	read := func() error {
		if _, err := client.GetToken(context.WithoutCancel(ctx), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
			return err
		}
		return IsOK(browser, f.Request(context.WithoutCancel(ctx), http.MethodGet, simulator.SeedTeam, credential))
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

// IsOK makes a request, and returns an error unless it is answered with 200.
func IsOK(client *http.Client, req *http.Request) error {
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

// Limited starts the program with callers' own credentials and these settings,
// and gives the seed's team a token for bystanders to read.
func Limited(t *testing.T, sim *simulator.Simulator, url string, encrypted *Authority, env ...string) *Server {
	t.Helper()
	s := WithCallers(sim, url)
	s.TLS = encrypted
	s.Env = append(s.Env, env...)
	f := Start(t, s)
	if _, err := f.Client.GenerateToken(As(t.Context(), sim.OwnerToken()), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Fatal(err)
	}
	return f
}

// RawHTTP2 is a connection on which frames go out as the test makes them.
type RawHTTP2 struct {
	*h2.Framer
	Conn     net.Conn
	Settings map[h2.SettingID]uint32 // the server's
	Block    bytes.Buffer
	Encoder  *hpack.Encoder
	next     uint32 // the id of the stream that is opened next
}

// DialHTTP2 makes the handshake of HTTP/2.
func DialHTTP2(t *testing.T, address string, config *tls.Config) *RawHTTP2 {
	t.Helper()
	conn := Must(net.Dial("tcp", address))
	t.Cleanup(func() { _ = conn.Close() })
	if config != nil {
		config = config.Clone()
		config.NextProtos, config.ServerName = []string{"h2"}, "localhost"
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(Patience))
	if _, err := io.WriteString(conn, h2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &RawHTTP2{Framer: h2.NewFramer(conn, conn), Conn: conn, Settings: map[h2.SettingID]uint32{}, next: 1}
	c.Encoder = hpack.NewEncoder(&c.Block)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	settings, ok := c.Until(t, func(f h2.Frame) bool {
		s, ok := f.(*h2.SettingsFrame)
		return ok && !s.IsAck()
	}).(*h2.SettingsFrame)
	if !ok {
		t.Fatal("the server sent no settings")
	}
	_ = settings.ForeachSetting(func(s h2.Setting) error { c.Settings[s.ID] = s.Val; return nil })
	if err := c.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Until reads frames up to one that is meant, which is nil if the connection
// ends before it.
func (c *RawHTTP2) Until(t *testing.T, meant func(h2.Frame) bool) h2.Frame {
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

// Call opens a stream with a whole GetToken over gRPC, or what method and path say.
func (c *RawHTTP2) Call(t *testing.T, method, path string, headers ...string) (stream uint32) {
	t.Helper()
	if method == http.MethodPost {
		return c.CallMessage(t, path, headers...)
	}
	c.fields(method, path, headers...)
	stream = c.stream()
	c.Headers(t, stream, true)
	return stream
}

// Start is Call, with trailers after its message.
func (c *RawHTTP2) Start(t *testing.T, method, path string, trailers []string, headers ...string) (stream uint32) {
	t.Helper()
	if trailers == nil {
		return c.Call(t, method, path, headers...)
	}
	c.fields(method, path, headers...)
	stream = c.stream()
	c.Headers(t, stream, false)
	if method == http.MethodPost {
		if err := c.WriteData(stream, false, Frame(Text(1, simulator.SeedTeam))); err != nil {
			t.Fatal(err)
		}
	}
	c.Block.Reset()
	for i := 0; i < len(trailers); i += 2 {
		_ = c.Encoder.WriteField(hpack.HeaderField{Name: trailers[i], Value: trailers[i+1]})
	}
	c.Headers(t, stream, true)
	return stream
}

// CallMessage makes a call over gRPC whose message names the seed's team.
func (c *RawHTTP2) CallMessage(t *testing.T, path string, headers ...string) (stream uint32) {
	t.Helper()
	stream = c.Open(t, path, headers...)
	if err := c.WriteData(stream, true, Frame(Text(1, simulator.SeedTeam))); err != nil {
		t.Fatal(err)
	}
	return stream
}

// Open begins a call over gRPC.
func (c *RawHTTP2) Open(t *testing.T, path string, headers ...string) (stream uint32) {
	t.Helper()
	c.fields(http.MethodPost, path, headers...)
	stream = c.stream()
	c.Headers(t, stream, false)
	return stream
}

func (c *RawHTTP2) stream() uint32 {
	c.next += 2
	return c.next - 2
}

// fields makes the header block of a request.
func (c *RawHTTP2) fields(method, path string, headers ...string) {
	c.Block.Reset()
	write := func(name, value string) { _ = c.Encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) }
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

// Headers sends the header block.
func (c *RawHTTP2) Headers(t *testing.T, stream uint32, last bool) {
	t.Helper()
	block := c.Block.Bytes()
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

// Outcomes are what gRPC calls end with. Of a stream that is reset it is CANCELLED,
// and UNAVAILABLE of all that are open when the connection ends.
func (c *RawHTTP2) Outcomes(t *testing.T, streams ...uint32) map[uint32]*status.Status {
	t.Helper()
	got := map[uint32]*status.Status{}
	for len(got) < len(streams) {
		switch f := c.Until(t, func(f h2.Frame) bool {
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
			st.Code = int32(Must(strconv.Atoi(h.Value)))
		case "grpc-status-details-bin":
			if err := proto.Unmarshal(Must(base64.RawStdEncoding.DecodeString(h.Value)), &st); err != nil {
				t.Error(err)
			}
		}
	}
	return status.FromProto(&st)
}

// Answer is the first of what comes back on a stream, and the status that it tells.
func (c *RawHTTP2) Answer(t *testing.T, stream uint32) (status string, reset bool) {
	t.Helper()
	switch got := c.Until(t, func(f h2.Frame) bool {
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

// Say writes to a connection, and fails the test if it cannot.
func Say(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Error(err)
	}
}
