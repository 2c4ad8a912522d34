package mutation_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

func (w *world) wants(what string, err error, want string) {
	w.t.Helper()
	if told(err) != want {
		w.t.Errorf("%s: told %q (%v), want %q", what, told(err), err, want)
	}
}

// patiently opens a store with a long hold, where nothing waits for its end: leases are a
// part of it, and a machine under load is slow.
func patiently(open func(*world) state.Store) func(*world) state.Store {
	return func(w *world) state.Store {
		w.hold = 10 * time.Second
		return open(w)
	}
}

// What one idempotency key stands for, call after call.
func TestIdempotencyKeys(t *testing.T) {
	for name, open := range map[string]func(*world) state.Store{"memory": inMemory, "redis": inRedis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, patiently(open))
			e := w.engine()
			first, err := w.call(e, generating(), "one", 0)
			w.wants("the first call", err, "OK")
			again, err := w.call(w.engine(), generating(), "one", 0) // another process
			if w.wants("the same again", err, "OK"); again.Token.ID != first.Token.ID || again.Secret.Reveal() != first.Secret.Reveal() {
				t.Error("another token")
			}
			k := key("one")
			k.Fingerprint = "another"
			_, err = w.callAs(e, &calls.Call{}, generating(), k, 0)
			w.wants("the same key for something else", err, "REQUEST_ID_REUSED not_applied")
			created, err := w.call(e, creating(), "named", 0)
			w.wants("a named token", err, "OK")
			_, err = w.call(e, creating(), "taken", 0)
			w.wants("its description again", err, "DESCRIPTION_TAKEN not_applied")
			byID := mutation.Operation{Kind: mutation.DeleteByID, Team: team, TokenID: must(upstream.ParseTokenID(created.Token.ID))}
			_, err = w.call(e, byID, "", 0)
			w.wants("it is deleted", err, "OK")
			_, err = w.call(e, byID, "", 0)
			w.wants("and again", err, "TOKEN_NOT_FOUND_OR_FORBIDDEN not_applied")
			_, err = w.call(e, creating(), "named", 0)
			w.wants("the key of the deleted one", err, "TOKEN_SUPERSEDED applied_undelivered")

			expected := generating()
			expected.ExpectedTokenID = first.Token.ID
			second, err := w.call(e, expected, "two", 0)
			w.wants("with the current token expected", err, "OK")
			_, err = w.call(e, expected, "three", 0)
			w.wants("with the one before expected", err, "TOKEN_CHANGED not_applied")
			_, err = w.call(e, generating(), "one", 0)
			w.wants("a key whose token was replaced", err, "TOKEN_SUPERSEDED applied_undelivered")
			w.sim.Inject(simulator.Fault{Method: http.MethodGet, Status: http.StatusForbidden, Times: 2})
			_, err = w.call(e, expected, "four", 0)
			w.wants("when the current token can't be read", err, "UPSTREAM_FORBIDDEN not_applied")
			_, err = w.call(e, generating(), "two", 0)
			w.wants("nor that of a replay", err, "UPSTREAM_OUTCOME_UNKNOWN applied_undelivered")
			w.keys = must(seal.Ephemeral())
			if _, err = w.call(e, generating(), "two", 0); name == "memory" { // in Redis the record itself is sealed
				w.wants("the key that sealed it is gone", err, "ANSWER_EXPIRED applied_undelivered")
			} else {
				w.wants("the key that sealed it is gone", err, "UPSTREAM_OUTCOME_UNKNOWN unknown")
			}
			deletion := deleting()
			deletion.ExpectedTokenID = second.Token.ID
			_, err = w.call(e, deletion, "", 0)
			w.wants("a deletion of the expected one", err, "OK")
			for i := range 110 {
				if _, err = w.call(e, generating(), fmt.Sprint("more", i), 0); err != nil {
					break
				}
			}
			w.wants("too many keys", err, "CALLER_QUOTA_EXCEEDED not_applied")
		})
	}
}

