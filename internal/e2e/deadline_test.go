package e2e

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
func (c tooLate) check(t *testing.T, f *facade, sim *simulator.Simulator) {
	t.Helper()
	sent := len(sim.Requests())
	for _, m := range []struct {
		name, full, verb, path string
		mutates                bool
	}{
		{"GenerateToken", generate, http.MethodPost, tokenPath, true},
		{"DeleteToken", del, http.MethodDelete, tokenPath, true},
		{"CreateNamedToken", named, http.MethodPost, tokenPath + "s", true},
		{"DeleteTokenByID", delByID, http.MethodDelete, "/api/v2/authentication-tokens/at-Gk2xNAhaoQLH1Day", true},
		{"GetToken", get, http.MethodGet, tokenPath, false},
		{"ListTokens", list, http.MethodGet, "/api/v2/organizations/acme/team-tokens", false},
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
					r := rawRequest{method: m.verb, target: m.path}
					for _, h := range headers {
						r.headers = append(r.headers, h[0]+": "+h[1])
					}
					resp, body := f.sendREST(t, r)
					if status, _ := apierror.HTTPStatus(c.reason); resp.StatusCode != status || !strings.Contains(string(body), c.reason) || m.mutates && !strings.Contains(string(body), want) {
						t.Errorf("%s: %s", resp.Status, body)
					}
				} else {
					raw := dialHTTP2(t, f.grpc, nil)
					var flat []string
					for _, h := range headers {
						flat = append(flat, h[0], h[1])
					}
					stream := raw.open(t, m.full, flat...)
					_ = raw.WriteData(stream, true, frame(nil)) // the stream may have ended
					got := raw.outcomes(t, stream)[stream]
					d := apierror.FromStatus(got)
					// grpc-go answers or resets by itself once the time is over: its client knows.
					byItself := d.Reason == "" && (got.Code() == codes.Canceled || got.Code() == codes.DeadlineExceeded)
					if !byItself && (got.Code() != c.code || d.Reason != c.reason || d.Outcome != want) {
						t.Errorf("%v %s %s", got, d.Reason, d.Outcome)
					}
				}
				var of []audit.Record
				eventually(t, "the audit has the end of the call", func() bool {
					of, _ = eventsOf(f, id)
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
	key := newSigner(t, "1")
	i := newMovingIssuer(t, jwks(key))
	sim, url := newSimulator(t)
	f := start(t, withPolicy(t, sim, url, policyFor(i.url+"#"+byJWT),
		"TEAMTOKEN_JWT_ISSUER="+i.url, "TEAMTOKEN_JWT_AUDIENCE="+jwtAudience, "TEAMTOKEN_JWT_ISSUER_CA_FILE="+i.caFile))
	for _, at := range []string{"1n", "9u"} {
		tooLate{"on arrival, " + at, i.url + "#" + byJWT, key.signAs(t, i.url, byJWT), at, codes.DeadlineExceeded, timeout}.check(t, f, sim)
		tooLate{"on arrival of a caller who may not, " + at, i.url + "#somebody", key.signAs(t, i.url, "somebody"), at, codes.DeadlineExceeded, timeout}.check(t, f, sim)
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
	i.document.Store(&hangs)
	unknown := newSigner(t, "2").signAs(t, i.url, byJWT)
	eventually(t, "the issuer is asked", func() bool {
		ctx, cancel := context.WithTimeout(as(t.Context(), unknown), 100*time.Millisecond)
		defer cancel()
		_, _ = f.client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return len(asked) > 0
	})
	tooLate{"while the issuer is asked", "", unknown, "300m", codes.DeadlineExceeded, timeout}.check(t, f, sim)
}
