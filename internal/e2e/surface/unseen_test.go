package surface_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

// The messages of the log for what is refused before it names a method.
const (
	restReached  = "a REST request names no method of this server"
	restRefused  = "a REST request was refused or broke off before it was read: its headers are too long or malformed"
	grpcUnknown  = "a gRPC call names no method of this server"
	grpcReached  = "a gRPC call did not reach its method: its encoding is unknown"
	grpcRefused  = "a gRPC call was refused as HTTP/2: its content type, method or headers are wrong"
	grpcReset    = "a gRPC call was reset as HTTP/2: its headers are too long or malformed"
	grpcNotHTTP2 = "a gRPC connection was ended: it does not speak HTTP/2"
)

// unseenIn counts what the log tells of each message, the lines that it left out included.
func unseenIn(f *harness.Server) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(f.Stderr.String()) {
		var l struct {
			Msg     string
			LeftOut int `json:"left_out"`
		}
		if json.Unmarshal([]byte(line), &l) == nil {
			counts[l.Msg] += max(1, l.LeftOut)
		}
	}
	return counts
}

var (
	onTeam  = regexp.MustCompile(`^/api/v2/teams/[^/]*/authentication-token$`)
	onTeams = regexp.MustCompile(`^/api/v2/teams/[^/]*/authentication-tokens$`)
	onToken = regexp.MustCompile(`^/api/v2/authentication-tokens/[^/]*$`)
	onList  = regexp.MustCompile(`^/api/v2/organizations/[^/]*/team-tokens$`)
)

// namesMethod reports whether a request is meant for one of the RPCs, however bad
// the rest of it is.
func namesMethod(method, target string) bool {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return false
	}
	switch method {
	case "GET", "HEAD":
		return onTeam.MatchString(u.Path) || onToken.MatchString(u.Path) || onList.MatchString(u.Path)
	case "POST":
		return onTeam.MatchString(u.Path) || onTeams.MatchString(u.Path)
	case "DELETE":
		return onTeam.MatchString(u.Path) || onToken.MatchString(u.Path)
	}
	return false
}

