package identity_test

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
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// claims are headers by which somebody might be taken for victim, somewhere.
var claims = [][2]string{
	{"x-forwarded-client-cert", "By=spiffe://teamtoken.test/tt;Hash=00;URI=" + harness.Victim},
	{"x-forwarded-client-cert", "URI=" + harness.Victim + ",URI=" + harness.Victim},
	{"l5d-client-id", "victim.teamtoken.test"},
	{"x-spiffe-id", harness.Victim},
	{"x-caller", harness.Victim},
	{"caller", harness.Victim},
	{"x-teamtoken-caller", harness.Victim},
	{"x-forwarded-for", "127.0.0.2"},
	{"forwarded", "for=127.0.0.2"},
	{"x-real-ip", "127.0.0.2"},
	{"x-envoy-external-address", "127.0.0.2"},
	{"x-envoy-internal", "true"},
	{"x-client-cert", harness.Victim},
	{"ssl-client-cert", harness.Victim},
	{"x-ssl-client-s-dn", "CN=victim"},
	{"x-jwt-payload", "eyJzdWIiOiJ2aWN0aW0ifQ"},
	{"x-endpoint-api-userinfo", "eyJzdWIiOiJ2aWN0aW0ifQ"},
	{"x-remote-user", harness.Victim},
	{"x-forwarded-user", harness.Victim},
	{"x-goog-authenticated-user-id", harness.Victim},
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
	t.Parallel()
	const me = "spiffe://teamtoken.test/ns/ci/sa/me"
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	rules := harness.PolicyFor(harness.Victim, "victim.teamtoken.test", harness.JWTIssuer+"#victim")
	mutual := []string{"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + ca.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional"}
	meshed := func(kind string) []string {
		return append([]string{"TEAMTOKEN_MESH=" + kind, "TEAMTOKEN_MESH_PEERS=127.0.0.2/32"}, mutual...)
	}
	key := harness.NewSigner(t, "k")
	byJWT := []string{"TEAMTOKEN_JWT_ISSUER=" + harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + harness.JWTAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + harness.WriteTemp(t, harness.JWKS(key))}
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	for name, env := range map[string][]string{
		"a mesh whose proxy is elsewhere":          meshed("envoy"),
		"the other mesh, whose proxy is elsewhere": meshed("linkerd"),
		"certificates": mutual,
		"JWTs":         byJWT,
	} {
		s := harness.WithPolicy(t, sim, url, rules, env...)
		configs := map[string]*tls.Config{"": nil} // by who is known; nobody in the clear
		if name != "JWTs" {
			s.TLS = ca
			configs = map[string]*tls.Config{"": ca.Client(), me: ca.ClientCert(t, me)}
		}
		f := harness.Start(t, s)
		for who, config := range configs {
			reason := "CALLER_UNAUTHENTICATED"
			if who != "" {
				reason = "CALLER_NOT_ALLOWED"
			}
			c := f.As(t, sim, config, "127.0.0.1")
			for _, claim := range claims {
				for form, of := range forms {
					for _, surface := range []string{"grpc", "rest"} {
						c.Headers = http.Header{}
						headers := of(claim[0], claim[1])
						for i := 0; i < len(headers); i += 2 {
							if (surface == "grpc" || config != nil) && headers[i] == "connection" { // which HTTP/2 does not have
								continue
							}
							c.Headers[headers[i]] = append(c.Headers[headers[i]], headers[i+1])
						}
						got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
						if got.Reason != reason || len(got.Sent) != 0 || got.Events() != "refusal" || got.Last().Caller != who {
							t.Errorf("%s, %q sends %s %s over %s: %+v", name, who, claim[0], form, surface, got)
						}
					}
				}
			}
		}
		if name == "JWTs" {
			c := f.As(t, sim, nil, "127.0.0.1")
			good, bad := "Bearer "+key.Sign(t, "victim").Reveal(), "Bearer "+harness.NewSigner(t, "k").Sign(t, "victim").Reveal()
			for form, headers := range map[string][]string{
				"a good one and a bad one":    {"authorization", good, "authorization", bad},
				"a good one twice":            {"authorization", good, "authorization", good},
				"one that somebody else made": {"authorization", bad},
				"as Grpc-Metadata":            {"grpc-metadata-authorization", good},
				"as another header":           {"x-forwarded-access-token", good},
				"as Proxy-Authorization":      {"proxy-authorization", good},
			} {
				for _, surface := range []string{"grpc", "rest"} {
					c.Headers = http.Header{}
					for i := 0; i < len(headers); i += 2 {
						c.Headers[headers[i]] = append(c.Headers[headers[i]], headers[i+1])
					}
					got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
					if got.Reason != "CALLER_UNAUTHENTICATED" || len(got.Sent) != 0 || got.Events() != "refusal" || got.Last().Caller != "" {
						t.Errorf("a JWT, %s over %s: %+v", form, surface, got)
					}
				}
			}
		}
	}
}

