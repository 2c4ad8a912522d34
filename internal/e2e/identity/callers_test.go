package identity_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// claiming makes a JWT of a subject with further claims, which are JSON as it is
// written: numbers in it stay what they are.
func claiming(t *testing.T, s *harness.Signer, subject, claims string) string {
	t.Helper()
	now := time.Now().Unix()
	payload := fmt.Sprintf(`{"iss": %q, "sub": %s, "aud": %q, "exp": %d, "iat": %d, %s}`,
		harness.JWTIssuer, harness.Must(json.Marshal(subject)), harness.JWTAudience, now+3600, now, claims)
	by := harness.Must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.Key}, (&jose.SignerOptions{}).WithType("JWT")))
	return harness.Must(harness.Must(by.Sign([]byte(payload))).CompactSerialize())
}

// jwtsBy are the settings that believe the JWTs of a key.
func jwtsBy(t *testing.T, key *harness.Signer) []string {
	t.Helper()
	return []string{"TEAMTOKEN_JWT_ISSUER=" + harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + harness.JWTAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + harness.WriteTemp(t, harness.JWKS(key))}
}

// Two callers whose ids differ in the last character alone are two: for the policy,
// for the audit and for the log, however long their ids are and however they are known.
func TestLongIdentities(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	ca, key := harness.NewAuthority(t), harness.NewSigner(t, "k")
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	workload := "spiffe://teamtoken.test/" + strings.Repeat("n/", 1010)
	longest := func(base string, length int) string { return base + strings.Repeat("a", length-1-len(base)) }
	name := strings.Repeat(strings.Repeat("d", 60)+".", 4)
	subject := longest("system:serviceaccount:", 1024)
	bearer := func(id string) (*tls.Config, []string) {
		return nil, []string{"authorization", "Bearer " + claiming(t, key, strings.TrimPrefix(id, harness.JWTIssuer+"#"), `"a": 1`)}
	}
	mutual := "TEAMTOKEN_TLS_CLIENT_CA_FILE=" + ca.CAFile
	for kind, of := range map[string]struct {
		env  []string
		tls  *harness.Authority
		base string
		as   func(id string) (*tls.Config, []string)
	}{
		"a JWT": {jwtsBy(t, key), nil, harness.JWTIssuer + "#" + subject, bearer},
		"Envoy's header": {[]string{"TEAMTOKEN_MESH=envoy"}, nil, longest(workload, 2048), func(id string) (*tls.Config, []string) {
			return nil, []string{"x-forwarded-client-cert", `By=spiffe://teamtoken.test/me;URI=` + id}
		}},
		"Linkerd's header": {[]string{"TEAMTOKEN_MESH=linkerd"}, nil, longest(name, 250), func(id string) (*tls.Config, []string) {
			return nil, []string{"l5d-client-id", id}
		}},
		"a certificate": {[]string{mutual}, ca, longest(workload, 2048), func(id string) (*tls.Config, []string) {
			return ca.ClientCert(t, id), nil
		}},
		"a certificate's DNS name": {[]string{mutual}, ca, longest(name, 250), func(id string) (*tls.Config, []string) {
			return ca.ClientCert(t, id), nil
		}},
	} {
		allowed, other := of.base+"b", of.base+"c"
		s := harness.WithPolicy(t, sim, url, harness.PolicyFor(allowed), of.env...)
		s.TLS = of.tls
		f := harness.Start(t, s)
		for _, id := range []string{allowed, other} {
			config, headers := of.as(id)
			c := f.As(t, sim, config, "127.0.0.1", headers...)
			for _, surface := range []string{"grpc", "rest"} {
				got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam})
				if (got.Reason == "") != (id == allowed) || id == other && got.Reason != "CALLER_NOT_ALLOWED" || got.Last().Caller != id {
					t.Errorf("%s over %s, as …%s: %s, and the audit has %q", kind, surface, id[len(id)-9:], got.Reason, got.Last().Caller)
				}
			}
			harness.Eventually(t, "the log names the caller", func() bool { return strings.Count(f.Stderr.String(), `"caller":"`+id+`"`) == 2 })
		}
	}
}

// A caller is let in by the very number of his claim, and by no other that is the
// same once it is rounded; and what a condition's error is about is in no log.
func TestNumericClaims(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	key := harness.NewSigner(t, "k")
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	rule := `rules: [{name: tenant, callers: ["` + harness.JWTIssuer + `#*"], methods: [GenerateToken], teams: ["*"], condition: 'caller.claims.tenant == 9007199254740993 && caller.claims[caller.claims.key] == 1'}]`
	f := harness.Start(t, harness.WithPolicy(t, sim, url, rule, jwtsBy(t, key)...))
	for tenant, want := range map[string]string{
		"9007199254740993": "", "9007199254740993.0": "", "9.007199254740993e15": "",
		"9007199254740992": "CALLER_NOT_ALLOWED", "9007199254740994": "CALLER_NOT_ALLOWED", "9007199254740992.0": "CALLER_NOT_ALLOWED",
		"9007199254740993.5": "CALLER_NOT_ALLOWED", "1e999": "CALLER_NOT_ALLOWED", `"9007199254740993"`: "CALLER_NOT_ALLOWED", "[9007199254740993]": "CALLER_NOT_ALLOWED",
	} {
		c := f.As(t, sim, nil, "127.0.0.1", "authorization", "Bearer "+claiming(t, key, "a", `"tenant": `+tenant+`, "key": "one", "one": 1`))
		for _, surface := range []string{"grpc", "rest"} {
			if got := c.Call(t, surface, generate, map[string]any{"team_id": simulator.SeedTeam}); got.Reason != want {
				t.Errorf("%s over %s: %q, want %q", tenant, surface, got.Reason, want)
			}
		}
	}
	c := f.As(t, sim, nil, "127.0.0.1")
	c.Headers = http.Header{"Authorization": {"Bearer " + claiming(t, key, "a", `"tenant": 9007199254740993, "key": "cl4im-that-is-private"`)}}
	if got := c.Call(t, "rest", generate, map[string]any{"team_id": simulator.SeedTeam}); got.Reason != "CALLER_NOT_ALLOWED" {
		t.Errorf("%+v", got)
	}
	harness.Eventually(t, "the log has why", func() bool {
		return strings.Contains(f.Stderr.String(), `condition of rule \"tenant\": a claim, or a part of one, is missing`)
	})
	if written := f.Stderr.String() + f.Stdout.String(); strings.Contains(written, "cl4im") {
		t.Error("a claim is in the log")
	}
}
