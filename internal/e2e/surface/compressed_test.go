package surface_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A proxy before the upstream that compresses every answer, whatever is asked for, costs
// nobody a token, and errors mean what they say.
func TestACompressingProxy(t *testing.T) {
	t.Parallel()
	sim, _ := harness.NewSimulator(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header["Accept-Encoding"]; len(got) != 1 || got[0] != "identity" {
			t.Errorf("%s %s asks for %q", r.Method, r.URL.Path, got)
		}
		answer := httptest.NewRecorder()
		sim.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		if answer.Code != http.StatusNoContent {
			w.Header().Set("Content-Encoding", "gzip")
		}
		w.WriteHeader(answer.Code)
		if answer.Code == http.StatusNoContent {
			return
		}
		var body bytes.Buffer
		z := gzip.NewWriter(&body)
		_, _ = z.Write(answer.Body.Bytes())
		_ = z.Close()
		_, _ = w.Write(body.Bytes())
	}))
	defer proxy.Close()
	f := harness.Start(t, harness.WithService(sim, proxy.URL))
	ctx := t.Context()
	resp, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team})
	if err != nil || resp.GetSecret() != sim.Minted()[0].Secret.Reveal() {
		t.Errorf("a token: %v", err)
	}
	if _, secret, err := (overREST{f, t}).generate(ctx, simulator.Teams()[1].ID); err != nil || secret != sim.Minted()[1].Secret.Reveal() {
		t.Errorf("a token over REST: %v", err)
	}
	named := &teamtokenv1.CreateNamedTokenRequest{TeamId: harness.Team, Description: new("one")}
	if resp, err := f.Client.CreateNamedToken(ctx, named); err != nil || resp.GetSecret() == "" {
		t.Errorf("a named token: %v", err)
	}
	if _, err := f.Client.CreateNamedToken(ctx, named); status.Code(err) != codes.AlreadyExists || harness.Details(err).Reason != "DESCRIPTION_TAKEN" {
		t.Errorf("the same once more: %v", err)
	}
	if list, err := f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: simulator.Organization}); err != nil || len(list.GetTeamTokens()) != 3 {
		t.Errorf("a list: %v", err)
	}
	if _, err := f.Client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: harness.Team}); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	if _, err := f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: harness.Team}); status.Code(err) != codes.NotFound {
		t.Errorf("a token that is gone: %v", err)
	}
	sim.Inject(simulator.Fault{Status: http.StatusTooManyRequests, Header: map[string]string{"X-RateLimit-Reset": "0.01"}})
	if _, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}); err != nil {
		t.Errorf("after a 429: %v", err)
	}
}