// From the mesh's own proxy the header has to be one, of one element.
func TestMeshHeaderThatIsBent(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.Victim), "TEAMTOKEN_MESH=envoy"))
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	const header = "x-forwarded-client-cert"
	good := "URI=" + harness.Victim
	for name, values := range map[string][]string{
		"two headers":        {good, good},
		"an empty one first": {"", good},
		"two elements":       {good + "," + good},
		"an open quote":      {`Subject="a;` + good},
		"two URIs":           {good + ";" + good},
		"a bare id":          {harness.Victim},
		"none":               nil,
	} {
		c := f.As(t, sim, nil, "127.0.0.1")
		if values != nil {
			c.Headers[header] = values
		}
		for _, surface := range []string{"grpc", "rest"} {
			if got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "CALLER_UNAUTHENTICATED" ||
				len(got.Sent) != 0 || got.Events() != "refusal" {
				t.Errorf("%s over %s: %+v", name, surface, got)
			}
		}
	}
	c := f.As(t, sim, nil, "127.0.0.1", header, good)
	if got := c.Call(t, "rest", generate, map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "" {
		t.Errorf("%+v", got)
	}
}

// What names no method of the service reaches none, however its path is bent; and
// neither does what hides its method.
func TestRawPaths(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor("**", harness.Victim), "TEAMTOKEN_MESH=envoy"))
	untouched := func(t *testing.T) {
		t.Helper()
		if n := len(sim.Requests()); n != 0 {
			t.Errorf("%d requests went upstream", n)
			sim.Reset()
		}
		if slices.ContainsFunc(f.Audited(), func(r audit.Record) bool { return r.Event == audit.EventAttempt }) {
			t.Error("the audit has an attempt")
		}
	}
	const generate = "/teamtoken.v1.TeamTokenService/GenerateToken"
	const header, good = "x-forwarded-client-cert", "URI=" + harness.Victim
	for _, path := range []string{
		generate[1:], "/" + generate, generate + "/", generate + "?a=b", generate + "#a", strings.ReplaceAll(generate, "T", "%54"),
		strings.ToLower(generate), "/teamtoken.v1.TeamTokenService/StealToken", "/teamtoken.v1.TeamTokenService/", "/teamtoken.v1.TeamTokenService",
		"/teamtoken.v2.TeamTokenService/GenerateToken", "/./teamtoken.v1.TeamTokenService/GenerateToken", "/grpc.health.v1.Health/.." + generate,
		"/grpc.health.v1.Health/GenerateToken", "/grpc.reflection.v1.ServerReflection" + generate, "http://localhost" + generate, "*", "/", "//",
		"teamtoken.v1.TeamTokenService", "/GenerateToken", "/teamtoken.v1/TeamTokenService/GenerateToken", generate + "\x00",
	} {
		t.Run(fmt.Sprintf("gRPC %q", path), func(t *testing.T) {
			c := harness.DialHTTP2(t, f.GRPC, nil)
			stream := c.Call(t, http.MethodPost, path, header, good)
			var answer []string
			c.Until(t, func(fr h2.Frame) bool { return harness.Ends(fr, stream, &answer) })
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
			c := harness.DialHTTP2(t, f.GRPC, nil)
			stream := c.Call(t, http.MethodPost, "/teamtoken.v1.TeamTokenService/StealToken", headers...)
			var answer []string
			c.Until(t, func(fr h2.Frame) bool { return harness.Ends(fr, stream, &answer) })
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
			conn := harness.Must(net.Dial("tcp", strings.TrimPrefix(f.REST, "http://")))
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(harness.Patience))
			_, _ = fmt.Fprintf(conn, "%s\r\nHost: localhost\r\nConnection: close\r\n%s: %s\r\n\r\n", head, header, good)
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if len(line) > 9 && (line[9] == '2' || line[9] == '3') && !strings.HasPrefix(head, "OPTIONS *") {
				t.Errorf("answered %s", line)
			}
			_, _ = io.Copy(io.Discard, conn)
			untouched(t)
		})
	}
	c := f.As(t, sim, nil, "127.0.0.1", header, good, "X-HTTP-Method-Override", http.MethodPost, "X-HTTP-Method", http.MethodDelete)
	if got := c.Request(t, http.MethodGet, path+"?_method=POST", ""); len(got.Sent) != 1 || got.Sent[0].Method != http.MethodGet || got.Last().Method != "GetToken" {
		t.Errorf("a header makes another method of GET: %+v", got)
	}
	if status, body := f.Get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("not ready any more: %s", body)
	}
}
