package surface_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// unasked stands in what no upstream should send, and must not be seen anywhere.
const unasked = "QnbSxjjhVMHJgw.atlasv1.neverToBeSeenAnywhereButInItsAnswer"

// rawUpstream answers every request over HTTP/1.1 with these bytes, as they are,
// and leaves the connection open. It counts the requests by method.
type rawUpstream struct {
	url  string
	mu   sync.Mutex
	seen map[string]int
}

func newRawUpstream(t *testing.T, answer string) *rawUpstream {
	t.Helper()
	l := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = l.Close() })
	u := &rawUpstream{url: "http://" + l.Addr().String(), seen: map[string]int{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(conn, answer)
		}
	}()
	return u
}

func (u *rawUpstream) serve(conn net.Conn, answer string) {
	defer conn.Close()
	for requests := bufio.NewReader(conn); ; {
		r, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		u.mu.Lock()
		u.seen[r.Method]++
		u.mu.Unlock()
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

func document(team, secret string) string {
	return `{"data":{"id":"at-1","type":"authentication-tokens","attributes":{"token":"` + secret + `"},` +
		`"relationships":{"team":{"data":{"id":"` + team + `","type":"teams"}}}}}`
}

// An upstream that breaks HTTP itself gets one request, whose outcome is not
// lied about, and nothing of what it sends is seen.
func TestUpstreamThatBreaksHTTP(t *testing.T) {
	t.Parallel()
	json := "Content-Type: application/vnd.api+json\r\n"
	other := document("team-0000000000000000", unasked)
	for _, c := range []struct {
		name, answer string
		code         codes.Code
		outcome      string
	}{
		{"an answer, and another that nobody asked for", "HTTP/1.1 204 No Content\r\n\r\n" + document(simulator.SeedTeam, unasked), codes.Internal, "applied_undelivered"},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", codes.Unknown, "unknown"},
		{"no HTTP", unasked + "\r\n\r\n", codes.Unknown, "unknown"},
		{"a header that is none", "HTTP/1.1 201 Created\r\n" + unasked + "\r\n\r\n", codes.Unknown, "unknown"},
		{"a status that is none", "HTTP/1.1 " + unasked + "\r\n\r\n", codes.Unknown, "unknown"},
		{"chunks that are none", "HTTP/1.1 201 Created\r\n" + json + "Transfer-Encoding: chunked\r\n\r\n" + unasked + "\r\n", codes.Internal, "applied_undelivered"},
		{"a body of more than 64 KiB", "HTTP/1.1 201 Created\r\n" + json + "Content-Length: 70000\r\n\r\n" + strings.Repeat(" ", 70000), codes.Internal, "applied_undelivered"},
		{"another team's token", "HTTP/1.1 201 Created\r\n" + json + "Content-Length: " + strconv.Itoa(len(other)) + "\r\n\r\n" + other, codes.Unknown, "unknown"},
		{"an expired wait", "HTTP/1.1 429 Too Many Requests\r\nX-RateLimit-Reset: 7\r\nContent-Length: 0\r\n\r\n", codes.ResourceExhausted, "not_applied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newRawUpstream(t, c.answer)
			f := harness.Start(t, harness.Settings{Upstream: u.url, Env: []string{
				"TFE_TOKEN=svc", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
				"TEAMTOKEN_UPSTREAM_TIMEOUT=5s", "TEAMTOKEN_REQUEST_TIMEOUT=5s",
			}})
			_, err := f.Client.GenerateToken(context.Background(), harness.Asking(""))
			if d := apierror.FromStatus(status.Convert(err)); status.Code(err) != c.code || d.Outcome != c.outcome {
				t.Errorf("%v, outcome %q, want %v, %q", err, d.Outcome, c.code, c.outcome)
			}
			f.Stop(t, harness.Patience)
			u.mu.Lock()
			defer u.mu.Unlock()
			if u.seen[http.MethodPost] != 1 {
				t.Errorf("%d requests", u.seen[http.MethodPost])
			}
			if form := harness.Leaked(f.Stdout.String()+f.Stderr.String()+f.Answers.String(), unasked); form != "" {
				t.Errorf("what the upstream sent is seen, %s", form)
			}
		})
	}
}

// A call that is made again, whose token cannot be read, is not said to have
// changed nothing: it had.
func TestReplayThatCannotBeChecked(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	if _, err := f.Client.GenerateToken(t.Context(), harness.Asking("once")); err != nil {
		t.Fatal(err)
	}
	sim.Inject(simulator.Fault{Method: http.MethodGet, Status: http.StatusServiceUnavailable, Times: -1})
	_, err := f.Client.GenerateToken(t.Context(), harness.Asking("once"))
	if d := apierror.FromStatus(status.Convert(err)); status.Code(err) != codes.Unknown || d.Outcome != "applied_undelivered" {
		t.Errorf("%v, outcome %q", err, d.Outcome)
	}
	sim.Reset()
	if _, err := f.Client.GenerateToken(t.Context(), harness.Asking("once")); err != nil || len(sim.Minted()) != 1 {
		t.Errorf("later it is: %v, %d tokens", err, len(sim.Minted()))
	}
}

// A stream whose message never comes is ended by the server.
func TestStreamWithoutMessage(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_REQUEST_TIMEOUT=1ms") // and readTimeout on top
	f := harness.Start(t, s)
	stream, err := f.Conn.NewStream(t.Context(), &grpc.StreamDesc{StreamName: "GenerateToken"}, harness.Generate)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&teamtokenv1.GenerateTokenResponse{}); status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Canceled {
		t.Errorf("it ends by itself: %v", err)
	}
}
