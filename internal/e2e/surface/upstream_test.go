package surface_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// TestRealUpstream runs against a server that none of us wrote: one of HCP
// Terraform's API at TFE_TEST_ADDRESS, whose token TFE_TEST_TOKEN may manage
// the token of TFE_TEST_TEAM, a team of TFE_TEST_ORG. The team's token is
// replaced and deleted.
func TestRealUpstream(t *testing.T) {
	t.Parallel()
	u := newRealUpstream(t)
	team := u.team
	for _, surface := range []tokenSurface{overGRPC{u.f}, overREST{u.f, t}} {
		t.Run(surface.name(), func(t *testing.T) {
			_ = surface.delete(t.Context(), team) // from a run before

			id1, first, err := surface.generate(t.Context(), team)
			if err != nil {
				t.Fatal(err)
			}
			u.step(t, "the first token authenticates", u.authenticates(t, first), http.StatusOK)
			if id, err := surface.get(t.Context(), team); err != nil || id != id1 {
				t.Errorf("it is shown: %q, %v", id, err)
			}
			id2, second, err := surface.generate(t.Context(), team)
			if err != nil {
				t.Fatal(err)
			}
			if id1 == id2 || first == second {
				t.Error("the second token is the first")
			}
			u.step(t, "the second token authenticates", u.authenticates(t, second), http.StatusOK)
			u.step(t, "the first token is dead", u.authenticates(t, first), http.StatusUnauthorized)
			if err := surface.delete(t.Context(), team); err != nil {
				t.Error(err)
			}
			u.step(t, "the second token is dead", u.authenticates(t, second), http.StatusUnauthorized)
			if err := surface.delete(t.Context(), team); status.Code(err) != codes.NotFound {
				t.Errorf("delete again: %v, want NOT_FOUND", err)
			}
			if _, err := surface.get(t.Context(), team); status.Code(err) != codes.NotFound {
				t.Errorf("show again: %v, want NOT_FOUND", err)
			}
			if _, _, err := surface.generate(t.Context(), "team-0000000000000000"); status.Code(err) != codes.NotFound {
				t.Errorf("no such team: %v, want NOT_FOUND", err)
			}
		})
	}
}

// TestRealUpstreamNamedTokens is for endpoints that not every upstream has: one
// that has none of them says UNIMPLEMENTED, or NOT_FOUND where its own router
// speaks the API's language.
func TestRealUpstreamNamedTokens(t *testing.T) {
	t.Parallel()
	u := newRealUpstream(t)
	ctx := t.Context()
	made, err := u.f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
		TeamId: u.team, Description: new("teamtoken test " + rand.Text()),
	})
	if status.Code(err) == codes.Unimplemented {
		t.Log("the upstream has no named tokens: UNIMPLEMENTED")
		_, err = u.f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: u.organization})
		t.Logf("a list: %v", status.Code(err))
		if c := status.Code(err); c != codes.Unimplemented && c != codes.NotFound {
			t.Error(err)
		}
		_, err = u.f.Client.GetTokenByID(ctx, &teamtokenv1.GetTokenByIDRequest{TokenId: "at-0000000000000000"})
		t.Logf("a token by its id: %v", status.Code(err))
		if c := status.Code(err); c != codes.Unimplemented && c != codes.NotFound {
			t.Error(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	id := made.GetTeamToken().GetId()
	u.step(t, "the named token authenticates", u.authenticates(t, made.GetSecret()), http.StatusOK)
	if got, err := u.f.Client.GetTokenByID(ctx, &teamtokenv1.GetTokenByIDRequest{TokenId: id}); err != nil || got.GetTeamToken().GetTeamId() != u.team {
		t.Errorf("it is shown by its id: %v", err)
	}
	list, err := u.f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: u.organization, PageSize: 100})
	if err != nil || !slices.ContainsFunc(list.GetTeamTokens(), func(tt *teamtokenv1.TeamToken) bool { return tt.GetId() == id }) {
		t.Errorf("it is listed: %v", err)
	}
	if _, err := u.f.Client.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: id}); err != nil {
		t.Error(err)
	}
	u.step(t, "the named token is dead", u.authenticates(t, made.GetSecret()), http.StatusUnauthorized)
}

// TestRealUpstreamCallerCredentials forwards what each caller brings.
func TestRealUpstreamCallerCredentials(t *testing.T) {
	t.Parallel()
	u := newRealUpstream(t)
	f := harness.Start(t, harness.Settings{Upstream: u.address, Env: []string{"TEAMTOKEN_CREDENTIALS=caller"}})
	for bearer, want := range map[string]codes.Code{
		os.Getenv("TFE_TEST_TOKEN"): codes.OK, "no-token-of-this-server": codes.Unauthenticated, "": codes.Unauthenticated,
	} {
		ctx := t.Context()
		if bearer != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
		}
		_, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: u.team})
		if got := status.Code(err); got != want {
			t.Errorf("a credential of %d bytes: %v, want %v", len(bearer), got, want)
		}
	}
}

// realUpstream is a server that none of us wrote, and the program before it.
type realUpstream struct {
	f                           *harness.Server
	address, team, organization string
}

