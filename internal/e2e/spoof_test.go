package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// victim is the caller who may do everything, and whom others would like to be.
const victim = "spiffe://teamtoken.test/ns/ci/sa/victim"

// claims are headers by which somebody might be taken for victim, somewhere.
var claims = [][2]string{
	{"x-forwarded-client-cert", "By=spiffe://teamtoken.test/tt;Hash=00;URI=" + victim},
	{"x-forwarded-client-cert", "URI=" + victim + ",URI=" + victim},
	{"l5d-client-id", "victim.teamtoken.test"},
	{"x-spiffe-id", victim},
	{"x-caller", victim},
	{"caller", victim},
	{"x-teamtoken-caller", victim},
	{"x-forwarded-for", "127.0.0.2"},
	{"forwarded", "for=127.0.0.2"},
	{"x-real-ip", "127.0.0.2"},
	{"x-envoy-external-address", "127.0.0.2"},
	{"x-envoy-internal", "true"},
	{"x-client-cert", victim},
	{"ssl-client-cert", victim},
	{"x-ssl-client-s-dn", "CN=victim"},
	{"x-jwt-payload", "eyJzdWIiOiJ2aWN0aW0ifQ"},
	{"x-endpoint-api-userinfo", "eyJzdWIiOiJ2aWN0aW0ifQ"},
	{"x-remote-user", victim},
	{"x-forwarded-user", victim},
	{"x-goog-authenticated-user-id", victim},
}

// forms are the ways in which a header may be sent.
var forms = map[string]func(name, value string) []string{
	"plain":               func(n, v string) []string { return []string{n, v} },
	"doubled":             func(n, v string) []string { return []string{n, v, n, v} },
	"as Grpc-Metadata":    func(n, v string) []string { return []string{"grpc-metadata-" + n, v} },
	"as Grpcgateway":      func(n, v string) []string { return []string{"grpcgateway-" + n, v} },
	"twice Grpc-Metadata": func(n, v string) []string { return []string{"grpc-metadata-grpc-metadata-" + n, v} },
	"with underscores":    func(n, v string) []string { return []string{strings.ReplaceAll(n, "-", "_"), v} },
	"all at once": func(n, v string) []string {
		return []string{n, v, "grpc-metadata-" + n, v, "grpcgateway-" + n, v, "connection", n}
	},
}

// Whoever says by a header that he is another is still who he is, by what he can
// be known by, or nobody.
func TestSpoofing(t *testing.T) {
	const me = "spiffe://teamtoken.test/ns/ci/sa/me"
	sim, url := newSimulator(t)
	ca := newAuthority(t)
	rules := policyFor(victim, "victim.teamtoken.test", jwtIssuer+"#victim")
	mutual := []string{"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + ca.caFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional"}
	meshed := func(kind string) []string {
		return append([]string{"TEAMTOKEN_MESH=" + kind, "TEAMTOKEN_MESH_PEERS=127.0.0.2/32"}, mutual...)
	}
	key := newSigner(t, "k")
	byJWT := []string{"TEAMTOKEN_JWT_ISSUER=" + jwtIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + jwtAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + written(t, jwks(key))}
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	for name, env := range map[string][]string{
		"a mesh whose proxy is elsewhere":          meshed("envoy"),
		"the other mesh, whose proxy is elsewhere": meshed("linkerd"),
		"certificates": mutual,
		"JWTs":         byJWT,
	} {
		s := withPolicy(t, sim, url, rules, env...)
		configs := map[string]*tls.Config{"": nil} // by who is known; nobody in the clear
		if name != "JWTs" {
			s.tls = ca
			configs = map[string]*tls.Config{"": ca.client(), me: ca.holder(t, me)}
		}
		f := start(t, s)
		for who, config := range configs {
			reason := "CALLER_UNAUTHENTICATED"
			if who != "" {
				reason = "CALLER_NOT_ALLOWED"
			}
			c := f.as(t, sim, config, "127.0.0.1")
			for _, claim := range claims {
				for form, of := range forms {
					for _, surface := range []string{"grpc", "rest"} {
						c.headers = http.Header{}
						headers := of(claim[0], claim[1])
						for i := 0; i < len(headers); i += 2 {
							if (surface == "grpc" || config != nil) && headers[i] == "connection" { // which HTTP/2 does not have
								continue
							}
							c.headers[headers[i]] = append(c.headers[headers[i]], headers[i+1])
						}
						got := c.call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
						if got.reason != reason || len(got.sent) != 0 || got.events() != "refusal" || got.last().Caller != who {
							t.Errorf("%s, %q sends %s %s over %s: %+v", name, who, claim[0], form, surface, got)
						}
					}
				}
			}
		}
		if name == "JWTs" {
			c := f.as(t, sim, nil, "127.0.0.1")
			good, bad := "Bearer "+key.sign(t, "victim").Reveal(), "Bearer "+newSigner(t, "k").sign(t, "victim").Reveal()
			for form, headers := range map[string][]string{
				"a good one and a bad one":    {"authorization", good, "authorization", bad},
				"a good one twice":            {"authorization", good, "authorization", good},
				"one that somebody else made": {"authorization", bad},
				"as Grpc-Metadata":            {"grpc-metadata-authorization", good},
				"as another header":           {"x-forwarded-access-token", good},
				"as Proxy-Authorization":      {"proxy-authorization", good},
			} {
				for _, surface := range []string{"grpc", "rest"} {
					c.headers = http.Header{}
					for i := 0; i < len(headers); i += 2 {
						c.headers[headers[i]] = append(c.headers[headers[i]], headers[i+1])
					}
					got := c.call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
					if got.reason != "CALLER_UNAUTHENTICATED" || len(got.sent) != 0 || got.events() != "refusal" || got.last().Caller != "" {
						t.Errorf("a JWT, %s over %s: %+v", form, surface, got)
					}
				}
			}
		}
	}
}

