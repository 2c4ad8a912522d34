package surface_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// tooLate is a call whose deadline ends before anything is done, wherever that is. The
// caller is told so, as far as it can be told, and the audit has one end that says the
// same and blames nobody else.
type tooLate struct {
	stage   string
	caller  string      // as the audit has it
	bearer  secret.Text // what the call brings
	timeout string
	code    codes.Code // DeadlineExceeded but where another refusal is told first
	reason  string
}

// check makes the calls of every method, over both surfaces.
func (c tooLate) check(t *testing.T, f *harness.Server, sim *simulator.Simulator) {
	t.Helper()
	sent := len(sim.Requests())
	for _, m := range []struct {
		name, full, verb, path string
		mutates                bool
	}{
		{"GenerateToken", harness.Generate, http.MethodPost, harness.TokenPath, true},
		{"DeleteToken", harness.Del, http.MethodDelete, harness.TokenPath, true},
		{"CreateNamedToken", harness.Named, http.MethodPost, harness.TokenPath + "s", true},
		{"DeleteTokenByID", harness.DelByID, http.MethodDelete, "/api/v2/authentication-tokens/at-Gk2xNAhaoQLH1Day", true},
		{"GetToken", harness.Get, http.MethodGet, harness.TokenPath, false},
		{"ListTokens", harness.List, http.MethodGet, "/api/v2/organizations/acme/team-tokens", false},
	} {
		want := ""
		if m.mutates {
			want = "not_applied"
		}
		for _, surface := range []string{"grpc", "rest"} {
			t.Run(fmt.Sprintf("%s/%s/%s", c.stage, surface, m.name), func(t *testing.T) {
				id := requestid.New()
				headers := [][2]string{{"grpc-timeout", c.timeout}, {requestid.Header, id}}
				if !c.bearer.IsZero() {
					headers = append(headers, [2]string{"authorization", "Bearer " + c.bearer.Reveal()})
				}
				if surface == "rest" {
					r := harness.RawRequest{Method: m.verb, Target: m.path}
					for _, h := range headers {
						r.Headers = append(r.Headers, h[0]+": "+h[1])
					}
					resp, body := f.SendREST(t, r)
					if status, _ := apierror.HTTPStatus(c.reason); resp.StatusCode != status || !strings.Contains(string(body), c.reason) || m.mutates && !strings.Contains(string(body), want) {
						t.Errorf("%s: %s", resp.Status, body)
					}
				} else {
					raw := harness.DialHTTP2(t, f.GRPC, nil)
					var flat []string
					for _, h := range headers {
						flat = append(flat, h[0], h[1])
					}
					stream := raw.Open(t, m.full, flat...)
					_ = raw.WriteData(stream, true, harness.Frame(nil)) // the stream may have ended
					got := raw.Outcomes(t, stream)[stream]
					d := apierror.FromStatus(got)
					// grpc-go answers or resets by itself once the time is over: its client knows.
					byItself := d.Reason == "" && (got.Code() == codes.Canceled || got.Code() == codes.DeadlineExceeded)
					if !byItself && (got.Code() != c.code || d.Reason != c.reason || d.Outcome != want) {
						t.Errorf("%v %s %s", got, d.Reason, d.Outcome)
					}
				}
				var of []audit.Record
				harness.Eventually(t, "the audit has the end of the call", func() bool {
					of, _ = harness.EventsOf(f, id)
					return len(of) > 0 && of[len(of)-1].Event != audit.EventAttempt
				})
				last := of[len(of)-1]
				if last.Code != c.code.String() || last.Reason != c.reason || last.Outcome != want || last.Caller != c.caller || last.Method != m.name {
					t.Errorf("the audit has %+v", last)
				}
			})
		}
	}
	if n := len(sim.Requests()); n != sent {
		t.Errorf("%d requests went upstream", n-sent)
	}
}

// A call whose deadline ends before anything is done is told so, and the audit says the
// same: on arrival, and while its caller is made certain. Nobody else is blamed.
func TestDeadlineBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	const timeout = "UPSTREAM_TIMEOUT"
	key := harness.NewSigner(t, "1")
	i := harness.NewMovingIssuer(t, harness.JWKS(key))
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(i.URL+"#"+harness.ByJWT),
		"TEAMTOKEN_JWT_ISSUER="+i.URL, "TEAMTOKEN_JWT_AUDIENCE="+harness.JWTAudience, "TEAMTOKEN_JWT_ISSUER_CA_FILE="+i.CAFile))
	for _, at := range []string{"1n", "9u"} {
		tooLate{"on arrival, " + at, i.URL + "#" + harness.ByJWT, key.SignAs(t, i.URL, harness.ByJWT), at, codes.DeadlineExceeded, timeout}.check(t, f, sim)
		tooLate{"on arrival of a caller who may not, " + at, i.URL + "#somebody", key.SignAs(t, i.URL, "somebody"), at, codes.DeadlineExceeded, timeout}.check(t, f, sim)
	}
	// The issuer is asked for a key that is not known, and hangs.
	asked, release := make(chan struct{}, 100), make(chan struct{})
	t.Cleanup(func() { close(release) })
	hangs := func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	i.Document.Store(&hangs)
	unknown := harness.NewSigner(t, "2").SignAs(t, i.URL, harness.ByJWT)
	harness.Eventually(t, "the issuer is asked", func() bool {
		ctx, cancel := context.WithTimeout(harness.As(t.Context(), unknown), 100*time.Millisecond)
		defer cancel()
		_, _ = f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return len(asked) > 0
	})
	tooLate{"while the issuer is asked", "", unknown, "300m", codes.DeadlineExceeded, timeout}.check(t, f, sim)
}