// Whatever is refused is in the audit, once and with its caller, if it names a method
// of the service; and otherwise in the log.
func TestNothingIsRefusedUnseen(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.Victim), "TEAMTOKEN_MESH=envoy"))
	const header, good = "X-Forwarded-Client-Cert", "URI=" + harness.Victim
	want := map[string]int{}
	lines := 0 // of the audit that are wanted
	end := func(t *testing.T, id, surface, caller string, code codes.Code) {
		t.Helper()
		var of []audit.Record
		harness.Eventually(t, "the audit has the end of the call", func() bool {
			var events string
			of, events = harness.EventsOf(f, id)
			return strings.HasSuffix(events, audit.EventRefusal) || strings.HasSuffix(events, audit.EventOutcome)
		})
		last := of[len(of)-1]
		lines += len(of)
		if last.Surface != surface || last.Caller != caller || last.Method == "" || last.Code != code.String() || last.Outcome != "" && last.Outcome != "not_applied" {
			t.Errorf("the audit has %+v, want %v over %s of %q", of, code, surface, caller)
		}
		if ends := slices.DeleteFunc(of, func(r audit.Record) bool { return r.Event == audit.EventAttempt }); len(ends) != 1 {
			t.Errorf("the call has %d ends", len(ends))
		}
	}
	codeOf := map[int]codes.Code{400: codes.InvalidArgument, 413: codes.ResourceExhausted, 415: codes.InvalidArgument, 431: codes.ResourceExhausted}
	for _, c := range slices.Concat(teamIDsOverREST(), paths(), methods(), bodies(), contentTypes(), headers(), queries(), refusedByHTTP()) {
		for _, caller := range []string{harness.Victim, ""} {
			t.Run(fmt.Sprintf("rest/%s/%q", c.name, caller), func(t *testing.T) {
				id, r := requestid.New(), c.request
				r.Headers = append([]string{requestid.Header + ": " + id}, r.Headers...)
				if caller != "" {
					r.Headers = append([]string{header + ": " + good}, r.Headers...)
				}
				resp, body := f.SendREST(t, r)
				switch {
				case c.byHTTP:
					want[restRefused]++
				case !namesMethod(r.Method, r.Target):
					want[restReached]++
				case caller == "" && c.status != 431: // too long headers are refused before anybody is asked who they are
					if resp.StatusCode != http.StatusUnauthorized {
						t.Errorf("%s: %s", resp.Status, body)
					}
					end(t, id, "rest", "", codes.Unauthenticated)
					return
				default:
					end(t, id, "rest", caller, codeOf[c.status])
				}
				if resp.StatusCode != c.status {
					t.Errorf("%s, want %d: %s", resp.Status, c.status, body)
				}
			})
		}
	}

	whole := harness.Frame(harness.Text(1, harness.Team))
	bomb := gzipBomb()
	for _, c := range []struct {
		name   string
		method string
		header [2]string
		body   []byte
		code   codes.Code
		log    string // empty for the audit
	}{
		{"a message over the limit", harness.Generate, [2]string{}, harness.Frame(make([]byte, 64<<10+1)), codes.ResourceExhausted, ""},
		{"a read's message over the limit", harness.Get, [2]string{}, harness.Frame(make([]byte, 1<<20)), codes.ResourceExhausted, ""},
		{"a frame of 4 GiB", harness.Del, [2]string{}, append([]byte{0, 0xff, 0xff, 0xff, 0xff}, whole[5:]...), codes.ResourceExhausted, ""},
		{"a little gzip of a very long message", harness.Generate, [2]string{"grpc-encoding", "gzip"}, bomb, codes.ResourceExhausted, ""},
		{"what is said to be gzip and is not", harness.List, [2]string{"grpc-encoding", "gzip"}, append([]byte{1}, whole[1:]...), codes.Internal, ""},
		{"bytes that are no message", harness.Named, [2]string{}, harness.Frame([]byte{0xff}), codes.InvalidArgument, ""},
		{"a message of another type", harness.DelByID, [2]string{}, harness.Frame([]byte{0x0a, 0x15, 't'}), codes.InvalidArgument, ""},
		{"no frame", harness.Generate, [2]string{}, nil, codes.Internal, ""},
		{"a frame cut short", harness.GetByID, [2]string{}, whole[:len(whole)-1], codes.Internal, ""},
		{"the head of a frame cut short", harness.Generate, [2]string{}, whole[:3], codes.Internal, ""},
		{"two frames", harness.Generate, [2]string{}, slices.Concat(whole, whole), codes.Internal, ""},
		{"a frame, and a byte", harness.Generate, [2]string{}, slices.Concat(whole, []byte{0}), codes.Internal, ""},
		{"a compressed frame without an encoding", harness.Generate, [2]string{}, append([]byte{1}, whole[1:]...), codes.Internal, ""},
		{"a flag that is not known", harness.Generate, [2]string{}, append([]byte{0xff}, whole[1:]...), codes.Internal, ""},
		{"a frame over the limit, cut short", harness.Generate, [2]string{}, harness.Frame(make([]byte, 1<<20))[:100], codes.ResourceExhausted, ""},

		{"an encoding that is not known", harness.Generate, [2]string{"grpc-encoding", "nonsense"}, whole, codes.Unimplemented, ""},
		{"an encoding that is not served", harness.Get, [2]string{"grpc-encoding", "snappy"}, whole, codes.Unimplemented, ""},
		{"an encoding that is not known, and no message", harness.Del, [2]string{"grpc-encoding", "nonsense"}, nil, codes.Unimplemented, ""},
		{"a deadline that is over on arrival", harness.Generate, [2]string{"grpc-timeout", "1n"}, whole, codes.DeadlineExceeded, ""},
		{"a deadline of nothing", harness.List, [2]string{"grpc-timeout", "0S"}, whole, codes.DeadlineExceeded, ""},
		{"a health check of an encoding that is not known", "/grpc.health.v1.Health/Check", [2]string{"grpc-encoding", "nonsense"}, harness.Frame(nil), codes.Unimplemented, grpcReached},
		{"a health watch of an encoding that is not known", "/grpc.health.v1.Health/Watch", [2]string{"grpc-encoding", "nonsense"}, harness.Frame(nil), codes.Unimplemented, grpcReached},
		{"reflection of an encoding that is not known", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [2]string{"grpc-encoding", "nonsense"}, harness.Frame(nil), codes.Unimplemented, grpcReached},
		{"a timeout without a unit", harness.Generate, [2]string{"grpc-timeout", "1"}, whole, codes.Internal, grpcRefused},
		{"an empty timeout", harness.Generate, [2]string{"grpc-timeout", ""}, whole, codes.Internal, grpcRefused},
		{"a timeout of nine digits", harness.Get, [2]string{"grpc-timeout", "123456789S"}, whole, codes.Internal, grpcRefused},
		{"bytes that are not base64", harness.Generate, [2]string{"x-a-bin", "%"}, whole, codes.Internal, grpcRefused},
		{"a body of JSON", harness.Generate, [2]string{"Content-Type", "application/json"}, []byte("{}"), codes.InvalidArgument, grpcRefused},
		{"no content type", harness.Get, [2]string{"Content-Type", ""}, whole, codes.InvalidArgument, grpcRefused},
	} {
		for _, caller := range []string{harness.Victim, ""} {
			t.Run(fmt.Sprintf("grpc/%s/%q", c.name, caller), func(t *testing.T) {
				id := requestid.New()
				headers := [][2]string{{requestid.Header, id}}
				if c.header[0] != "" {
					headers = append(headers, c.header)
				}
				if caller != "" {
					headers = append(headers, [2]string{strings.ToLower(header), good})
				}
				code := c.code
				if caller == "" && code == codes.InvalidArgument && c.log == "" { // it has reached the interceptors
					code = codes.Unauthenticated
				}
				if st := f.SendGRPC(t, harness.HTTP2(t), c.method, headers, c.body); st.Code() != code {
					t.Errorf("%v: %s; want %v", st.Code(), st.Message(), code)
				}
				if c.log != "" {
					want[c.log]++
					return
				}
				end(t, id, "grpc", caller, code)
			})
		}
	}
	for _, c := range unknownMethods() {
		t.Run("grpc/"+c.name, func(t *testing.T) {
			c.run(t, f, harness.HTTP2(t))
			want[grpcUnknown]++
		})
	}
	for name, raw := range map[string]struct {
		method, path string
		headers      []string
		log          string
	}{
		"a GET":                {http.MethodGet, harness.Generate, []string{"content-type", "application/grpc"}, grpcRefused},
		"a path without slash": {http.MethodPost, harness.Generate[1:], nil, grpcUnknown},
		"a connection header":  {http.MethodPost, harness.Generate, []string{"connection", "close"}, grpcReset},
	} {
		t.Run("grpc/"+name, func(t *testing.T) {
			c := harness.DialHTTP2(t, f.GRPC, nil)
			stream := c.Call(t, raw.method, raw.path, raw.headers...)
			var answer []string
			c.Until(t, func(fr h2.Frame) bool { return harness.Ends(fr, stream, &answer) })
			want[raw.log]++
		})
	}
	t.Run("grpc/on one connection, again and again", func(t *testing.T) {
		c := harness.DialHTTP2(t, f.GRPC, nil)
		for range 3 {
			for _, bad := range [][]string{{"content-type", "application/json"}, {"content-type", "text/plain"}, {"grpc-timeout", "never"}} {
				c.Outcomes(t, c.CallMessage(t, harness.Generate, bad...))
				want[grpcRefused]++
			}
			c.Outcomes(t, c.Call(t, http.MethodGet, harness.Generate))
			want[grpcRefused]++
			watch := c.Open(t, "/grpc.health.v1.Health/Check") // a good call between
			if err := c.WriteData(watch, true, harness.Frame(nil)); err != nil {
				t.Fatal(err)
			}
			c.Outcomes(t, watch)
		}
	})
	t.Run("grpc/no HTTP/2", func(t *testing.T) {
		refusesBytes(t, f.GRPC, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		want[grpcNotHTTP2]++
	})
	for message, n := range want {
		t.Run("log/"+message, func(t *testing.T) {
			if n == 0 {
				t.Fatal("there is no case")
			}
			harness.Eventually(t, fmt.Sprintf("the log tells of %d", n), func() bool { return unseenIn(f)[message] >= n })
			if got := unseenIn(f)[message]; got != n {
				t.Errorf("the log tells of %d, want %d", got, n)
			}
		})
	}
	if n := len(sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
	if got := len(f.Audited()); got != lines {
		t.Errorf("the audit has %d lines, want %d", got, lines)
	}
	t.Logf("%d lines of the audit; in the log %v", lines, want)
}

// refusesBytes sends bytes on a connection of its own, and waits until that is ended.
func refusesBytes(t *testing.T, address, content string) {
	t.Helper()
	conn := dialed(t, address)
	harness.Say(t, conn, content)
	for b := make([]byte, 512); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

func dialed(t *testing.T, address string) net.Conn {
	t.Helper()
	conn := harness.Must(net.Dial("tcp", address))
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(harness.Patience))
	return conn
}

// A health check that reaches its method is no refusal, whatever it is told: whoever
// asks every few seconds writes nothing to the log.
func TestHealthChecksAreNotUnseen(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	health := grpc_health_v1.NewHealthClient(f.Conn)
	for _, service := range []string{"", "teamtoken.v1.TeamTokenService", "nobody"} {
		_, _ = health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	}
	if _, err := health.List(t.Context(), &grpc_health_v1.HealthListRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.UseCompressor(unknownToServer{}.Name()))
	if status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	harness.Eventually(t, "the check of an unknown encoding is told", func() bool { return unseenIn(f)[grpcReached] > 0 })
	if n := unseenIn(f)[grpcReached]; n != 1 {
		t.Errorf("%d calls were told, and one did not reach its method", n)
	}
}

// unknownToServer is a compressor that the program does not have.
type unknownToServer struct{}

func (unknownToServer) Name() string { return "unknown-to-server" }

func (unknownToServer) Compress(w io.Writer) (io.WriteCloser, error) { return nopWriteCloser{w}, nil }

func (unknownToServer) Decompress(r io.Reader) (io.Reader, error) { return r, nil }

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func init() { encoding.RegisterCompressor(unknownToServer{}) }

// What is refused of a connection over HTTP/1.1 on which a good request came before, in the
// same packet or after its answer, is in the log, in the clear and over TLS. What is
// answered, and a connection that ends between requests, are not.
func TestRefusedAfterAGoodRequest(t *testing.T) {
	t.Parallel()
	const good, goodbye = "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n", "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, secure := range []bool{false, true} {
		sim, url := harness.NewSimulator(t)
		s := harness.WithService(sim, url)
		if secure {
			s.TLS = harness.NewAuthority(t)
		}
		f := harness.Start(t, s)
		want := 0
		for _, c := range []struct {
			name, first, second string
			refused             bool
		}{
			{"nothing", good, "", false},
			{"another good one", good, goodbye, false},
			{"two more good ones", good, good + goodbye, false},
			{"one that names no method", good, "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false},
			{"no HTTP", good, "nonsense\r\n\r\n", true},
			{"no host", good, "GET /api/v2/ping HTTP/1.1\r\n\r\n", true},
			{"a header without a colon", good, "GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", true},
			{"two lengths", good, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", true},
			{"a transfer encoding that is not known", good, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", true},
			{"a version that is not known", good, "GET / HTTP/4.2\r\nHost: x\r\n\r\n", true},
			{"an expectation", good, "GET / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n", true},
			{"no HTTP after two good ones", good + good, "nonsense\r\n\r\n", true},
		} {
			for _, pipelined := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, pipelined %v, TLS %v", c.name, pipelined, secure), func(t *testing.T) {
					conn := dialed(t, f.HostPort())
					if secure {
						config := f.TLS.Clone()
						config.ServerName, config.NextProtos = "localhost", nil
						conn = tls.Client(conn, config)
					}
					answers := bufio.NewReader(conn)
					if pipelined {
						harness.Say(t, conn, c.first+c.second)
					} else {
						harness.Say(t, conn, c.first)
					}
					for range strings.Count(c.first, "\r\n\r\n") {
						if resp := harness.Must(http.ReadResponse(answers, nil)); resp.StatusCode != http.StatusNoContent {
							t.Fatal(resp.Status)
						}
					}
					if !pipelined {
						harness.Say(t, conn, c.second)
					}
					if c.second != "" {
						_, _ = io.Copy(io.Discard, answers)
					}
					_ = conn.Close()
					if c.refused {
						want++
					}
					harness.Eventually(t, fmt.Sprintf("the log tells of %d", want), func() bool { return unseenIn(f)[restRefused] >= want })
					if got := unseenIn(f)[restRefused]; got != want {
						t.Errorf("the log tells of %d, want %d", got, want)
					}
				})
			}
		}
	}
}