// Calls at once: with one key they share one request upstream; those that wait are told
// what is true when their time ends; nobody's leaving changes anything.
func TestCallsAtOnce(t *testing.T) {
	for name, open := range map[string]func(*world) state.Store{"memory": inMemory, "redis": inRedis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, patiently(open))
			e, other := w.engine(), w.engine()
			release := make(chan struct{})
			held := w.sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
			var all sync.WaitGroup
			results := make([]string, 4)
			for i, engine := range []*mutation.Engine{e, e, other, other} {
				if i == 1 {
					<-held.Hit()
				}
				all.Go(func() {
					made, err := w.call(engine, generating(), "shared", 0)
					results[i] = told(err) + " " + made.Secret.Reveal()
				})
			}
			_, err := w.call(other, generating(), "impatient", 150*time.Millisecond)
			w.wants("another request meanwhile", err, "TEAM_BUSY not_applied")
			_, err = w.call(e, generating(), "shared", 60*time.Millisecond)
			w.wants("the same, and no time to wait", err, "UPSTREAM_TIMEOUT unknown")
			_, err = w.call(other, generating(), "shared", 120*time.Millisecond)
			w.wants("the same at another replica", err, "UPSTREAM_TIMEOUT unknown")
			close(release)
			all.Wait()
			for _, r := range results {
				if r != results[0] || !strings.HasPrefix(r, "OK ") {
					t.Errorf("results differ: %d of them", len(results))
				}
			}
			if n := len(w.sim.Minted()); n != 1 {
				t.Errorf("%d tokens were made", n)
			}

			held = w.sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: 200 * time.Millisecond})
			_, err = w.call(e, generating(), "left", 50*time.Millisecond)
			w.wants("a caller who leaves", err, "UPSTREAM_TIMEOUT unknown")
			<-held.Done()
			made, err := w.call(other, generating(), "left", 0)
			w.wants("and comes back", err, "OK")
			if w.sim.TokenID(made.Secret) != made.Token.ID || len(w.sim.Minted()) != 2 {
				t.Errorf("%d tokens were made", len(w.sim.Minted()))
			}
			w.sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: 200 * time.Millisecond})
			_, err = w.call(e, creating(), "", 50*time.Millisecond)
			w.wants("a caller who leaves, and can't ask again", err, "UPSTREAM_TIMEOUT unknown")
			w.eventually("the token that nobody was given is deleted", func() bool { return len(w.sim.Minted()) == 3 && w.live() == 1 })
			w.sim.Inject(simulator.Fault{Method: http.MethodDelete, Delay: 200 * time.Millisecond, Status: http.StatusForbidden})
			_, err = w.call(e, deleting(), "", 50*time.Millisecond)
			w.wants("a deletion whose caller leaves", err, "UPSTREAM_TIMEOUT unknown")
			w.eventually("it is in the log", func() bool { return strings.Contains(w.logged.String(), "a change failed after its caller had left") })

			release = make(chan struct{})
			held = w.sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
			answered := make(chan error, 1)
			go func() { _, err := w.call(e, generating(), "", 0); answered <- err }()
			<-held.Hit()
			e.AbortWaiting()
			w.wants("a caller who waits when the program stops", <-answered, "UPSTREAM_TIMEOUT unknown")
			close(release)
		})
	}
}

