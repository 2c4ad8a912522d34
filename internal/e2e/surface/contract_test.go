package surface_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// Every RPC has its place in the REST surface, and every place an RPC. A rule
// with a slip in a key, and an RPC without a rule, pass the generator in silence.
func TestEveryRPCHasItsPath(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"GenerateToken":    "POST /api/v2/teams/{team_id}/authentication-token",
		"DeleteToken":      "DELETE /api/v2/teams/{team_id}/authentication-token",
		"GetToken":         "GET /api/v2/teams/{team_id}/authentication-token",
		"CreateNamedToken": "POST /api/v2/teams/{team_id}/authentication-tokens",
		"GetTokenByID":     "GET /api/v2/authentication-tokens/{token_id}",
		"DeleteTokenByID":  "DELETE /api/v2/authentication-tokens/{token_id}",
		"ListTokens":       "GET /api/v2/organizations/{organization}/team-tokens",
	}
	var file struct {
		Type    string `yaml:"type"`
		Version int    `yaml:"config_version"`
		HTTP    struct {
			Rules []struct {
				Selector, Get, Post, Delete, Body string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(harness.Must(os.ReadFile("../../../proto/teamtoken/v1/http.yaml"))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range file.HTTP.Rules {
		name := strings.TrimPrefix(r.Selector, "teamtoken.v1.TeamTokenService.")
		for method, path := range map[string]string{"GET": r.Get, "POST": r.Post, "DELETE": r.Delete} {
			if path != "" {
				got[name] += method + " " + path
			}
		}
	}
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for i := range methods.Len() {
		name := string(methods.Get(i).Name())
		if got[name] != want[name] || want[name] == "" {
			t.Errorf("%s: %q, want %q", name, got[name], want[name])
		}
	}
	if methods.Len() != len(want) || len(got) != len(want) {
		t.Errorf("%d RPCs, %d rules, want %d", methods.Len(), len(got), len(want))
	}
}

// A secret is in the two answers that make one, marked as such, and nowhere
// else; and a client in any language needs nothing but google/protobuf.
func TestSecretsInTheContract(t *testing.T) {
	t.Parallel()
	var secrets []string
	for _, file := range []protoreflect.FileDescriptor{
		teamtokenv1.File_teamtoken_v1_team_token_proto, teamtokenv1.File_teamtoken_v1_team_token_service_proto,
		teamtokenv1.File_teamtoken_v1_error_reason_proto,
	} {
		for i := range file.Imports().Len() {
			if path := file.Imports().Get(i).Path(); !strings.HasPrefix(path, "google/protobuf/") && !strings.HasPrefix(path, "teamtoken/") {
				t.Errorf("%s imports %s", file.Path(), path)
			}
		}
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				f := fields.Get(j)
				marked := f.Options().(*descriptorpb.FieldOptions).GetDebugRedact()
				if marked != (f.Name() == "secret") {
					t.Errorf("%s: debug_redact is %v", f.FullName(), marked)
				}
				if f.Name() == "secret" {
					secrets = append(secrets, string(f.Parent().Name()))
				}
			}
		}
	}
	if got := strings.Join(secrets, " "); got != "GenerateTokenResponse CreateNamedTokenResponse" {
		t.Errorf("secrets in %s", got)
	}
}
