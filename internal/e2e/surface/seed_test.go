package surface_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// sample is the vendor's sample response; nothing was changed in it.
const sample = `{
  "data": {
    "id": "4111797",
    "type": "authentication-tokens",
    "attributes": {
      "created-at": "2017-11-29T19:18:09.976Z",
      "last-used-at": null,
      "description": null,
      "token": "QnbSxjjhVMHJgw.atlasv1.gxZnWIjI5j752DGqdwEUVLOFf0mtyaQ00H9bA1j90qWb254lEkQyOdfqqcq9zZL7Sm0"
    },
    "relationships": {
      "created-by": {
        "data": {
          "id": "user-62goNpx1ThQf689e",
          "type": "users"
        }
      }
    }
  }
}`

// today is the shape of the documents since tokens expire.
const today = `{
  "data": {
    "id": "at-6yEmxNAhaoQLH1Da",
    "type": "authentication-tokens",
    "attributes": {
      "created-at": "2026-04-06T12:00:00.000Z",
      "last-used-at": "2026-04-06T12:00:00.120Z",
      "expired-at": null,
      "description": null,
      "token": "QnbSxjjhVMHJgw.atlasv1.gxZnWIjI5j752DGqdwEUVLOFf0mtyaQ00H9bA1j90qWb254lEkQyOdfqqcq9zZL7Sm0"
    },
    "relationships": {
      "team": {"data": {"id": "team-BUHBEM97xboT8TVz", "type": "teams"}},
      "created-by": {"data": {"id": "my-organization", "type": "organizations"}}
    }
  }
}`

// An upstream that answers a document gives the same document through REST,
// member by member, and each of its values over gRPC.
func TestDocumentsComeThroughWhole(t *testing.T) {
	t.Parallel()
	const secret = "QnbSxjjhVMHJgw.atlasv1.gxZnWIjI5j752DGqdwEUVLOFf0mtyaQ00H9bA1j90qWb254lEkQyOdfqqcq9zZL7Sm0"
	at := func(s string) *timestamppb.Timestamp {
		return timestamppb.New(harness.Must(time.Parse(time.RFC3339, s)))
	}
	for _, c := range []struct {
		name, document string
		want           *teamtokenv1.TeamToken
	}{
		{"the vendor's sample", sample, &teamtokenv1.TeamToken{
			Id: "4111797", CreatedAt: at("2017-11-29T19:18:09.976Z"),
			CreatedBy: &teamtokenv1.Creator{Id: "user-62goNpx1ThQf689e", Kind: teamtokenv1.Creator_KIND_USER},
		}},
		{"today's", today, &teamtokenv1.TeamToken{
			Id: "at-6yEmxNAhaoQLH1Da", TeamId: simulator.SeedTeam,
			CreatedAt: at("2026-04-06T12:00:00Z"), LastUsedAt: at("2026-04-06T12:00:00.12Z"),
			CreatedBy: &teamtokenv1.Creator{Id: "my-organization", Kind: teamtokenv1.Creator_KIND_ORGANIZATION},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/vnd.api+json")
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, c.document)
			}))
			t.Cleanup(upstream.Close)
			f := harness.Start(t, harness.Settings{Upstream: upstream.URL, Env: []string{
				"TFE_TOKEN=x", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
			}})

			got, err := f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			if err != nil {
				t.Fatal(err)
			}
			want := &teamtokenv1.GenerateTokenResponse{TeamToken: c.want, Secret: secret}
			if !cmp.Equal(got, want, protocmp.Transform()) {
				t.Error("gRPC: not the values of the document")
			}

			url := f.REST + "/api/v2/teams/" + simulator.SeedTeam + "/authentication-token"
			resp := harness.Must(f.HTTP.Post(url, "application/vnd.api+json", nil))
			defer resp.Body.Close()
			body := harness.Must(io.ReadAll(resp.Body))
			if resp.StatusCode != http.StatusCreated || resp.Header.Get("Content-Type") != "application/vnd.api+json" {
				t.Errorf("%s, %s", resp.Status, resp.Header.Get("Content-Type"))
			}
			if !cmp.Equal(decoded(t, string(body)), decoded(t, c.document)) {
				t.Error("REST: not the same document")
			}
			if strings.Contains(f.Stderr.String(), "atlasv1") {
				t.Error("the secret is in the log")
			}
		})
	}
}

func decoded(t *testing.T, document string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(document), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
