package identity_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// An issuer of JWTs that does not answer as it should when the program starts keeps
// nobody else out: the program is not ready, says why, and asks again; callers by JWT
// may come again; others are served. Once the issuer answers all is as it should be.
func TestIssuerIsAway(t *testing.T) {
	t.Parallel()
	const holder = "spiffe://teamtoken.test/holder"
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for name, break_ := range map[string]func(t *testing.T, i *harness.MovingIssuer){
		"it can't be reached": func(_ *testing.T, i *harness.MovingIssuer) { i.Closed.Store(true) },
		"it fails": func(_ *testing.T, i *harness.MovingIssuer) {
			i.Says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		},
		"it is another one": func(_ *testing.T, i *harness.MovingIssuer) {
			i.Says(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "https://another.teamtoken.test", "jwks_uri": i.URL + "/keys"})
			})
		},
		"it hangs": func(t *testing.T, i *harness.MovingIssuer) {
			ended := make(chan struct{})
			t.Cleanup(func() { close(ended) })
			i.Says(func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-r.Context().Done():
				case <-ended:
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, url := harness.NewSimulator(t)
			ca, key := harness.NewAuthority(t), harness.NewSigner(t, "k")
			i := harness.NewMovingIssuer(t, harness.JWKS(key))
			break_(t, i)
			s := harness.WithPolicy(t, sim, url, harness.PolicyFor(i.URL+"#"+harness.ByJWT, holder), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional",
				"TEAMTOKEN_JWT_ISSUER="+i.URL, "TEAMTOKEN_JWT_AUDIENCE="+harness.JWTAudience, "TEAMTOKEN_JWT_ISSUER_CA_FILE="+i.CAFile)
			s.TLS = ca
			f := harness.Start(t, s)
			as := func(config *tls.Config, bearer ...string) *harness.Client {
				headers := []string{}
				for _, b := range bearer {
					headers = append(headers, "authorization", "Bearer "+b)
				}
				return f.As(t, sim, config, "127.0.0.1", headers...)
			}
			good := key.SignAs(t, i.URL, harness.ByJWT).Reveal()
			health := grpc_health_v1.NewHealthClient(f.Conn)
			ready := func() (bool, string) {
				status, body := f.Get(t, "/readyz")
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
					by                    *harness.Client
					code, reason, outcome string
				}{
					{"a JWT", "GenerateToken", as(ca.Client(), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", "not_applied"},
					{"a JWT that reads", "GetToken", as(ca.Client(), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", ""},
					{"a JWT and a certificate", "GenerateToken", as(ca.ClientCert(t, holder), good), unavailable, "CALLER_ISSUER_UNAVAILABLE", "not_applied"},
					{"nonsense", "GenerateToken", as(ca.Client(), "nonsense"), unauthenticated, "CALLER_UNAUTHENTICATED", "not_applied"},
					{"nobody", "GenerateToken", as(ca.Client()), unauthenticated, "CALLER_UNAUTHENTICATED", "not_applied"},
				} {
					got := row.by.Call(t, surface, methods.ByName(protoreflect.Name(row.method)), map[string]any{"team_id": simulator.SeedTeam})
					if got.Code != row.code || got.Reason != row.reason || got.Outcome != row.outcome || len(got.Sent) != 0 || got.Events() != "refusal" {
						t.Errorf("%s over %s: %+v", row.name, surface, got)
					}
				}
				got := as(ca.ClientCert(t, holder)).Call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam})
				if got.Reason != "" || len(got.Sent) == 0 {
					t.Errorf("a certificate over %s: %+v", surface, got)
				}
			}
			harness.Eventually(t, "the log says so", func() bool { return strings.Contains(f.Stderr.String(), "the keys of the JWT issuer can't be fetched") })
			if text := f.Stderr.String(); name == "it is another one" && !strings.Contains(text, "https://another.teamtoken.test") {
				t.Error("the log does not say which issuer it is")
			}
			i.Heal()
			harness.Eventually(t, "the program is ready", func() bool { yes, _ := ready(); return yes })
			for _, surface := range []string{"grpc", "rest"} {
				if got := as(ca.Client(), good).Call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "" {
					t.Errorf("a JWT over %s, with the issuer there: %+v", surface, got)
				}
				if got := as(ca.Client(), harness.NewSigner(t, "k").SignAs(t, i.URL, harness.ByJWT).Reveal()).Call(t, surface, methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "CALLER_UNAUTHENTICATED" {
					t.Errorf("a forged JWT over %s: %+v", surface, got)
				}
			}
			// It goes away again, and the last good keys stay.
			i.Closed.Store(true)
			if got := as(ca.Client(), harness.NewSigner(t, "new").SignAs(t, i.URL, harness.ByJWT).Reveal()).Call(t, "grpc", methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "CALLER_UNAUTHENTICATED" {
				t.Errorf("a JWT by a key that nobody knows: %+v", got)
			}
			if yes, why := ready(); !yes {
				t.Errorf("an issuer that goes away later takes the program out: %s", why)
			}
			if got := as(ca.Client(), key.SignAs(t, i.URL, harness.ByJWT).Reveal()).Call(t, "grpc", methods.ByName("GenerateToken"), map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "" {
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
	t.Parallel()
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	set := func(keys ...*harness.Signer) string {
		good := strings.TrimSuffix(strings.TrimPrefix(harness.JWKS(keys...), `{"keys":[`), `]}`)
		return `{"keys":[` + strings.Join(append(oddKeys, good), ",") + `]}`
	}
	keys := []*harness.Signer{harness.NewSigner(t, "same"), harness.NewSigner(t, "same"), harness.NewSigner(t, "")}
	asked, files := harness.NewMovingIssuer(t, set(keys[0])), harness.Volume{Dir: t.TempDir()}
	files.Publish(t, map[string]string{"jwks.json": set(keys[0])})
	for name, way := range map[string]struct {
		issuer, setting string
		env             []string
		publish         func(string)
	}{
		"asked": {asked.URL, "TEAMTOKEN_JWT_ISSUER", []string{"TEAMTOKEN_JWT_ISSUER_CA_FILE=" + asked.CAFile}, func(set string) { asked.Keys.Store(&set) }},
		"file": {harness.JWTIssuer, "TEAMTOKEN_JWT_KEYS_FILE", []string{"TEAMTOKEN_JWT_KEYS_FILE=" + files.File("jwks.json")}, func(set string) {
			files.Publish(t, map[string]string{"jwks.json": set})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, url := harness.NewSimulator(t)
			f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(way.issuer+"#"+harness.ByJWT),
				append(way.env, "TEAMTOKEN_JWT_ISSUER="+way.issuer, "TEAMTOKEN_JWT_AUDIENCE="+harness.JWTAudience)...))
			seldom := time.NewTicker(200 * time.Millisecond) // so that the log stays short
			t.Cleanup(seldom.Stop)
			allowed := func(s *harness.Signer, surface string) bool {
				<-seldom.C
				c := f.As(t, sim, nil, "127.0.0.1", "authorization", "Bearer "+s.SignAs(t, way.issuer, harness.ByJWT).Reveal())
				got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
				if got.Reason != "" && got.Reason != "CALLER_UNAUTHENTICATED" {
					t.Errorf("%+v", got)
				}
				return got.Reason == ""
			}
			if !allowed(keys[0], "grpc") || !allowed(keys[0], "rest") || allowed(keys[1], "grpc") {
				t.Error("at first it is the first key alone")
			}
			for _, step := range []struct{ published, good []*harness.Signer }{
				{keys[:2], keys[:2]}, // two keys of one id
				{keys[2:], keys[2:]}, // and one without
			} {
				way.publish(set(step.published...))
				harness.Eventually(t, "the keys are followed", func() bool {
					followed := true
					for _, key := range keys { // all, since a key that is not known has the issuer asked
						followed = allowed(key, "grpc") == slices.Contains(step.good, key) && followed
					}
					return followed
				})
			}
			for n := range oddKeys {
				id := fmt.Sprintf(`"key_id":"odd-%d"`, n+1)
				if told := strings.Count(f.Stderr.String(), id); told != 1 {
					t.Errorf("the log tells %d times of %s", told, id)
				}
			}
			way.publish(`{"keys":[` + strings.Join(oddKeys, ",") + `]}`)
			harness.Eventually(t, "that nothing is of use is told of", func() bool {
				return !allowed(keys[0], "grpc") && f.Reloads(harness.NotUse, way.setting) > 0
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
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	ca, key := harness.NewAuthority(t), harness.NewSigner(t, "k")
	open := []string{"TEAMTOKEN_GRPC_ADDRESS=0.0.0.0:0", "TEAMTOKEN_HTTP_ADDRESS=0.0.0.0:0"}
	byKey := append(jwtsBy(t, key), "TFE_TOKEN="+sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE="+harness.WriteTemp(t, harness.PolicyFor(harness.JWTIssuer+"#a")))
	byCredential := []string{"TEAMTOKEN_CREDENTIALS=caller"}
	anybody := []string{"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true"}
	for _, row := range []struct {
		name string
		env  [][]string
		tls  *harness.Authority
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
		s := harness.Settings{Sim: sim, Upstream: url, TLS: row.tls}
		for _, env := range row.env {
			s.Env = append(s.Env, env...)
		}
		f := harness.Start(t, s)
		f.Stop(t, harness.Patience)
		var warned []string
		for line := range strings.Lines(f.Stderr.String()) {
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
