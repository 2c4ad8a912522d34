package clients_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/reflect/protoreflect"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// run is a run of HCP Terraform, as its workload identity token says.
type run struct {
	organization, organizationID, project, workspace, workspaceID, phase, audience string
}

// claims are all that HCP Terraform puts into the token.
func (r run) claims(issuer string) map[string]any {
	now := time.Now().Unix()
	workspace := fmt.Sprintf("organization:%s:project:%s:workspace:%s", r.organization, r.project, r.workspace)
	return map[string]any{
		"jti": "1192426d-b525-4fde-9d62-f238be437bbd", "iss": issuer, "aud": r.audience, "iat": now, "nbf": now - 5, "exp": now + 7200,
		"sub":                       workspace + ":run_phase:" + r.phase,
		"terraform_organization_id": r.organizationID, "terraform_organization_name": r.organization,
		"terraform_project_id": "prj-vegSA59s1XPwMr2t", "terraform_project_name": r.project,
		"terraform_workspace_id": r.workspaceID, "terraform_workspace_name": r.workspace,
		"terraform_full_workspace": workspace, "terraform_run_id": "run-X3n1AUXNGWbfECsJ", "terraform_run_phase": r.phase,
	}
}

// A run of HCP Terraform fetches its own team's token by its workload identity, with
// the settings and the policy of deploy/hcp-terraform, and no other run does.
func TestHCPTerraformRun(t *testing.T) {
	t.Parallel()
	const directory = "../../../deploy/hcp-terraform/"
	if out, err := exec.Command(harness.Binary, "policy", "check", directory+"policy.yaml").CombinedOutput(); err != nil {
		t.Fatalf("the example's policy: %v\n%s", err, out)
	}
	key := jose.JSONWebKey{Key: harness.Must(rsa.GenerateKey(rand.Reader, 2048)), KeyID: "tfc-1", Algorithm: "RS256", Use: "sig"}
	issuer := harness.NewMovingIssuer(t, string(harness.Must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key.Public()}}))))
	sim, url := harness.NewSimulator(t)
	network, billing := simulator.AnotherTeam(1), simulator.AnotherTeam(2)
	here := strings.NewReplacer("https://app.terraform.io", issuer.URL,
		"team-BUHBEM97xboT8TVz", network, "team-6p5jTwJQXwqZBncC", billing)
	policy := harness.WriteTemp(t, here.Replace(string(harness.Must(os.ReadFile(directory+"policy.yaml")))))
	s := harness.Settings{Sim: sim, Upstream: url, Env: []string{"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_JWT_ISSUER_CA_FILE=" + issuer.CAFile}}
	for line := range strings.Lines(here.Replace(string(harness.Must(os.ReadFile(directory + "teamtoken.env"))))) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			s.Env = append(s.Env, strings.Replace(line, "/etc/teamtoken/policy.yaml", policy, 1))
		}
	}
	f := harness.Start(t, s)

	own := run{"acme", "org-GRNbCjYNpBB6NEBH", "Default Project", "network", "ws-network00000001", "apply", "teamtoken.example.com"}
	but := func(r run, change func(r *run)) run { change(&r); return r }
	bills := but(own, func(r *run) { r.project, r.workspace, r.workspaceID = "Back Office", "billing", "ws-mbsd5E3Ktt5Rg2Xm" })
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for _, row := range []struct {
		name   string
		run    run
		claims map[string]any
		method string
		team   string
		want   string
	}{
		{"its own team's", own, nil, "GenerateToken", network, ""},
		{"another team's", own, nil, "GenerateToken", billing, "CALLER_NOT_ALLOWED"},
		{"while it plans", but(own, func(r *run) { r.phase = "plan" }), nil, "GenerateToken", network, "CALLER_NOT_ALLOWED"},
		{"another workspace", but(own, func(r *run) { r.workspace = "network2" }), nil, "GenerateToken", network, "CALLER_NOT_ALLOWED"},
		{"another project", but(own, func(r *run) { r.project = "Default  Project" }), nil, "GenerateToken", network, "CALLER_NOT_ALLOWED"},
		{"a project with an invisible blank", but(own, func(r *run) { r.project = "Default\u00a0Project" }), nil, "GenerateToken", network, "CALLER_UNAUTHENTICATED"},
		{"another organization", but(own, func(r *run) { r.organization = "acme2" }), nil, "GenerateToken", network, "CALLER_NOT_ALLOWED"},
		{"another service's token", but(own, func(r *run) { r.audience = "aws.workload.identity" }), nil, "GenerateToken", network, "CALLER_UNAUTHENTICATED"},
		{"an expired token", own, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, "GenerateToken", network, "CALLER_UNAUTHENTICATED"},

		{"by its id", bills, nil, "GenerateToken", billing, ""},
		{"by its id, renamed", but(bills, func(r *run) { r.project, r.workspace = "Sales & Co", "bills" }), nil, "GenerateToken", billing, ""},
		{"by its id, and only reads while it plans", but(bills, func(r *run) { r.phase = "plan" }), nil, "GetToken", billing, ""},
		{"by its id, while it plans", but(bills, func(r *run) { r.phase = "plan" }), nil, "GenerateToken", billing, "CALLER_NOT_ALLOWED"},
		{"by its id, another team's", bills, nil, "GenerateToken", network, "CALLER_NOT_ALLOWED"},
		{"by its name alone", but(bills, func(r *run) { r.workspaceID = "ws-other00000000001" }), nil, "GenerateToken", billing, "CALLER_NOT_ALLOWED"},
		{"by its id, in another organization", but(bills, func(r *run) { r.organizationID = "org-other0000000001" }), nil, "GenerateToken", billing, "CALLER_NOT_ALLOWED"},
	} {
		claims := row.run.claims(issuer.URL)
		maps.Copy(claims, row.claims)
		by := harness.Must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT")))
		token := harness.Must(harness.Must(by.Sign(harness.Must(json.Marshal(claims)))).CompactSerialize())
		c := f.As(t, sim, nil, "127.0.0.1", "authorization", "Bearer "+token)
		for _, surface := range []string{"grpc", "rest"} {
			got := c.Call(t, surface, methods.ByName(protoreflect.Name(row.method)), map[string]any{"team_id": row.team})
			if got.Reason != row.want || (len(got.Sent) > 0) != (row.want == "") {
				t.Errorf("%s over %s: %q, want %q; %d requests to the upstream", row.name, surface, got.Reason, row.want, len(got.Sent))
			}
			if id := issuer.URL + "#" + claims["sub"].(string); row.want != "CALLER_UNAUTHENTICATED" && got.Last().Caller != id {
				t.Errorf("%s over %s: the audit has %q", row.name, surface, got.Last().Caller)
			}
		}
	}
}