// DeleteTokenByID does no harm late: it is asked for again, and nobody is held back.
func TestDeletionsByID(t *testing.T) {
	lost := simulator.Fault{Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyNever, Times: 3}
	for _, row := range []struct {
		name   string
		faults []simulator.Fault
		told   string
	}{
		{"lost, carried out", []simulator.Fault{{Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyFirst}}, "OK"},
		{"lost, not carried out", []simulator.Fault{{Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyNever}}, "OK"},
		{"lost thrice", []simulator.Fault{lost}, "UPSTREAM_OUTCOME_UNKNOWN unknown"},
		{"lost, unread, and then 404", []simulator.Fault{{Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyFirst}, {Method: http.MethodGet, Status: 500, Times: 4}}, "OK"},
		{"lost, and then refused", []simulator.Fault{
			{Method: http.MethodDelete, Drop: simulator.DropRST, Apply: simulator.ApplyNever}, {Method: http.MethodDelete, Status: http.StatusForbidden},
		}, "UPSTREAM_OUTCOME_UNKNOWN unknown"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, inMemory)
			e := w.engine()
			created := must(w.call(e, creating(), "", 0))
			for _, f := range row.faults {
				w.sim.Inject(f)
			}
			op := mutation.Operation{Kind: mutation.DeleteByID, Team: team, TokenID: must(upstream.ParseTokenID(created.Token.ID))}
			_, err := w.call(e, op, "", 0)
			w.wants("the deletion", err, row.told)
			w.sim.Reset()
			_, err = w.call(e, generating(), "", 300*time.Millisecond)
			w.wants("nobody is held back", err, "OK")
		})
	}
}

// Callers with credentials of their own: one that the upstream does not take waits in
// nobody's way, and what it left in doubt is given up when the hold is over.
func TestCallersCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inMemory)
	e := w.engine()
	honest := func() *calls.Call {
		return &calls.Call{Caller: caller.Caller{ID: "honest"}, Credential: w.sim.OwnerToken()}
	}
	release := make(chan struct{})
	held := w.sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	first := make(chan error, 1)
	go func() { _, err := w.callAs(e, honest(), generating(), mutation.Key{}, 0); first <- err }()
	<-held.Hit()
	_, err := w.callAs(e, &calls.Call{Credential: secret.New("invented.atlasv1.x")}, generating(), mutation.Key{}, 0)
	w.wants("an invented credential", err, "UPSTREAM_TOKEN_INVALID not_applied")
	close(release)
	w.wants("the honest one", <-first, "OK")
	e.CredentialAccepted(t.Context(), team.String(), nil)

	w.sim.Inject(simulator.Fault{Method: http.MethodPost, Status: http.StatusTooManyRequests})
	_, err = w.callAs(e, honest(), generating(), mutation.Key{}, 0)
	w.wants("a rate limit of its own is waited for", err, "OK")
	w.sim.Inject(simulator.Fault{Method: http.MethodPost, Status: http.StatusTooManyRequests})
	_, err = w.callAs(e, honest(), generating(), mutation.Key{}, 200*time.Millisecond)
	w.wants("unless there is no time", err, "UPSTREAM_RATE_LIMITED not_applied")

	w.eventually("the pause is over", func() bool { return w.limit.Blocked() == 0 })
	w.sim.Inject(faults["not applied, answer lost"])
	_, err = w.callAs(e, honest(), generating(), key("doubt"), 0)
	w.wants("its answer is lost", err, "UPSTREAM_OUTCOME_UNKNOWN unknown")
	_, err = w.callAs(e, honest(), generating(), key("doubt"), 0)
	w.wants("the same again at once", err, "UPSTREAM_OUTCOME_UNKNOWN unknown")
	w.eventually("it is given up", func() bool { return e.Status().InDoubt == 0 && strings.Contains(w.lines.String(), `"event":"settled"`) })
}

// Replicas share Redis: what one left when it died is resolved by another, and without
// Redis nothing is changed.
func TestReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inRedis)
	e := w.engine()
	w.wants("a call", second(w.call(e, generating(), "", 0)), "OK")
	dead := state.AcquireRequest{Operation: state.Operation{Method: "GenerateToken", Team: team.String(), RateKey: "service"}, Owner: state.NewOwner()}
	if r := must(w.store.Acquire(t.Context(), dead)); r.Status != state.Acquired {
		t.Fatal(r.Status)
	}
	w.wants("while a replica is dead and nobody knows", second(w.call(e, generating(), "", 50*time.Millisecond)), "TEAM_BUSY not_applied")
	w.wants("when its lease and the hold are over", second(w.call(e, generating(), "", 0)), "OK")
	w.eventually("it was resolved", func() bool { return strings.Contains(w.lines.String(), `"event":"settled"`) })

	unknown := dead
	unknown.Operation.Method, unknown.Owner = "RotateToken", state.NewOwner()
	must(w.store.Acquire(t.Context(), unknown))
	w.wants("after an operation that this version does not know", second(w.call(e, generating(), "", 0)), "OK")

	slow := w.sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: 700 * time.Millisecond}) // longer than a lease
	w.wants("a slow upstream", second(w.call(e, generating(), "", 0)), "OK")
	<-slow.Done()
}

