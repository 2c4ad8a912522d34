package e2e

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
func unseenIn(f *facade) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(f.stderr.String()) {
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
	sim, url := newSimulator(t)
	f := start(t, withPolicy(t, sim, url, policyFor(victim), "TEAMTOKEN_MESH=envoy"))
	const header, good = "X-Forwarded-Client-Cert", "URI=" + victim
	want := map[string]int{}
	lines := 0 // of the audit that are wanted
	end := func(t *testing.T, id, surface, caller string, code codes.Code) {
		t.Helper()
		var of []audit.Record
		eventually(t, "the audit has the end of the call", func() bool {
			var events string
			of, events = eventsOf(f, id)
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
		for _, caller := range []string{victim, ""} {
			t.Run(fmt.Sprintf("rest/%s/%q", c.name, caller), func(t *testing.T) {
				id, r := requestid.New(), c.request
				r.headers = append([]string{requestid.Header + ": " + id}, r.headers...)
				if caller != "" {
					r.headers = append([]string{header + ": " + good}, r.headers...)
				}
				resp, body := f.sendREST(t, r)
				switch {
				case c.byHTTP:
					want[restRefused]++
				case !namesMethod(r.method, r.target):
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

	whole := frame(text(1, team))
	bomb := gzipBomb()
	for _, c := range []struct {
		name   string
		method string
		header [2]string
		body   []byte
		code   codes.Code
		log    string // empty for the audit
	}{
		{"a message over the limit", generate, [2]string{}, frame(make([]byte, 64<<10+1)), codes.ResourceExhausted, ""},
		{"a read's message over the limit", get, [2]string{}, frame(make([]byte, 1<<20)), codes.ResourceExhausted, ""},
		{"a frame of 4 GiB", del, [2]string{}, append([]byte{0, 0xff, 0xff, 0xff, 0xff}, whole[5:]...), codes.ResourceExhausted, ""},
		{"a little gzip of a very long message", generate, [2]string{"grpc-encoding", "gzip"}, bomb, codes.ResourceExhausted, ""},
		{"what is said to be gzip and is not", list, [2]string{"grpc-encoding", "gzip"}, append([]byte{1}, whole[1:]...), codes.Internal, ""},
		{"bytes that are no message", named, [2]string{}, frame([]byte{0xff}), codes.InvalidArgument, ""},
		{"a message of another type", delByID, [2]string{}, frame([]byte{0x0a, 0x15, 't'}), codes.InvalidArgument, ""},
		{"no frame", generate, [2]string{}, nil, codes.Internal, ""},
		{"a frame cut short", getByID, [2]string{}, whole[:len(whole)-1], codes.Internal, ""},
		{"the head of a frame cut short", generate, [2]string{}, whole[:3], codes.Internal, ""},
		{"two frames", generate, [2]string{}, slices.Concat(whole, whole), codes.Internal, ""},
		{"a frame, and a byte", generate, [2]string{}, slices.Concat(whole, []byte{0}), codes.Internal, ""},
		{"a compressed frame without an encoding", generate, [2]string{}, append([]byte{1}, whole[1:]...), codes.Internal, ""},
		{"a flag that is not known", generate, [2]string{}, append([]byte{0xff}, whole[1:]...), codes.Internal, ""},
		{"a frame over the limit, cut short", generate, [2]string{}, frame(make([]byte, 1<<20))[:100], codes.ResourceExhausted, ""},

		{"an encoding that is not known", generate, [2]string{"grpc-encoding", "nonsense"}, whole, codes.Unimplemented, ""},
		{"an encoding that is not served", get, [2]string{"grpc-encoding", "snappy"}, whole, codes.Unimplemented, ""},
		{"an encoding that is not known, and no message", del, [2]string{"grpc-encoding", "nonsense"}, nil, codes.Unimplemented, ""},
		{"a deadline that is over on arrival", generate, [2]string{"grpc-timeout", "1n"}, whole, codes.DeadlineExceeded, ""},
		{"a deadline of nothing", list, [2]string{"grpc-timeout", "0S"}, whole, codes.DeadlineExceeded, ""},
		{"a health check of an encoding that is not known", "/grpc.health.v1.Health/Check", [2]string{"grpc-encoding", "nonsense"}, frame(nil), codes.Unimplemented, grpcReached},
		{"a health watch of an encoding that is not known", "/grpc.health.v1.Health/Watch", [2]string{"grpc-encoding", "nonsense"}, frame(nil), codes.Unimplemented, grpcReached},
		{"reflection of an encoding that is not known", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [2]string{"grpc-encoding", "nonsense"}, frame(nil), codes.Unimplemented, grpcReached},
		{"a timeout without a unit", generate, [2]string{"grpc-timeout", "1"}, whole, codes.Internal, grpcRefused},
		{"an empty timeout", generate, [2]string{"grpc-timeout", ""}, whole, codes.Internal, grpcRefused},
		{"a timeout of nine digits", get, [2]string{"grpc-timeout", "123456789S"}, whole, codes.Internal, grpcRefused},
		{"bytes that are not base64", generate, [2]string{"x-a-bin", "%"}, whole, codes.Internal, grpcRefused},
		{"a body of JSON", generate, [2]string{"Content-Type", "application/json"}, []byte("{}"), codes.InvalidArgument, grpcRefused},
		{"no content type", get, [2]string{"Content-Type", ""}, whole, codes.InvalidArgument, grpcRefused},
	} {
		for _, caller := range []string{victim, ""} {
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
				if st := f.sendGRPC(t, http2(t), c.method, headers, c.body); st.Code() != code {
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
			c.run(t, f, http2(t))
			want[grpcUnknown]++
		})
	}
	for name, raw := range map[string]struct {
		method, path string
		headers      []string
		log          string
	}{
		"a GET":                {http.MethodGet, generate, []string{"content-type", "application/grpc"}, grpcRefused},
		"a path without slash": {http.MethodPost, generate[1:], nil, grpcUnknown},
		"a connection header":  {http.MethodPost, generate, []string{"connection", "close"}, grpcReset},
	} {
		t.Run("grpc/"+name, func(t *testing.T) {
			c := dialHTTP2(t, f.grpc, nil)
			stream := c.call(t, raw.method, raw.path, raw.headers...)
			var answer []string
			c.until(t, func(fr h2.Frame) bool { return ends(fr, stream, &answer) })
			want[raw.log]++
		})
	}
	t.Run("grpc/on one connection, again and again", func(t *testing.T) {
		c := dialHTTP2(t, f.grpc, nil)
		for range 3 {
			for _, bad := range [][]string{{"content-type", "application/json"}, {"content-type", "text/plain"}, {"grpc-timeout", "never"}} {
				c.outcomes(t, c.callMessage(t, generate, bad...))
				want[grpcRefused]++
			}
			c.outcomes(t, c.call(t, http.MethodGet, generate))
			want[grpcRefused]++
			watch := c.open(t, "/grpc.health.v1.Health/Check") // a good call between
			if err := c.WriteData(watch, true, frame(nil)); err != nil {
				t.Fatal(err)
			}
			c.outcomes(t, watch)
		}
	})
	t.Run("grpc/no HTTP/2", func(t *testing.T) {
		refusesBytes(t, f.grpc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		want[grpcNotHTTP2]++
	})
	for message, n := range want {
		t.Run("log/"+message, func(t *testing.T) {
			if n == 0 {
				t.Fatal("there is no case")
			}
			eventually(t, fmt.Sprintf("the log tells of %d", n), func() bool { return unseenIn(f)[message] >= n })
			if got := unseenIn(f)[message]; got != n {
				t.Errorf("the log tells of %d, want %d", got, n)
			}
		})
	}
	if n := len(sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
	if got := len(f.audited()); got != lines {
		t.Errorf("the audit has %d lines, want %d", got, lines)
	}
	t.Logf("%d lines of the audit; in the log %v", lines, want)
}

// refusesBytes sends bytes on a connection of its own, and waits until that is ended.
func refusesBytes(t *testing.T, address, content string) {
	t.Helper()
	conn := dialed(t, address)
	say(t, conn, content)
	for b := make([]byte, 512); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

func dialed(t *testing.T, address string) net.Conn {
	t.Helper()
	conn := must(net.Dial("tcp", address))
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// A health check that reaches its method is no refusal, whatever it is told: whoever
// asks every few seconds writes nothing to the log.
func TestHealthChecksAreNotUnseen(t *testing.T) {
	sim, url := newSimulator(t)
	f := start(t, withService(sim, url))
	health := grpc_health_v1.NewHealthClient(f.conn)
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
	eventually(t, "the check of an unknown encoding is told", func() bool { return unseenIn(f)[grpcReached] > 0 })
	if n := unseenIn(f)[grpcReached]; n != 1 {
		t.Errorf("%d calls were told, and one did not reach its method", n)
	}
}

// unknownToServer is a compressor that the program does not have.
type unknownToServer struct{}

func (unknownToServer) Name() string                                 { return "unknown-to-server" }
func (unknownToServer) Compress(w io.Writer) (io.WriteCloser, error) { return nopWriteCloser{w}, nil }
func (unknownToServer) Decompress(r io.Reader) (io.Reader, error)    { return r, nil }

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func init() { encoding.RegisterCompressor(unknownToServer{}) }

// What is refused of a connection over HTTP/1.1 on which a good request came before, in the
// same packet or after its answer, is in the log, in the clear and over TLS. What is
// answered, and a connection that ends between requests, are not.
func TestRefusedAfterAGoodRequest(t *testing.T) {
	const good, goodbye = "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n", "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, secure := range []bool{false, true} {
		sim, url := newSimulator(t)
		s := withService(sim, url)
		if secure {
			s.tls = newAuthority(t)
		}
		f := start(t, s)
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
					conn := dialed(t, f.restAddress())
					if secure {
						config := f.tls.Clone()
						config.ServerName, config.NextProtos = "localhost", nil
						conn = tls.Client(conn, config)
					}
					answers := bufio.NewReader(conn)
					if pipelined {
						say(t, conn, c.first+c.second)
					} else {
						say(t, conn, c.first)
					}
					for range strings.Count(c.first, "\r\n\r\n") {
						if resp := must(http.ReadResponse(answers, nil)); resp.StatusCode != http.StatusNoContent {
							t.Fatal(resp.Status)
						}
					}
					if !pipelined {
						say(t, conn, c.second)
					}
					if c.second != "" {
						_, _ = io.Copy(io.Discard, answers)
					}
					_ = conn.Close()
					if c.refused {
						want++
					}
					eventually(t, fmt.Sprintf("the log tells of %d", want), func() bool { return unseenIn(f)[restRefused] >= want })
					if got := unseenIn(f)[restRefused]; got != want {
						t.Errorf("the log tells of %d, want %d", got, want)
					}
				})
			}
		}
	}
}
