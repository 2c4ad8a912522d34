package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// origin is a way in which callers are known, and a program that knows them so.
type origin struct {
	name, verifiedBy string
	f                *harness.Server
	// as is a client who is this caller in this way; the empty name is nobody.
	as func(t *testing.T, name string) *harness.Client
	id func(name string) string // by which the policy and the audit call him
}

// The callers of the matrix, and what the policy lets each do.
const (
	deployer = "deployer" // everything on its own team, but no list
	lister   = "lister"   // lists its own organization
	viewer   = "viewer"   // reads tokens of all teams
	stranger = "stranger" // is in no rule
	noone    = ""
)

// may is what the policy below says, said a second time.
func may(caller, method, own string) bool {
	switch caller {
	case deployer:
		return method != "ListTokens" && own == "own"
	case lister:
		return method == "ListTokens" && own == "own"
	case viewer:
		return method == "GetToken" || method == "GetTokenByID"
	default:
		return false
	}
}

func matrixPolicy(id func(string) string) string {
	return fmt.Sprintf(`rules:
  - {name: deployer, callers: [%q], methods: [GenerateToken, DeleteToken, GetToken, CreateNamedToken, GetTokenByID, DeleteTokenByID], teams: [%s]}
  - {name: lister, callers: [%q], methods: ["*"], organizations: [acme]}
  - {name: viewer, callers: [%q], methods: [GetToken, GetTokenByID], teams: ["team-*"]}
`, id(deployer), simulator.SeedTeam, id(lister), id(viewer))
}

// origins starts a program for each way in which callers are known.
func origins(t *testing.T, sim *simulator.Simulator, url string) []origin {
	t.Helper()
	ca := harness.NewAuthority(t)
	spiffe := func(name string) string { return "spiffe://teamtoken.test/ns/ci/sa/" + name }
	dns := func(name string) string { return name + ".teamtoken.test" }
	subject := func(issuer string) func(string) string {
		return func(name string) string { return issuer + "#system:serviceaccount:ci:" + name }
	}
	byHolder := func(f *harness.Server, id func(string) string) func(*testing.T, string) *harness.Client {
		return func(t *testing.T, name string) *harness.Client {
			config := ca.Client()
			if name != noone {
				config = ca.ClientCert(t, id(name))
			}
			return f.As(t, sim, config, "127.0.0.1")
		}
	}
	byBearer := func(f *harness.Server, s *harness.Signer, issuer string) func(*testing.T, string) *harness.Client {
		return func(t *testing.T, name string) *harness.Client {
			if name == noone {
				return f.As(t, sim, nil, "127.0.0.1")
			}
			return f.As(t, sim, nil, "127.0.0.1", "authorization", "Bearer "+s.SignAs(t, issuer, "system:serviceaccount:ci:"+name).Reveal())
		}
	}
	byHeader := func(f *harness.Server, header string, value func(string) string) func(*testing.T, string) *harness.Client {
		return func(t *testing.T, name string) *harness.Client {
			if name == noone {
				return f.As(t, sim, nil, "127.0.0.1")
			}
			return f.As(t, sim, nil, "127.0.0.1", header, value(name))
		}
	}
	mutual := func(id func(string) string) *harness.Server {
		s := harness.WithPolicy(t, sim, url, matrixPolicy(id), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional")
		s.TLS = ca
		return harness.Start(t, s)
	}
	mesh := func(kind string, id func(string) string) *harness.Server {
		return harness.Start(t, harness.WithPolicy(t, sim, url, matrixPolicy(id), "TEAMTOKEN_MESH="+kind))
	}
	byKey := harness.NewSigner(t, "file")
	keyed := harness.Start(t, harness.WithPolicy(t, sim, url, matrixPolicy(subject(harness.JWTIssuer)),
		"TEAMTOKEN_JWT_ISSUER="+harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE=other,"+harness.JWTAudience, "TEAMTOKEN_JWT_KEYS_FILE="+harness.WriteTemp(t, harness.JWKS(byKey))))
	byIssuer := harness.NewSigner(t, "asked")
	issuer, issuerCA := newIssuer(t, byIssuer)
	asked := harness.Start(t, harness.WithPolicy(t, sim, url, matrixPolicy(subject(issuer)),
		"TEAMTOKEN_JWT_ISSUER="+issuer, "TEAMTOKEN_JWT_AUDIENCE="+harness.JWTAudience, "TEAMTOKEN_JWT_ISSUER_CA_FILE="+issuerCA))
	bySPIFFE, byDNS, envoy, linkerd, outside := mutual(spiffe), mutual(dns), mesh("envoy", spiffe), mesh("linkerd", dns), mesh("linkerd", spiffe)
	workload := harness.NewWorkloadAPI(t, ca, spiffe("teamtoken"))
	s := harness.WithPolicy(t, sim, url, matrixPolicy(spiffe), "TEAMTOKEN_SPIFFE_SOCKET="+workload, "TEAMTOKEN_TLS_CLIENT_AUTH=optional")
	s.Trusts = anyName(ca)
	byWorkload := harness.Start(t, s)
	ofWorkload := func(t *testing.T, name string) *harness.Client {
		config := anyName(ca)
		if name != noone {
			config.Certificates = ca.ClientCert(t, spiffe(name)).Certificates
		}
		return byWorkload.As(t, sim, config, "127.0.0.1")
	}
	return []origin{
		{"a certificate with a SPIFFE id", "mtls", bySPIFFE, byHolder(bySPIFFE, spiffe), spiffe},
		{"a certificate with a DNS name", "mtls", byDNS, byHolder(byDNS, dns), dns},
		{"the SPIFFE Workload API", "mtls", byWorkload, ofWorkload, spiffe},
		{"a JWT, by a file of keys", "jwt", keyed, byBearer(keyed, byKey, harness.JWTIssuer), subject(harness.JWTIssuer)},
		{"a JWT, by its issuer", "jwt", asked, byBearer(asked, byIssuer, issuer), subject(issuer)},
		{"Envoy's header", "mesh", envoy, byHeader(envoy, "x-forwarded-client-cert", func(name string) string {
			return `By=spiffe://teamtoken.test/tt;Hash=00ff;Subject="CN=a,O=b";URI=` + spiffe(name)
		}), spiffe},
		{"Linkerd's header", "mesh", linkerd, byHeader(linkerd, "l5d-client-id", dns), dns},
		{"Linkerd's header, of a workload outside of the cluster", "mesh", outside, byHeader(outside, "l5d-client-id", spiffe), spiffe},
	}
}

// newIssuer is an issuer of JWTs that is asked for its keys.
func newIssuer(t *testing.T, s *harness.Signer) (issuer, caFile string) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "jwks_uri": server.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(harness.JWKS(s))) })
	caFile = filepath.Join(t.TempDir(), "issuer.pem")
	harness.WritePEM(t, caFile, "CERTIFICATE", server.Certificate().Raw)
	return server.URL, caFile
}