func newRealUpstream(t *testing.T) realUpstream {
	t.Helper()
	address, token := os.Getenv("TFE_TEST_ADDRESS"), os.Getenv("TFE_TEST_TOKEN")
	team, organization := os.Getenv("TFE_TEST_TEAM"), os.Getenv("TFE_TEST_ORG")
	if address == "" || token == "" || team == "" || organization == "" {
		t.Skip("needs a real upstream: set TFE_TEST_ADDRESS, TFE_TEST_TOKEN, TFE_TEST_TEAM and TFE_TEST_ORG")
	}
	f := harness.Start(t, harness.Settings{Upstream: address, Env: []string{"TFE_TOKEN=" + token, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true"}})
	return realUpstream{f, address, team, organization}
}

// authenticates is the status that the upstream answers a token with.
func (u realUpstream) authenticates(t *testing.T, secret string) int {
	t.Helper()
	req := harness.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, u.address+"/api/v2/organizations/"+u.organization, nil))
	req.Header.Set("Authorization", "Bearer "+secret)
	resp := harness.Must(http.DefaultClient.Do(req))
	defer resp.Body.Close()
	return resp.StatusCode
}

func (realUpstream) step(t *testing.T, name string, got, want int) {
	t.Helper()
	t.Logf("%s: %d", name, got)
	if got != want {
		t.Errorf("%s: %d, want %d", name, got, want)
	}
}

// tokenSurface is either surface, with gRPC's codes for errors.
type tokenSurface interface {
	name() string
	generate(ctx context.Context, team string) (id, secret string, err error)
	get(ctx context.Context, team string) (id string, err error)
	delete(ctx context.Context, team string) error
}

type overGRPC struct{ f *harness.Server }

func (overGRPC) name() string { return "gRPC" }

func (s overGRPC) generate(ctx context.Context, team string) (id, secret string, err error) {
	resp, err := s.f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: team})
	return resp.GetTeamToken().GetId(), resp.GetSecret(), err
}

func (s overGRPC) get(ctx context.Context, team string) (string, error) {
	resp, err := s.f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: team})
	return resp.GetTeamToken().GetId(), err
}

func (s overGRPC) delete(ctx context.Context, team string) error {
	_, err := s.f.Client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: team})
	return err
}

type overREST struct {
	f *harness.Server
	t *testing.T
}

func (overREST) name() string { return "REST" }

func (s overREST) do(ctx context.Context, method, team string, want int) (id, secret string, err error) {
	req := harness.Must(http.NewRequestWithContext(ctx, method, s.f.REST+"/api/v2/teams/"+team+"/authentication-token", nil))
	resp := harness.Must(s.f.HTTP.Do(req))
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
	case want:
		var doc struct {
			Data struct {
				ID         string
				Attributes struct{ Token *string }
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			s.t.Fatal(err)
		}
		if doc.Data.Attributes.Token != nil {
			secret = *doc.Data.Attributes.Token
		}
		return doc.Data.ID, secret, nil
	case http.StatusNotFound:
		return "", "", status.Error(codes.NotFound, harness.ErrorsOf(s.t, resp).Code)
	default:
		return "", "", status.Error(codes.Unknown, resp.Status)
	}
	return "", "", nil
}

func (s overREST) generate(ctx context.Context, team string) (id, secret string, err error) {
	return s.do(ctx, http.MethodPost, team, http.StatusCreated)
}

func (s overREST) get(ctx context.Context, team string) (string, error) {
	id, _, err := s.do(ctx, http.MethodGet, team, http.StatusOK)
	return id, err
}

func (s overREST) delete(ctx context.Context, team string) error {
	_, _, err := s.do(ctx, http.MethodDelete, team, http.StatusNoContent)
	return err
}

// TestRealUpstreamLostAnswers loses the answers of a real server, after it has carried
// the request out, or in its stead: what it shows of a token is enough to tell which.
func TestRealUpstreamLostAnswers(t *testing.T) {
	t.Parallel()
	u := newRealUpstream(t)
	address := harness.Must(url.Parse(os.Getenv("TFE_TEST_ADDRESS")))
	var lose atomic.Int64 // answers still to be lost
	var carryOut atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(address)
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && lose.Add(-1) >= 0 {
			if carryOut.Load() {
				proxy.ServeHTTP(httptest.NewRecorder(), r)
			}
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(between.Close)
	f := harness.Start(t, harness.Settings{Upstream: between.URL, Env: []string{
		"TFE_TOKEN=" + os.Getenv("TFE_TEST_TOKEN"), "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true", "TEAMTOKEN_UNKNOWN_HOLD=2s",
	}})
	generate := func(requestID string) (string, error) {
		resp, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: u.team, RequestId: requestID})
		return resp.GetSecret(), err
	}
	if _, err := generate(""); err != nil {
		t.Fatal(err)
	}
	carryOut.Store(true)
	lose.Store(1)
	text, err := generate("")
	if err != nil || lose.Load() >= 0 {
		t.Fatalf("carried out, and made once more: %v", err)
	}
	u.step(t, "the answer's token authenticates", u.authenticates(t, text), http.StatusOK)

	carryOut.Store(false)
	lose.Store(1)
	if _, err := generate("lost"); harness.Details(err).Outcome != "unknown" {
		t.Fatalf("not carried out: %v", err)
	}
	u.step(t, "the token before still authenticates", u.authenticates(t, text), http.StatusOK)
	harness.Eventually(t, "the same request has its token", func() bool {
		text, err = generate("lost")
		return err == nil
	})
	u.step(t, "which authenticates", u.authenticates(t, text), http.StatusOK)

	carryOut.Store(true)
	lose.Store(1)
	if _, err := f.Client.DeleteToken(t.Context(), &teamtokenv1.DeleteTokenRequest{TeamId: u.team}); err != nil {
		t.Errorf("deleted: %v", err)
	}
	u.step(t, "and is dead once it is deleted", u.authenticates(t, text), http.StatusUnauthorized)
}
