package mutation_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// holdTime is short, so that what happens after it is seen soon.
const holdTime = 400 * time.Millisecond

// world is a real upstream client against the simulator, and engines that share a store.
type world struct {
	t      *testing.T
	hold   time.Duration
	sim    *simulator.Simulator
	client *upstream.Client
	limit  *ratelimit.Limiter
	store  state.Store
	keys   *seal.Keys
	audit  *audit.Log
	lines  *lockedBuffer
	logged *lockedBuffer
	told   *telemetry.Metrics
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newWorld has the service's own credential; callers may have their own besides.
func newWorld(t *testing.T, open func(w *world) state.Store) *world {
	t.Helper()
	w := &world{t: t, hold: holdTime, sim: simulator.New(simulator.Options{Rate: -1}), keys: must(seal.Ephemeral()), lines: &lockedBuffer{}, logged: &lockedBuffer{}}
	address := must(w.sim.Listen("127.0.0.1:0"))
	t.Cleanup(func() { _ = w.sim.Close() })
	log := slog.New(slog.NewTextHandler(w.logged, nil))
	w.told = must(telemetry.New(t.Context(), "test", log)).Metrics
	w.audit = must(audit.Open(audit.Options{Destination: audit.Stdout, Stdout: w.lines, Stderr: w.lines, OnStatusChange: func(bool, error) {}}))
	t.Cleanup(func() { _ = w.audit.Close() })
	w.store = open(w)
	t.Cleanup(func() { _ = w.store.Close() })
	w.limit = ratelimit.New(1000, w.store, log, nil)
	transport := upstream.NewTransport(nil)
	w.client = must(upstream.New(upstream.Options{
		Address: address, Transport: func() http.RoundTripper { return transport }, Timeout: 2 * time.Second,
		Credential: upstream.FixedCredential{Text: w.sim.UserToken()}, RateLimiter: w.limit, OnAttempt: func(context.Context, upstream.Attempt) {},
	}))
	return w
}

func inMemory(w *world) state.Store { return state.NewMemory(state.NewTTLs(w.hold)) }

// inRedis has a longer hold, of which a lease is a third: a machine under load is slow.
func inRedis(w *world) state.Store {
	w.hold = max(w.hold, 1500*time.Millisecond)
	return must(state.OpenRedis(state.RedisOptions{
		URL: secret.New(statetest.Start(w.t).URL()), Prefix: "x", Times: state.NewTTLs(w.hold), Keys: func() *seal.Keys { return w.keys },
	}))
}

// engine returns one more engine, which reconciles until the test ends.
func (w *world) engine() *mutation.Engine { return w.engineOf(w.client, w.store) }

func (w *world) engineOf(u mutation.Upstream, store state.Store) *mutation.Engine {
	e := mutation.New(u, mutation.Options{
		Store: store, Hold: w.hold, Limiter: w.limit, Keys: func() *seal.Keys { return w.keys }, Audit: w.audit, Metrics: w.told,
		Rejected: func(context.Context, string, string, error) {}, MaxRecords: 100,
		Organizations: []upstream.Organization{must(upstream.ParseOrganization(simulator.Organization))},
	}, slog.New(slog.NewTextHandler(w.logged, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var reconciling sync.WaitGroup
	reconciling.Go(func() { e.Reconcile(ctx) })
	w.t.Cleanup(func() {
		cancel()
		reconciling.Wait()
		e.AbortWaiting()
		drain, done := context.WithTimeout(context.Background(), time.Second) // what Redis is needed for may never end
		defer done()
		e.Drain(drain)
	})
	return e
}

var team = must(upstream.ParseTeamID(simulator.SeedTeam))

func generating() mutation.Operation { return mutation.Operation{Kind: mutation.Generate, Team: team} }

func creating() mutation.Operation {
	return mutation.Operation{Kind: mutation.Create, Team: team, Description: "ci"}
}

func deleting() mutation.Operation { return mutation.Operation{Kind: mutation.Delete, Team: team} }

// key is the idempotency key of a request; "" is none.
func key(id string) mutation.Key {
	if id == "" {
		return mutation.Key{}
	}
	return mutation.Key{ID: id, Owner: "owner", Fingerprint: "f"}
}

// call makes one call of a caller, with its trail.
func (w *world) call(e *mutation.Engine, op mutation.Operation, id string, timeout time.Duration) (mutation.Result, error) {
	return w.callAs(e, &calls.Call{RequestID: "x-request-id", Caller: caller.Caller{ID: "ci"}}, op, key(id), timeout)
}

func (w *world) callAs(e *mutation.Engine, who *calls.Call, op mutation.Operation, k mutation.Key, timeout time.Duration) (mutation.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(timeout, 10*time.Second))
	defer cancel()
	trail := w.audit.NewTrail(audit.Record{CallID: "call", RequestID: "x-request-id", Method: "any", IdempotencyKey: k.ID})
	ctx = audit.WithTrail(calls.NewContext(ctx, who), trail)
	_ = trail.Attempt(ctx)
	made, err := e.Do(ctx, op, k)
	code, details := apierror.Describe(err, "applied")
	trail.Outcome(audit.Ending{Code: code.String(), Reason: details.Reason, Outcome: details.Outcome, TokenID: made.Token.ID})
	return made, err
}

// told is how a call ended, in words.
func told(err error) string {
	var e *apierror.Error
	switch {
	case err == nil:
		return "OK"
	case !errors.As(err, &e):
		return err.Error()
	default:
		return apierror.Name(e.Reason) + " " + string(e.Outcome)
	}
}

// live are the ids of the tokens that the upstream made and has not revoked.
func (w *world) live() (n int) {
	for _, m := range w.sim.Minted() {
		if m.Live {
			n++
		}
	}
	return n
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s did not come\n%s%s", what, w.lines, w.logged)
		}
		time.Sleep(5 * time.Millisecond) // between two looks at what another goroutine does
	}
}

// A fault in words: what becomes of the next requests of a method that it names.
var faults = map[string]simulator.Fault{
	"applied, answer lost":       {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyFirst},
	"applied thrice, lost":       {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyFirst, Times: 3},
	"not applied, answer lost":   {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyNever},
	"refused":                    {Method: http.MethodPost, Status: http.StatusUnprocessableEntity},
	"404":                        {Method: http.MethodPost, Status: http.StatusNotFound},
	"unusable answer":            {Method: http.MethodPost, Body: new("{}")},
	"deletion applied, lost":     {Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyFirst},
	"deletion not applied, lost": {Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyNever},
	"deletion refused":           {Method: http.MethodDelete, Status: http.StatusForbidden},
	"read fails":                 {Method: http.MethodGet, Status: http.StatusInternalServerError, Times: 6},
	"reads denied":               {Method: http.MethodGet, Status: http.StatusForbidden, Times: -1},
}

// Stories: what goes wrong, what the caller is told, what is told when the same is asked
// again after the hold, and how many tokens that were made live in the end.
func TestStories(t *testing.T) {
	withToken := func(w *world, e *mutation.Engine) { _, _ = w.call(e, generating(), "", 0) }
	for _, row := range []struct {
		name   string
		op     mutation.Operation
		id     string
		before func(*world, *mutation.Engine)
		faults []string
		told   string
		again  string // told to the same request, when the hold is over
		live   int
		logs   string // in the audit or the log
	}{
		{name: "generate", op: generating(), told: "OK", again: "OK", live: 1},
		{name: "generate by key", op: generating(), id: "k", told: "OK", again: "OK", live: 1},
		{name: "generate, refused", op: generating(), id: "k", faults: []string{"refused"}, told: "UPSTREAM_REJECTED not_applied", again: "OK", live: 1},
		{name: "generate, 404", op: generating(), faults: []string{"404"}, told: "TEAM_NOT_FOUND_OR_FORBIDDEN not_applied", again: "OK", live: 1},
		{name: "generate, lost and made again", op: generating(), id: "k", faults: []string{"applied, answer lost"}, told: "OK", again: "OK", live: 1, logs: `"event":"redrive"`},
		{name: "generate, lost thrice", op: generating(), id: "k", faults: []string{"applied thrice, lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN applied_undelivered", again: "OK", live: 1},
		{name: "generate, lost and refused", op: generating(), id: "k", faults: []string{"applied, answer lost", "refused"}, told: "UPSTREAM_OUTCOME_UNKNOWN applied_undelivered", again: "OK", live: 1},
		{name: "generate, lost and not applied", op: generating(), id: "k", faults: []string{"not applied, answer lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1, logs: `"outcome":"not_applied"`},
		{name: "generate, lost and not applied, over a token", op: generating(), before: withToken, faults: []string{"not applied, answer lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1},
		{name: "generate, lost and unread", op: generating(), id: "k", faults: []string{"applied, answer lost", "read fails"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1, logs: `"event":"settled"`},
		{name: "generate, lost and denied", op: generating(), id: "k", faults: []string{"applied, answer lost", "reads denied"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1, logs: "can't be found out"},
		{name: "generate, unusable", op: generating(), id: "k", faults: []string{"unusable answer"}, told: "UPSTREAM_RESPONSE_INVALID applied_undelivered", again: "UPSTREAM_RESPONSE_INVALID applied_undelivered", live: 1},
		{name: "create", op: creating(), id: "k", told: "OK", again: "OK", live: 1},
		{name: "create, lost", op: creating(), id: "k", faults: []string{"applied, answer lost"}, told: "OK", again: "OK", live: 1, logs: `"redrives":"DeleteTokenByID"`},
		{name: "create, lost thrice", op: creating(), id: "k", faults: []string{"applied thrice, lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN applied_undelivered", again: "OK", live: 1},
		{name: "create, lost and the orphan remains", op: creating(), id: "k", faults: []string{"applied, answer lost", "deletion refused"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1, logs: "could not be deleted yet"},
		{name: "create, lost and not applied", op: creating(), id: "k", faults: []string{"not applied, answer lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK", live: 1},
		{name: "create, unusable", op: creating(), id: "k", faults: []string{"unusable answer"}, told: "UPSTREAM_RESPONSE_INVALID applied_undelivered", again: "UPSTREAM_RESPONSE_INVALID applied_undelivered", live: 0},
		{name: "create, lost and refused", op: creating(), id: "k", faults: []string{"applied, answer lost", "refused"}, told: "UPSTREAM_OUTCOME_UNKNOWN applied_undelivered", again: "OK", live: 1},
		{name: "delete", op: deleting(), before: withToken, told: "OK", again: "TEAM_NOT_FOUND_OR_FORBIDDEN not_applied"},
		{name: "delete, lost", op: deleting(), before: withToken, faults: []string{"deletion applied, lost"}, told: "OK", again: "TEAM_NOT_FOUND_OR_FORBIDDEN not_applied"},
		{name: "delete, lost and not applied", op: deleting(), before: withToken, faults: []string{"deletion not applied, lost"}, told: "UPSTREAM_OUTCOME_UNKNOWN unknown", again: "OK"},
		{name: "delete of nothing known, lost", op: deleting(), faults: []string{"deletion not applied, lost"}, told: "OK", again: "TEAM_NOT_FOUND_OR_FORBIDDEN not_applied"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, inMemory)
			e := w.engine()
			if row.before != nil {
				row.before(w, e)
			}
			for _, name := range row.faults {
				f, ok := faults[name]
				if !ok {
					t.Fatal(name)
				}
				w.sim.Inject(f)
			}
			if _, err := w.call(e, row.op, row.id, 0); told(err) != row.told {
				t.Errorf("told %q (%v), want %q", told(err), err, row.told)
			}
			if strings.Contains(row.told, " unknown") {
				if _, err := w.call(e, generating(), "", 20*time.Millisecond); !strings.HasPrefix(told(err), "TEAM_BUSY") {
					t.Errorf("another change of the team: %v", err)
				}
				w.eventually("it is resolved", func() bool { return strings.Contains(w.lines.String(), `"event":"settled"`) })
			}
			w.sim.Reset()
			w.eventually("nothing is in doubt", func() bool { return must(w.store.Heartbeat(t.Context(), "test")).InDoubt == 0 })
			if _, err := w.call(e, row.op, row.id, 0); told(err) != row.again {
				t.Errorf("told again %q (%v), want %q", told(err), err, row.again)
			}
			if n := w.live(); n != row.live {
				t.Errorf("%d tokens live, want %d", n, row.live)
			}
			if all := w.lines.String() + w.logged.String(); !strings.Contains(all, row.logs) {
				t.Errorf("%q is nowhere in\n%s", row.logs, all)
			}
		})
	}
}
