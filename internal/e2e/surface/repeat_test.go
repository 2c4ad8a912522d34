package surface_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// A change that a proxy sends for the second time is carried out if it can be told
// that it is the second time, and refused if not, over REST as well.
func TestRepeatedByAProxy(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	first := harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("once")))
	again := metadata.AppendToOutgoingContext(t.Context(), "x-envoy-attempt-count", "2")
	second, err := f.Client.GenerateToken(again, harness.Asking("once"))
	if err != nil || second.GetSecret() != first.GetSecret() || harness.Posts(sim) != 1 {
		t.Errorf("with a request id: %v, and %d requests to generate", err, harness.Posts(sim))
	}
	_, err = f.Client.GenerateToken(again, harness.Asking(""))
	if d := harness.Details(err); status.Code(err) != codes.FailedPrecondition || d.Reason != "RETRY_WITHOUT_REQUEST_ID" || d.Outcome != "not_applied" {
		t.Error(err)
	}
	for _, row := range []struct {
		method, path, key string
		status            int
	}{
		{http.MethodPost, "", "", http.StatusPreconditionRequired},
		{http.MethodPost, "s", "", http.StatusPreconditionRequired},
		{http.MethodDelete, "", "", http.StatusPreconditionRequired},
		{http.MethodPost, "", "a-key", http.StatusCreated},
		{http.MethodGet, "", "", http.StatusOK},
		{http.MethodDelete, "?expected_token_id=" + first.GetTeamToken().GetId(), "", http.StatusConflict}, // looked at, since it can be told
	} {
		req := harness.Must(http.NewRequestWithContext(t.Context(), row.method,
			f.REST+"/api/v2/teams/"+simulator.SeedTeam+"/authentication-token"+row.path, nil))
		req.Header.Set("X-Envoy-Attempt-Count", "2")
		if row.key != "" {
			req.Header.Set("Idempotency-Key", row.key)
		}
		resp, err := f.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != row.status {
			t.Errorf("%s …%s with key %q: %d, want %d", row.method, row.path, row.key, resp.StatusCode, row.status)
		}
	}
	if harness.Posts(sim) != 2 {
		t.Errorf("%d requests to generate", harness.Posts(sim))
	}
}

// A gRPC library's own retries work where they are safe: while Redis is away a call
// with a request id is sent again, and one without is not.
func TestALibraryRetries(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	f := harness.Start(t, harness.WithRedis(t, harness.WithService(sim, url), r))
	r.Kill()
	client := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, nil, grpc.WithDefaultServiceConfig(`{"methodConfig": [{
		"name": [{"service": "teamtoken.v1.TeamTokenService"}],
		"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}
	}]}`)))
	for id, attempts := range map[string]int{"": 1, "once": 3} {
		before := len(f.Audited())
		_, err := client.GenerateToken(context.Background(), harness.Asking(id))
		if d := harness.Details(err); status.Code(err) != codes.Unavailable || d.Reason != "STATE_STORE_UNAVAILABLE" || d.Outcome != "not_applied" {
			t.Errorf("request id %q: %v", id, err)
		}
		tries := func() (n int) {
			for _, line := range f.Audited()[before:] {
				if line.Event == "attempt" {
					n++
				}
			}
			return n
		}
		harness.Eventually(t, fmt.Sprintf("request id %q: %d attempts", id, attempts), func() bool { return tries() >= attempts })
		if n := tries(); n != attempts {
			t.Errorf("request id %q: %d attempts, want %d", id, n, attempts)
		}
	}
}