// anyName trusts a server of this authority whatever its name is: a workload's
// certificate has none but its SPIFFE id.
func anyName(a *harness.Authority) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS12,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: a.Pool})
			return err
		},
	}
}

// TestMatrix makes every call in every way: every caller, method, team, surface
// and kind of identity. What is denied reaches the upstream with nothing, and is
// in the audit exactly once, as a refusal. What is allowed is there as an attempt
// and an outcome.
func TestMatrix(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	other := simulator.Teams()[1].ID
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for _, o := range origins(t, sim, url) {
		t.Run(o.name, func(t *testing.T) {
			maker := o.as(t, deployer)
			for _, name := range []string{deployer, lister, viewer, stranger, noone} {
				c := o.as(t, name)
				for i := range methods.Len() {
					method := methods.Get(i)
					for _, own := range []string{"own", "other", "hostile"} {
						for _, surface := range []string{"grpc", "rest"} {
							t.Run(fmt.Sprintf("%s/%s/%s/%s", name, method.Name(), own, surface), func(t *testing.T) {
								cell{o, sim, url, name, method, own, surface, other}.run(t, maker, c)
							})
						}
					}
				}
			}
		})
	}
}

// cell is one call of the matrix.
type cell struct {
	origin
	sim     *simulator.Simulator
	url     string // of the simulator
	caller  string
	method  protoreflect.MethodDescriptor
	own     string // whose team or organization: own, other, or what is none
	surface string
	other   string // the id of another team
}

// fields are the message's. Tokens that are named by their ids are made for it.
func (c cell) fields(t *testing.T, maker *harness.Client) map[string]any {
	t.Helper()
	team := map[string]string{"own": simulator.SeedTeam, "other": c.other, "hostile": "team-BUHBEM97xboT8TVz.."}[c.own]
	fields := c.method.Input().Fields()
	switch {
	case fields.ByName("organization") != nil:
		return map[string]any{"organization": map[string]string{"own": simulator.Organization, "other": "umbrella", "hostile": "acme.."}[c.own]}
	case fields.ByName("token_id") != nil && c.own == "hostile":
		return map[string]any{"token_id": "at-none"}
	case fields.ByName("token_id") != nil:
		return map[string]any{"token_id": c.mint(t, team)}
	case c.method.Name() == "CreateNamedToken":
		return map[string]any{"team_id": team, "description": t.Name()}
	case c.method.Name() != "GenerateToken" && c.own == "own":
		_ = maker.Call(t, "grpc", c.method.Parent().(protoreflect.ServiceDescriptor).Methods().ByName("GenerateToken"), map[string]any{"team_id": team})
	}
	return map[string]any{"team_id": team}
}

