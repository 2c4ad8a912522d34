package chaos_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// faults are what can go wrong with a request, each with what callers may be told:
// the outcomes, of which OK is one.
var faults = []struct {
	name  string
	fault simulator.Fault
	told  string
}{
	{"none", simulator.Fault{Delay: time.Millisecond}, "OK"},
	{"closed before an answer, not carried out", simulator.Fault{Drop: simulator.DropFIN}, "unknown"},
	{"reset before an answer, not carried out", simulator.Fault{Drop: simulator.DropRST}, "unknown"},
	{"closed, carried out", simulator.Fault{Drop: simulator.DropFIN, Apply: simulator.ApplyFirst}, "OK applied_undelivered unknown"},
	{"reset, carried out", simulator.Fault{Drop: simulator.DropRST, Apply: simulator.ApplyFirst}, "OK applied_undelivered unknown"},
	{"reset, carried out late", simulator.Fault{Drop: simulator.DropRST, Apply: simulator.ApplyLate, Delay: 50 * time.Millisecond}, "OK unknown applied_undelivered"},
	{"500, not carried out", simulator.Fault{Status: 500}, "unknown"},
	{"500, carried out", simulator.Fault{Status: 500, Apply: simulator.ApplyFirst}, "OK applied_undelivered unknown"},
	{"502 in HTML", simulator.Fault{Status: 502, Body: new("<html>")}, "unknown"},
	{"503", simulator.Fault{Status: 503}, "unknown"},
	{"504, carried out late", simulator.Fault{Status: 504, Apply: simulator.ApplyLate, Delay: 50 * time.Millisecond}, "OK unknown applied_undelivered"},
	{"599", simulator.Fault{Status: 599}, "unknown"},
	{"slow", simulator.Fault{Delay: 100 * time.Millisecond}, "OK"},
	{"slower than the deadline", simulator.Fault{Delay: 700 * time.Millisecond, Apply: simulator.ApplyLate}, "unknown"},
	{"slower than the deadline, and carried out at once", simulator.Fault{Delay: 700 * time.Millisecond}, "unknown"},
	{"truncated", simulator.Fault{Truncate: new(30)}, "OK applied_undelivered"},
	{"no document", simulator.Fault{Body: new("{}")}, "OK applied_undelivered"},
	{"garbage", simulator.Fault{Body: new("\x00\xff<"), Header: map[string]string{"Content-Type": "text/html", "Date": "yesterday"}}, "OK applied_undelivered"},
	{"garbage headers", simulator.Fault{Header: map[string]string{"X-RateLimit-Limit": "lots", "X-RateLimit-Reset": "NaN", "X-Request-Id": "a b", "Retry-After": "-1"}}, "OK"},
	{"429 with a reset that fits", simulator.Fault{Status: 429, Header: map[string]string{"X-RateLimit-Reset": "0.01"}}, "OK"},
	{"429 with one that does not", simulator.Fault{Status: 429, Header: map[string]string{"X-RateLimit-Reset": "60"}}, "not_applied"},
	{"429 without a reset", simulator.Fault{Status: 429, Header: map[string]string{"X-RateLimit-Reset": ""}}, "not_applied"},
	{"429 with garbage", simulator.Fault{Status: 429, Header: map[string]string{"X-RateLimit-Reset": "soon", "Retry-After": "later"}}, "not_applied"},
	{"401", simulator.Fault{Status: 401}, "not_applied"},
	{"403", simulator.Fault{Status: 403}, "not_applied"},
	{"404", simulator.Fault{Status: 404}, "not_applied"},
	{"409", simulator.Fault{Status: 409}, "not_applied"},
	{"422", simulator.Fault{Status: 422}, "not_applied"},
	{"301", simulator.Fault{Status: 301, Header: map[string]string{"Location": "/"}}, "not_applied"},
}

// faultDeadline is of every call here.
const faultDeadline = 500 * time.Millisecond

// TestFaultMatrix has every fault hit every method that changes something, and
// holds what was told against what was done. TEAMTOKEN_LONG makes 500 calls of
// each instead of a few.
func TestFaultMatrix(t *testing.T) {
	calls := 4
	if os.Getenv("TEAMTOKEN_LONG") != "" {
		calls = 500
	}
	for _, m := range []string{"GenerateToken", "CreateNamedToken", "DeleteToken", "DeleteTokenByID"} {
		sim, url := harness.NewSimulator(t)
		s := harness.WithService(sim, url)
		s.Env = append(s.Env, "TEAMTOKEN_UNKNOWN_HOLD=1500ms", "TEAMTOKEN_AUDIT_FILE="+filepath.Join(t.TempDir(), "audit.jsonl"), "TEAMTOKEN_LOG_LEVEL=info")
		f := harness.Start(t, s)
		next := 0 // team
		for _, row := range faults {
			t.Run(m+"/"+row.name, func(t *testing.T) {
				for done := 0; done < calls; done += harness.ManyTeams / 2 {
					runFaults(t, f, sim, m, row.fault, row.told, min(calls-done, harness.ManyTeams/2), &next)
				}
			})
		}
	}
}

