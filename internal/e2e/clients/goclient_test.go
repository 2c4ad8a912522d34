package clients_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	teamtoken "github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	sealed "github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// The Go client does what those of other languages do.
func TestGoClient(t *testing.T) {
	t.Parallel()
	sim, upstream := harness.Listen(t, simulator.Options{Rate: -1, Teams: 45})
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, upstream, harness.PolicyFor("friend"), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile)
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "friend")
	f, clear := harness.Start(t, s), harness.Start(t, harness.WithService(sim, upstream))
	dial := func(o teamtoken.Options) *teamtoken.Client {
		c := harness.Must(teamtoken.New(o))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	address := strings.Replace(f.GRPC, "127.0.0.1", "localhost", 1)
	tokens := dial(teamtoken.Options{Address: address, TLS: f.TLS})
	generate := func(c *teamtoken.Client, team, id string) (*teamtokenv1.TeamToken, teamtoken.Secret, error) {
		return c.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: team, RequestId: id})
	}

	ids := map[string]bool{}
	for _, team := range teams(45) {
		token, secret, err := generate(tokens, team, "")
		if err != nil || sim.TokenID(sealed.New(secret.Reveal())) != token.GetId() {
			t.Fatalf("%s: %v", team, err)
		}
		ids[token.GetId()] = true
	}
	listed := 0
	for token, err := range tokens.ListTokens(t.Context(), &teamtokenv1.ListTokensRequest{Organization: simulator.Organization, PageSize: 20}) {
		if err != nil || !ids[token.GetId()] {
			t.Fatal(token.GetId(), err)
		}
		listed++
	}
	if listed != 45 {
		t.Errorf("%d tokens are listed", listed)
	}

	// An answer that is lost on its way comes again.
	lossy := newLossy(t, clear.GRPC)
	through := dial(teamtoken.Options{Address: lossy.address, Insecure: true})
	if _, err := through.GetToken(t.Context(), simulator.AnotherTeam(1)); err != nil {
		t.Fatal(err)
	}
	lossy.loseNext()
	sim.Reset()
	token, secret, err := generate(through, simulator.SeedTeam, "")
	if err != nil || harness.Posts(sim) != 1 || sim.TokenID(sealed.New(secret.Reveal())) != token.GetId() {
		t.Errorf("after a lost answer: %v, and %d requests to generate", err, harness.Posts(sim))
	}
	sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: time.Second, Apply: simulator.ApplyLate})
	hasty := dial(teamtoken.Options{Address: clear.GRPC, Insecure: true, Timeout: 300 * time.Millisecond})
	var failed *teamtoken.Error
	if _, _, err := generate(hasty, simulator.SeedTeam, "late"); !errors.As(err, &failed) || failed.Code != codes.DeadlineExceeded ||
		failed.Outcome != teamtokenv1.Outcome_OUTCOME_UNKNOWN {
		t.Errorf("after its time: %v", err)
	}
	if _, secret, err := generate(dial(teamtoken.Options{Address: clear.GRPC, Insecure: true}), simulator.SeedTeam, "late"); err != nil || sim.TokenID(sealed.New(secret.Reveal())) == "" {
		t.Errorf("the same call again: %v", err)
	}

	// Every reason, with every outcome, is told apart.
	failing := dial(teamtoken.Options{Address: serveReasons(t), Insecure: true, Dial: []grpc.DialOption{grpc.WithDisableRetry()}})
	for _, reason := range reasonNames() {
		for outcome, want := range map[string]teamtokenv1.Outcome{
			"not_applied": teamtokenv1.Outcome_OUTCOME_NOT_APPLIED, "applied_undelivered": teamtokenv1.Outcome_OUTCOME_APPLIED_UNDELIVERED,
			"unknown": teamtokenv1.Outcome_OUTCOME_UNKNOWN, "": teamtokenv1.Outcome_OUTCOME_UNKNOWN,
		} {
			_, _, err := generate(failing, outcome, reason)
			if !errors.As(err, &failed) || "ERROR_REASON_"+reason != failed.Reason.String() || failed.Outcome != want ||
				failed.RetryAfter != 1500*time.Millisecond || len(failed.Violations) != 1 {
				t.Errorf("%s %q: %+v", reason, outcome, err)
			}
		}
	}
	for _, o := range []teamtoken.Options{
		{Address: "x", Insecure: true, TLS: f.TLS},
		{Address: "x", Insecure: true, Bearer: func(context.Context) (string, error) { return "x", nil }},
	} {
		if _, err := teamtoken.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	for _, text := range []string{fmt.Sprint(secret), fmt.Sprintf("%v %+v %#v %s %q", secret, secret, secret, secret, secret)} {
		if harness.Leaked(text, secret.Reveal()) != "" {
			t.Error("the secret prints itself")
		}
	}
}