// mint makes a token of a team upstream, past the program.
func (c cell) mint(t *testing.T, team string) (id string) {
	t.Helper()
	body := fmt.Sprintf(`{"data":{"type":"authentication-tokens","attributes":{"description":%q}}}`, t.Name())
	req := harness.Must(http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/api/v2/teams/"+team+"/authentication-tokens", strings.NewReader(body)))
	req.Header.Set("Authorization", "Bearer "+c.sim.UserToken().Reveal())
	req.Header.Set("Content-Type", "application/vnd.api+json")
	resp := harness.Must(http.DefaultClient.Do(req))
	defer resp.Body.Close()
	var doc struct{ Data struct{ ID string } }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || doc.Data.ID == "" {
		t.Fatal(resp.Status, err)
	}
	return doc.Data.ID
}

func (c cell) run(t *testing.T, maker, as *harness.Client) {
	fields := c.fields(t, maker)
	got := as.Call(t, c.surface, c.method, fields)
	name, byID := string(c.method.Name()), fields["token_id"] != nil
	changes := name != "GetToken" && name != "GetTokenByID" && name != "ListTokens"
	notApplied := ""
	if changes {
		notApplied = "not_applied"
	}
	refused := func(grpc, rest, reason, outcome string) {
		t.Helper()
		code := map[string]string{"grpc": grpc, "rest": rest}[c.surface]
		if got.Code != code || got.Reason != reason || got.Outcome != outcome {
			t.Errorf("%s %s %q, want %s %s %q", got.Code, got.Reason, got.Outcome, code, reason, outcome)
		}
	}
	audited := func(events, decision, rule string) {
		t.Helper()
		last, id := got.Last(), ""
		verifiedBy := ""
		if c.caller != noone {
			id, verifiedBy = c.id(c.caller), c.verifiedBy
		}
		if got.Events() != events || last.Decision != decision || last.Rule != rule || last.Caller != id || last.VerifiedBy != verifiedBy ||
			last.Method != name || last.Surface != c.surface || !strings.HasPrefix(last.Peer, "127.0.0.1:") || last.CallID == "" {
			t.Errorf("the audit has %+v, want %s, %s by rule %q", got.Lines, events, decision, rule)
		}
	}
	sent := func(n int) {
		t.Helper()
		if len(got.Sent) != n {
			t.Errorf("%d requests went upstream, want %d: %v", len(got.Sent), n, got.Sent)
		}
	}
	// Whether any rule could allow it for some team, which is all that is known of a
	// token before it is read.
	some := may(c.caller, name, "own") || may(c.caller, name, "other")
	switch {
	case c.caller == noone:
		refused("Unauthenticated", "401", "CALLER_UNAUTHENTICATED", notApplied)
		audited("refusal", "", "")
		sent(0)
	case byID && some && c.own == "hostile": // a token that is not there
		refused("NotFound", "404", "TOKEN_NOT_FOUND_OR_FORBIDDEN", notApplied)
		audited("attempt outcome", "pending", "")
		sent(1)
	case byID && some && !may(c.caller, name, c.own):
		refused("NotFound", "404", "TOKEN_NOT_FOUND_OR_FORBIDDEN", notApplied)
		audited("attempt refusal", "deny", "")
		if sent(1); got.Sent[0].Method != http.MethodGet {
			t.Errorf("%v went upstream", got.Sent)
		}
	case !may(c.caller, name, c.own):
		refused("PermissionDenied", "403", "CALLER_NOT_ALLOWED", notApplied)
		audited("refusal", "deny", "")
		sent(0)
	case c.own == "hostile": // what the pattern lets through is no id of a team
		refused("InvalidArgument", "400", "INVALID_FIELD", notApplied)
		audited("attempt outcome", "allow", c.caller)
		sent(0)
	default:
		c.allowed(t, got, audited)
	}
}

// allowed looks at a call that was.
func (c cell) allowed(t *testing.T, got harness.Answered, audited func(events, decision, rule string)) {
	t.Helper()
	if got.Reason != "" && got.Reason != "TEAM_NOT_FOUND_OR_FORBIDDEN" { // a team may have no token to read
		t.Errorf("%s %s", got.Code, got.Reason)
	}
	audited("attempt outcome", "allow", c.caller)
	last := got.Last()
	if len(got.Sent) == 0 || last.UpstreamRequestID == "" || last.Duration <= 0 {
		t.Errorf("%d requests went upstream, and the audit has %+v", len(got.Sent), last)
	}
	if minted := c.sim.Minted(); got.Reason == "" && (c.method.Name() == "GenerateToken" || c.method.Name() == "CreateNamedToken") &&
		(last.TokenID != minted[len(minted)-1].ID || last.Outcome != "applied") {
		t.Errorf("the audit has token %q, %s; made was %q", last.TokenID, last.Outcome, minted[len(minted)-1].ID)
	}
}