// runFaults makes calls at once, each for a team of its own.
func runFaults(t *testing.T, f *harness.Server, sim *simulator.Simulator, method string, fault simulator.Fault, told string, calls int, next *int) {
	t.Helper()
	type made struct {
		id, team, token, answer string
		err                     error
	}
	all := make([]made, calls)
	sim.Reset()
	each := func(do func(m *made)) {
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { do(&all[i]) })
		}
		wg.Wait()
	}
	for i := range all {
		all[i] = made{id: requestid.New(), team: simulator.AnotherTeam(*next % harness.ManyTeams)}
		*next++
	}
	each(func(m *made) { // waits for what an earlier row left open
		switch method {
		case "DeleteToken":
			harness.Must(f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: m.team}))
		case "DeleteTokenByID":
			resp := harness.Must(f.Client.CreateNamedToken(context.Background(), &teamtokenv1.CreateNamedTokenRequest{TeamId: m.team, Description: &m.id}))
			m.token = resp.GetTeamToken().GetId()
		default:
			harness.Must(f.Client.DeleteToken(context.Background(), &teamtokenv1.DeleteTokenRequest{TeamId: m.team, AllowMissing: true}))
		}
	})
	before := len(sim.Changes())
	fault.Method, fault.Times = http.MethodPost, calls
	if method == "DeleteToken" || method == "DeleteTokenByID" {
		fault.Method = http.MethodDelete
	}
	sim.Inject(fault)
	each(func(m *made) {
		ctx, cancel := context.WithTimeout(context.Background(), faultDeadline)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, requestid.Header, m.id)
		switch method {
		case "GenerateToken":
			resp, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: m.team})
			m.answer, m.err = resp.GetTeamToken().GetId(), err
		case "CreateNamedToken":
			resp, err := f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: m.team, Description: &m.id})
			m.answer, m.err = resp.GetTeamToken().GetId(), err
		case "DeleteToken":
			_, m.err = f.Client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: m.team})
		case "DeleteTokenByID":
			_, m.err = f.Client.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: m.token})
		}
	})
	sim.Reset()
	harness.Eventually(t, "no token is left that nobody was given", func() bool {
		given := map[string]bool{}
		for _, m := range all {
			given[m.answer] = true
		}
		for _, minted := range sim.Minted() {
			if method == "CreateNamedToken" && minted.Live && minted.Description != nil &&
				!given[minted.ID] && slices.ContainsFunc(all, func(m made) bool { return m.id == *minted.Description }) {
				return false
			}
		}
		return true
	})
	if method == "DeleteTokenByID" { // which is sent again, since that can do no harm
		told = strings.ReplaceAll(told, "unknown", "unknown OK")
	}
	done, revoked := map[string][]simulator.Change{}, map[string]bool{}
	for _, c := range sim.Changes()[before:] {
		done[c.Request] = append(done[c.Request], c)
		revoked[c.Team] = revoked[c.Team] || c.Revoked != ""
	}
	for _, m := range all {
		d := harness.Details(m.err)
		what, code := d.Outcome, status.Code(m.err)
		changes := done[m.id]
		if m.err == nil {
			what = "OK"
		}
		if code == codes.DeadlineExceeded && d.Reason == "" { // the client's own clock was ahead: nobody was told anything
			continue
		}
		switch {
		case code == codes.DeadlineExceeded && d.Reason == "UPSTREAM_TIMEOUT" && what == string(apierror.Unknown): // of any fault, on a slow machine
		case m.err != nil && (d.Reason == "" || d.Outcome == ""):
			t.Errorf("nothing certain was told: %v", m.err)
		case code == codes.Unavailable && what != string(apierror.NotApplied):
			t.Errorf("UNAVAILABLE, and %s", what)
		case !slices.Contains(strings.Fields(told), what):
			t.Errorf("%s, want one of %q: %v", what, told, m.err)
		case what == "OK" && m.answer != "" && (len(changes) == 0 || changes[mintedAt(changes)].Minted != m.answer):
			t.Errorf("OK with %s, and the upstream did %+v", m.answer, changes)
		case what == "OK" && m.answer == "" && !revoked[m.team]:
			t.Error("OK, and the token lives")
		case what == "not_applied" && len(changes) > 0:
			t.Errorf("not_applied, and the upstream did %+v", changes)
		case what == "applied_undelivered" && len(changes) == 0:
			t.Error("applied_undelivered, and the upstream did nothing")
		}
	}
}

// mintedAt is the place of the last change that made a token.
func mintedAt(changes []simulator.Change) (last int) {
	for i, c := range changes {
		if c.Minted != "" {
			last = i
		}
	}
	return last
}