func second[A any](_ A, err error) error { return err }

// Without Redis nothing is changed; what ends meanwhile is told and resolved later.
func TestStoreIsAway(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	w := newWorld(t, func(w *world) state.Store {
		return must(state.OpenRedis(state.RedisOptions{URL: secret.New(r.URL()), Prefix: "x", Times: state.NewTTLs(w.hold), Keys: func() *seal.Keys { return w.keys }}))
	})
	e := w.engine()
	w.wants("a call", second(w.call(e, generating(), "", 0)), "OK")
	release := make(chan struct{})
	held := w.sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
	answered := make(chan error, 1)
	go func() { _, err := w.call(e, generating(), "slow", 0); answered <- err }()
	<-held.Hit()
	r.Kill()
	close(release)
	<-held.Done()
	_, _, err := w.client.CreateToken(t.Context(), team, time.Time{}) // as one who has the lock meanwhile would
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.call(e, generating(), "slow", 0)
	w.wants("who asks the same only now, when the token was replaced", err, "TOKEN_SUPERSEDED applied_undelivered")
	err = <-answered
	if got := told(err); got != "OK" && got != "UPSTREAM_OUTCOME_UNKNOWN unknown" { // by whether the lease was over
		t.Errorf("told %q", got)
	}
	w.wants("a call without Redis", second(w.call(e, generating(), "", 0)), "STATE_STORE_UNAVAILABLE not_applied")
	w.eventually("it is logged", func() bool {
		all := w.logged.String()
		return strings.Contains(all, "the state store does not answer") && strings.Contains(all, "could not be written down")
	})
}

// A caller whose time ends while Redis hangs leaves no lock behind: whoever comes next has
// it as soon as Redis answers, and there is nothing to resolve.
func TestCallerLeavesWhileTheStoreHangs(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	w := newWorld(t, patiently(func(w *world) state.Store {
		return must(state.OpenRedis(state.RedisOptions{URL: secret.New(r.URL()), Prefix: "x", Times: state.NewTTLs(w.hold), Keys: func() *seal.Keys { return w.keys }}))
	}))
	e := w.engine()
	for _, op := range []mutation.Operation{generating(), deleting(), creating()} {
		w.wants("a call", second(w.call(e, generating(), "", 0)), "OK")
		r.Hang()
		_, err := w.call(e, op, "", 100*time.Millisecond)
		r.Resume()
		if got := told(err); !strings.HasSuffix(got, "not_applied") && got != "UPSTREAM_TIMEOUT unknown" {
			t.Errorf("told %q", got)
		}
	}
	w.wants("the next call", second(w.call(e, generating(), "", 0)), "OK")
	if strings.Contains(w.lines.String(), `"event":"settled"`) {
		t.Error("something was in doubt")
	}
}

// panicking is an upstream client whose creations panic.
type panicking struct{ mutation.Upstream }

func (panicking) CreateToken(context.Context, upstream.TeamID, time.Time) (upstream.Token, secret.Text, error) {
	panic("a bug")
}

// A panic is told as unknown, and leaves the change in doubt.
func TestPanic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inMemory)
	e := w.engineOf(panicking{w.client}, w.store)
	_, err := w.call(e, generating(), "k", 0)
	w.wants("a panic", err, "INTERNAL unknown")
	w.eventually("it is resolved", func() bool { return strings.Contains(w.lines.String(), `"event":"settled"`) })
}