// From the mesh's own proxy the header has to be one, of one element.
func TestMeshHeaderThatIsBent(t *testing.T) {
	sim, url := newSimulator(t)
	f := start(t, withPolicy(t, sim, url, policyFor(victim), "TEAMTOKEN_MESH=envoy"))
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	const header = "x-forwarded-client-cert"
	good := "URI=" + victim
	for name, values := range map[string][]string{
		"two headers":        {good, good},
		"an empty one first": {"", good},
		"two elements":       {good + "," + good},
		"an open quote":      {`Subject="a;` + good},
		"two URIs":           {good + ";" + good},
		"a bare id":          {victim},
		"none":               nil,
	} {
		c := f.as(t, sim, nil, "127.0.0.1")
		if values != nil {
			c.headers[header] = values
		}
		for _, surface := range []string{"grpc", "rest"} {
			if got := c.call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam}); got.reason != "CALLER_UNAUTHENTICATED" ||
				len(got.sent) != 0 || got.events() != "refusal" {
				t.Errorf("%s over %s: %+v", name, surface, got)
			}
		}
	}
	c := f.as(t, sim, nil, "127.0.0.1", header, good)
	if got := c.call(t, "rest", generate, map[string]any{"team_id": simulator.SeedTeam}); got.reason != "" {
		t.Errorf("%+v", got)
	}
}

