package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// movingIssuer is an issuer of JWTs, over TLS, that answers as it is told to.
type movingIssuer struct {
	url, caFile string
	document    atomic.Pointer[func(w http.ResponseWriter, r *http.Request)] // of discovery
	keys        atomic.Pointer[string]
	asked       atomic.Int64 // for keys
	closed      atomic.Bool  // no connection lasts
}

func newMovingIssuer(t *testing.T, keys string) *movingIssuer {
	t.Helper()
	i := &movingIssuer{}
	i.keys.Store(&keys)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			i.asked.Add(1)
			_, _ = io.WriteString(w, *i.keys.Load())
			return
		}
		(*i.document.Load())(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.SetKeepAlivesEnabled(false)
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew && i.closed.Load() {
			_ = c.Close()
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	i.url = server.URL
	i.caFile = written(t, "")
	writePEM(t, i.caFile, "CERTIFICATE", server.Certificate().Raw)
	i.heal()
	return i
}

// says has the discovery document be this.
func (i *movingIssuer) says(document func(w http.ResponseWriter, r *http.Request)) {
	i.document.Store(&document)
}

// heal has it answer as an issuer does.
func (i *movingIssuer) heal() {
	i.closed.Store(false)
	i.says(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"})
	})
}

// An issuer of JWTs that does not answer as it should when the program starts keeps
// nobody else out: the program is not ready, says why, and asks again; callers by JWT
// may come again; others are served. Once the issuer answers all is as it should be.
func TestIssuerIsAway(t *testing.T) {
	const holder = "spiffe://teamtoken.test/holder"
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for name, break_ := range map[string]func(t *testing.T, i *movingIssuer){
		"it can't be reached": func(_ *testing.T, i *movingIssuer) { i.closed.Store(true) },
		"it fails": func(_ *testing.T, i *movingIssuer) {
			i.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		},
		"it is another one": func(_ *testing.T, i *movingIssuer) {
			i.says(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "https://another.teamtoken.test", "jwks_uri": i.url + "/keys"})
			})
		},
		"it hangs": func(t *testing.T, i *movingIssuer) {
			ended := make(chan struct{})
			t.Cleanup(func() { close(ended) })
			i.says(func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-r.Context().Done():
				case <-ended:
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, url := newSimulator(t)
			ca, key := newAuthority(t), newSigner(t, "k")
			i := newMovingIssuer(t, jwks(key))
			break_(t, i)
			s := withPolicy(t, sim, url, policyFor(i.url+"#"+byJWT, holder), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.caFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional",
				"TEAMTOKEN_JWT_ISSUER="+i.url, "TEAMTOKEN_JWT_AUDIENCE="+jwtAudience, "TEAMTOKEN_JWT_ISSUER_CA_FILE="+i.caFile)
			s.tls = ca
			f := start(t, s)
			as := func(config *tls.Config, bearer ...string) *client {
				headers := []string{}
				for _, b := range bearer {
					headers = append(headers, "authorization", "Bearer "+b)
				}
				return f.as(t, sim, config, "127.0.0.1", headers...)
			}
			good := key.signAs(t, i.url, byJWT).Reveal()
			health := grpc_health_v1.NewHealthClient(f.conn)
			ready := func() (bool, string) {
				status, body := f.get(t, "/readyz")
				checked, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				if serving := checked.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING; serving != (status == http.StatusOK) {
					return false, "the two say different things, for a moment"
				}
				return status == http.StatusOK, body
			}
			if yes, why := ready(); yes || !strings.Contains(why, "issuer") {
				t.Errorf("ready %v: %q", yes, why)
			}
			for _, surface := range []string{"grpc", "rest"} {
				unavailable := map[string]string{"grpc": "Unavailable", "rest": "503"}[surface]
				unauthenticated := map[string]string{"grpc": "Unauthenticated", "rest": "401"}[surface]
				for _, row := range []struct {
					name, method          string
					by                    *client
					code, reason, outcome string
				}{
					{"a JWT", "GenerateToken", as(ca.client(), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", "not_applied"},
					{"a JWT that reads", "GetToken", as(ca.client(), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", ""},
					{"a JWT and a certificate", "GenerateToken", as(ca.holder(t, holder), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", "not_applied"},
					{"nonsense", "GenerateToken", as(ca.client(), "nonsense"), unauthenticated, "CALLER_UNAUTHENTICATED", "not_applied"},
					{"nobody", "GenerateToken", as(ca.client()), unauthenticated, "CALLER_UNAUTHENTICATED", "not_applied"},
				} {
					got := row.by.call(t, surface, methods.ByName(protoreflect.Name(row.method)), map[string]any{"team_id": simulator.SeedTeam})
					if got.code != row.code || got.reason != row.reason || got.outcome != row.outcome || len(got.sent) != 0 || got.events() != "refusal" {
						t.Errorf("%s over %s: %+v", row.name, surface, got)
					}
				}
				got := as(ca.holder(t, holder)).call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam})
				if got.reason != "" || len(got.sent) == 0 {
					t.Errorf("a certificate over %s: %+v", surface, got)
				}
			}
			eventually(t, "the log says so", func() bool { return strings.Contains(f.stderr.String(), "the keys of the JWT issuer can't be fetched") })
			if text := f.stderr.String(); name == "it is another one" && !strings.Contains(text, "https://another.teamtoken.test") {
				t.Error("the log does not say which issuer it is")
			}
			i.heal()
			eventually(t, "the program is ready", func() bool { yes, _ := ready(); return yes })
			for _, surface := range []string{"grpc", "rest"} {
				if got := as(ca.client(), good).call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.reason != "" {
					t.Errorf("a JWT over %s, with the issuer there: %+v", surface, got)
				}
				if got := as(ca.client(), newSigner(t, "k").signAs(t, i.url, byJWT).Reveal()).call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.reason != "CALLER_UNAUTHENTICATED" {
					t.Errorf("a forged JWT over %s: %+v", surface, got)
				}
			}
			// It goes away again, and the last good keys stay.
			i.closed.Store(true)
			if got := as(ca.client(), newSigner(t, "new").signAs(t, i.url, byJWT).Reveal()).call(t, "grpc", methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.reason != "CALLER_UNAUTHENTICATED" {
				t.Errorf("a JWT by a key that nobody knows: %+v", got)
			}
			if yes, why := ready(); !yes {
				t.Errorf("an issuer that goes away later takes the program out: %s", why)
			}
			if got := as(ca.client(), key.signAs(t, i.url, byJWT).Reveal()).call(t, "grpc", methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.reason != "" {
				t.Errorf("the last good key: %+v", got)
			}
		})
	}
}

// oddKeys are keys of a JWKS that the program can't use.
var oddKeys = []string{
	`{"kty":"EC","crv":"secp256k1","kid":"odd-1","x":"AAAA","y":"AAAA"}`, `{"kty":"AKP","alg":"ML-DSA-65","kid":"odd-2","pub":"AAAA"}`,
	`{"kty":"OKP","crv":"X25519","kid":"odd-3","x":"AAAA"}`, `{"kty":"OKP","crv":"Ed448","kid":"odd-4","x":"AAAA"}`, `{"kty":"XYZ","kid":"odd-5"}`,
	`{"kty":"RSA","kid":"odd-6","n":"!","e":"AQAB"}`, `{"kty":"oct","kid":"odd-7","k":"c2VjcmV0"}`, `{"kid":"odd-8"}`,
}

// Among an issuer's keys, asked for or in a file, are some that the program can't use,
// from the start: it starts, tells of each of them once, and follows the others.
func TestOddKeysOfAnIssuer(t *testing.T) {
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	set := func(keys ...*signer) string {
		good := strings.TrimSuffix(strings.TrimPrefix(jwks(keys...), `{"keys":[`), `]}`)
		return `{"keys":[` + strings.Join(append(oddKeys, good), ",") + `]}`
	}
	keys := []*signer{newSigner(t, "same"), newSigner(t, "same"), newSigner(t, "")}
	asked, files := newMovingIssuer(t, set(keys[0])), volume{dir: t.TempDir()}
	files.publish(t, map[string]string{"jwks.json": set(keys[0])})
	for name, way := range map[string]struct {
		issuer, setting string
		env             []string
		publish         func(string)
	}{
		"asked": {asked.url, "TEAMTOKEN_JWT_ISSUER", []string{"TEAMTOKEN_JWT_ISSUER_CA_FILE=" + asked.caFile}, func(set string) { asked.keys.Store(&set) }},
		"file": {jwtIssuer, "TEAMTOKEN_JWT_KEYS_FILE", []string{"TEAMTOKEN_JWT_KEYS_FILE=" + files.file("jwks.json")}, func(set string) {
			files.publish(t, map[string]string{"jwks.json": set})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, url := newSimulator(t)
			f := start(t, withPolicy(t, sim, url, policyFor(way.issuer+"#"+byJWT),
				append(way.env, "TEAMTOKEN_JWT_ISSUER="+way.issuer, "TEAMTOKEN_JWT_AUDIENCE="+jwtAudience)...))
			seldom := time.NewTicker(200 * time.Millisecond) // so that the log stays short
			t.Cleanup(seldom.Stop)
			allowed := func(s *signer, surface string) bool {
				<-seldom.C
				c := f.as(t, sim, nil, "127.0.0.1", "authorization", "Bearer "+s.signAs(t, way.issuer, byJWT).Reveal())
				got := c.call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
				if got.reason != "" && got.reason != "CALLER_UNAUTHENTICATED" {
					t.Errorf("%+v", got)
				}
				return got.reason == ""
			}
			if !allowed(keys[0], "grpc") || !allowed(keys[0], "rest") || allowed(keys[1], "grpc") {
				t.Error("at first it is the first key alone")
			}
			for _, step := range []struct{ published, good []*signer }{
				{keys[:2], keys[:2]}, // two keys of one id
				{keys[2:], keys[2:]}, // and one without
			} {
				way.publish(set(step.published...))
				eventually(t, "the keys are followed", func() bool {
					followed := true
					for _, key := range keys { // all, since a key that is not known has the issuer asked
						followed = allowed(key, "grpc") == slices.Contains(step.good, key) && followed
					}
					return followed
				})
			}
			for n := range oddKeys {
				id := fmt.Sprintf(`"key_id":"odd-%d"`, n+1)
				if told := strings.Count(f.stderr.String(), id); told != 1 {
					t.Errorf("the log tells %d times of %s", told, id)
				}
			}
			way.publish(`{"keys":[` + strings.Join(oddKeys, ",") + `]}`)
			eventually(t, "that nothing is of use is told of", func() bool {
				return !allowed(keys[0], "grpc") && f.reloads(notUse, way.setting) > 0
			})
			if !allowed(keys[2], "grpc") {
				t.Error("the last good key is not kept")
			}
		})
	}
}

// A program that takes JWTs or callers' credentials in plain text from other machines
// says so at its start.
func TestPlainTextIsWarnedOf(t *testing.T) {
	sim, url := newSimulator(t)
	ca, key := newAuthority(t), newSigner(t, "k")
	open := []string{"TEAMTOKEN_GRPC_ADDRESS=0.0.0.0:0", "TEAMTOKEN_HTTP_ADDRESS=0.0.0.0:0"}
	byKey := append(jwtsBy(t, key), "TFE_TOKEN="+sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE="+written(t, policyFor(jwtIssuer+"#a")))
	byCredential := []string{"TEAMTOKEN_CREDENTIALS=caller"}
	anybody := []string{"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true"}
	for _, row := range []struct {
		name string
		env  [][]string
		tls  *authority
		want string // the settings that are warned of
	}{
		{"JWTs", [][]string{byKey, open}, nil, "TEAMTOKEN_GRPC_ADDRESS TEAMTOKEN_HTTP_ADDRESS"},
		{"credentials", [][]string{byCredential, open}, nil, "TEAMTOKEN_GRPC_ADDRESS TEAMTOKEN_HTTP_ADDRESS"},
		{"credentials over REST", [][]string{byCredential, open[1:]}, nil, "TEAMTOKEN_HTTP_ADDRESS"},
		{"JWTs over gRPC", [][]string{byKey, open[:1]}, nil, "TEAMTOKEN_GRPC_ADDRESS"},
		{"JWTs on loopback", [][]string{byKey}, nil, ""},
		{"JWTs over TLS", [][]string{byKey, open}, ca, ""},
		{"credentials over TLS", [][]string{byCredential, open}, ca, ""},
		{"JWTs behind a mesh", [][]string{byKey, open, {"TEAMTOKEN_MESH=envoy"}}, nil, ""},
		{"neither", [][]string{anybody, open}, nil, ""},
	} {
		s := settings{sim: sim, upstream: url, tls: row.tls}
		for _, env := range row.env {
			s.env = append(s.env, env...)
		}
		f := start(t, s)
		f.stop(t, patience)
		var warned []string
		for line := range strings.Lines(f.stderr.String()) {
			var l struct{ Level, Msg, Setting string }
			if json.Unmarshal([]byte(line), &l) == nil && l.Level == "WARN" && strings.Contains(l.Msg, "in plain text") {
				name, _, _ := strings.Cut(l.Setting, " ")
				warned = append(warned, name)
			}
		}
		if got := strings.Join(warned, " "); got != row.want {
			t.Errorf("%s: warned of %q, want %q", row.name, got, row.want)
		}
	}
}