// What names no method of the service reaches none, however its path is bent; and
// neither does what hides its method.
func TestRawPaths(t *testing.T) {
	sim, url := newSimulator(t)
	f := start(t, withPolicy(t, sim, url, policyFor("**", victim), "TEAMTOKEN_MESH=envoy"))
	untouched := func(t *testing.T) {
		t.Helper()
		if n := len(sim.Requests()); n != 0 {
			t.Errorf("%d requests went upstream", n)
			sim.Reset()
		}
		if slices.ContainsFunc(f.audited(), func(r audit.Record) bool { return r.Event == audit.EventAttempt }) {
			t.Error("the audit has an attempt")
		}
	}
	const generate = "/teamtoken.v1.TeamTokenService/GenerateToken"
	const header, good = "x-forwarded-client-cert", "URI=" + victim
	for _, path := range []string{
		generate[1:], "/" + generate, generate + "/", generate + "?a=b", generate + "#a", strings.ReplaceAll(generate, "T", "%54"),
		strings.ToLower(generate), "/teamtoken.v1.TeamTokenService/StealToken", "/teamtoken.v1.TeamTokenService/", "/teamtoken.v1.TeamTokenService",
		"/teamtoken.v2.TeamTokenService/GenerateToken", "/./teamtoken.v1.TeamTokenService/GenerateToken", "/grpc.health.v1.Health/.." + generate,
		"/grpc.health.v1.Health/GenerateToken", "/grpc.reflection.v1.ServerReflection" + generate, "http://localhost" + generate, "*", "/", "//",
		"teamtoken.v1.TeamTokenService", "/GenerateToken", "/teamtoken.v1/TeamTokenService/GenerateToken", generate + "\x00",
	} {
		t.Run(fmt.Sprintf("gRPC %q", path), func(t *testing.T) {
			c := dialHTTP2(t, f.grpc, nil)
			stream := c.call(t, http.MethodPost, path, header, good)
			var answer []string
			c.until(t, func(fr h2.Frame) bool { return ends(fr, stream, &answer) })
			if slices.Contains(answer, "grpc-status: 0") {
				t.Errorf("answered %v", answer)
			}
			untouched(t)
		})
	}
	for _, headers := range [][]string{
		{strings.ToUpper(header), good},
		{":path", generate, header, good},
		{header, good, ":authority", "a"},
		{"te", "gzip", header, good},
		{"grpc-encoding", "nonsense", header, good},
	} {
		t.Run(fmt.Sprintf("gRPC headers %q", headers), func(t *testing.T) {
			c := dialHTTP2(t, f.grpc, nil)
			stream := c.call(t, http.MethodPost, "/teamtoken.v1.TeamTokenService/StealToken", headers...)
			var answer []string
			c.until(t, func(fr h2.Frame) bool { return ends(fr, stream, &answer) })
			if slices.Contains(answer, "grpc-status: 0") {
				t.Errorf("answered %v", answer)
			}
			untouched(t)
		})
	}
	const path = "/api/v2/teams/" + simulator.SeedTeam + "/authentication-token"
	for _, head := range []string{
		"GET " + strings.TrimPrefix(path, "/") + " HTTP/1.1", "POST /" + path + " HTTP/1.1\r\nContent-Length: 0", "POST " + path + "/ HTTP/1.1\r\nContent-Length: 0",
		"POST /api/v2/ping/.." + path[len("/api/v2"):] + " HTTP/1.1\r\nContent-Length: 0", "POST " + strings.ReplaceAll(path, "/api", "/%61pi") + " HTTP/1.1\r\nContent-Length: 0",
		"POST " + generate + " HTTP/1.1\r\nContent-Length: 0", "PUT " + path + " HTTP/1.1\r\nX-HTTP-Method-Override: POST\r\nContent-Length: 0",
		"HEAD " + path + "s HTTP/1.1\r\nX-HTTP-Method: DELETE", "OPTIONS * HTTP/1.1", "CONNECT localhost:80 HTTP/1.1", "TRACE " + path + " HTTP/1.1",
		"POST " + path + " HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5",
		"POST " + path + " HTTP/1.1\r\n " + header + ": " + good + "\r\nContent-Length: 0", "post " + path + " HTTP/1.1\r\nContent-Length: 0",
	} {
		t.Run("REST "+head[:min(40, len(head))], func(t *testing.T) {
			conn := must(net.Dial("tcp", strings.TrimPrefix(f.rest, "http://")))
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = fmt.Fprintf(conn, "%s\r\nHost: localhost\r\nConnection: close\r\n%s: %s\r\n\r\n", head, header, good)
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if len(line) > 9 && (line[9] == '2' || line[9] == '3') && !strings.HasPrefix(head, "OPTIONS *") {
				t.Errorf("answered %s", line)
			}
			_, _ = io.Copy(io.Discard, conn)
			untouched(t)
		})
	}
	c := f.as(t, sim, nil, "127.0.0.1", header, good, "X-HTTP-Method-Override", http.MethodPost, "X-HTTP-Method", http.MethodDelete)
	if got := c.request(t, http.MethodGet, path+"?_method=POST", ""); len(got.sent) != 1 || got.sent[0].Method != http.MethodGet || got.last().Method != "GetToken" {
		t.Errorf("a header makes another method of GET: %+v", got)
	}
	if status, body := f.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("not ready any more: %s", body)
	}
}

// ends keeps the headers that come back on a stream, and reports whether it is over.
func ends(fr h2.Frame, stream uint32, headers *[]string) bool {
	if fr.Header().StreamID != stream {
		return fr.Header().Type == h2.FrameGoAway
	}
	if meta, ok := fr.(*h2.MetaHeadersFrame); ok {
		for _, field := range meta.Fields {
			*headers = append(*headers, field.Name+": "+field.Value)
		}
		return meta.StreamEnded()
	}
	return fr.Header().Type == h2.FrameRSTStream
}
