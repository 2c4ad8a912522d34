package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// hold is short, so that what happens after it is seen soon.
const hold = 900 * time.Millisecond

// keys are those of all replicas of a test.
var keys = func() func() *seal.Keys {
	k, err := seal.Ephemeral()
	if err != nil {
		panic(err)
	}
	return func() *seal.Keys { return k }
}()

// each runs a test on both stores.
func each(t *testing.T, test func(t *testing.T, s state.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, state.NewMemory(state.NewTTLs(hold))) })
	t.Run("redis", func(t *testing.T) { test(t, open(t, statetest.Start(t).URL(), "teamtoken")) })
}

func open(t *testing.T, url, prefix string) *state.Redis {
	t.Helper()
	s, err := state.OpenRedis(state.RedisOptions{URL: secret.New(url), Prefix: prefix, Times: state.NewTTLs(hold), Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func ask(team, record string) state.AcquireRequest {
	return state.AcquireRequest{
		Operation: state.Operation{Method: "GenerateToken", Team: team, IdempotencyKey: record, AuditRecord: json.RawMessage(`"who"`)},
		Owner:     state.NewOwner(), Fingerprint: "p",
	}
}

func begin(t *testing.T, s state.Store, a state.AcquireRequest, want state.AcquireStatus) state.AcquireResult {
	t.Helper()
	got, err := s.Acquire(t.Context(), a)
	if err != nil || got.Status != want {
		t.Fatalf("begin: %q, %v; want %q", got.Status, err, want)
	}
	return got
}

func end(t *testing.T, s state.Store, turn state.Lock, e state.Release) {
	t.Helper()
	if err := s.Release(t.Context(), turn, e); err != nil {
		t.Fatalf("end: %v", err)
	}
}

func TestATurnIsOnes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", ""), state.Acquired)
		begin(t, s, ask("a", ""), state.Locked)
		other := begin(t, s, ask("b", ""), state.Acquired)
		end(t, s, first.Lock, state.Release{CurrentTokenID: "at-1"})
		second := begin(t, s, ask("a", ""), state.Acquired)
		if second.CurrentTokenID != "at-1" || second.Lock.FencingToken <= first.Lock.FencingToken || other.CurrentTokenID != "" {
			t.Errorf("%+v after %+v", second, first)
		}
		if err := s.Renew(t.Context(), first.Lock); !errors.Is(err, state.ErrFenced) {
			t.Errorf("a turn that has ended: %v", err)
		}
		end(t, s, second.Lock, state.Release{CurrentTokenID: state.Unchanged})
		_ = s.Release(t.Context(), first.Lock, state.Release{CurrentTokenID: "at-0"}) // said again, by who did not hear the answer
		if third := begin(t, s, ask("a", ""), state.Acquired); third.CurrentTokenID != "at-1" {
			t.Errorf("known: %q", third.CurrentTokenID)
		}
	})
}

func TestOfManyOneHasTheTurn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		var mu sync.Mutex
		seen := map[state.AcquireStatus]int{}
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				got, err := s.Acquire(context.Background(), ask("a", ""))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[got.Status]++
			})
		}
		all.Wait()
		if seen[state.Acquired] != 1 || seen[state.Locked] != 31 {
			t.Error(seen)
		}
	})
}

func TestRecords(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", "r"), state.Acquired)
		begin(t, s, ask("a", "r"), state.DuplicateRunning)
		other := ask("b", "r")
		other.Fingerprint = "other"
		begin(t, s, other, state.KeyReused)
		begin(t, s, ask("a", "another caller's r"), state.Locked)
		end(t, s, first.Lock, state.Release{Record: state.RecordCompleted, Response: state.Response{Sealed: []byte{1, 0, 2}, TokenID: "at-1"}})
		got := begin(t, s, ask("a", "r"), state.Completed).Response
		if string(got.Sealed) != "\x01\x00\x02" || got.TokenID != "at-1" || got.Failure != "" {
			t.Errorf("%+v", got)
		}

		forgotten := begin(t, s, ask("a", "f"), state.Acquired)
		end(t, s, forgotten.Lock, state.Release{Record: state.RecordReset, CurrentTokenID: state.Unchanged})
		again := begin(t, s, ask("a", "f"), state.Acquired)
		end(t, s, again.Lock, state.Release{Record: state.RecordSecretLost, Response: state.Response{TokenID: "at-2"}})
		lost := begin(t, s, ask("a", "f"), state.Acquired)
		end(t, s, lost.Lock, state.Release{Record: state.RecordReset, CurrentTokenID: state.Unchanged})
		still := begin(t, s, ask("a", "f"), state.Acquired)
		if lost.LostTokenID != "at-2" || still.LostTokenID != "at-2" {
			t.Errorf("lost: %q, and then %q", lost.LostTokenID, still.LostTokenID)
		}
	})
}

// An unknown outcome keeps others away, is looked at by one at a time, and is over
// when it is settled.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		begun := ask("a", "r")
		begun.Operation.ExpectedTokenID, begun.Operation.Description, begun.Operation.RateKey = "at-0", "d", "service"
		first := begin(t, s, begun, state.Acquired)
		end(t, s, first.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
		held := begin(t, s, ask("a", ""), state.InDoubt)
		if held.Wait <= 0 || held.Wait > hold {
			t.Errorf("held for %v", held.Wait)
		}
		begin(t, s, ask("a", "r"), state.DuplicateInDoubt)
		if p, err := s.Heartbeat(t.Context(), "one"); p != (state.ClusterStatus{Replicas: 1, InDoubt: 1}) || err != nil {
			t.Errorf("while a team is held: %+v, %v", p, err)
		}
		if due, err := s.ListInDoubt(t.Context()); err != nil || len(due) != 0 {
			t.Errorf("due at once: %v, %v", due, err)
		}

		var look state.InDoubtOperation
		eventually(t, func() bool {
			due, err := s.ListInDoubt(t.Context())
			if err != nil || len(due) == 0 {
				return false
			}
			var ok bool
			look, ok, err = s.AcquireInDoubt(t.Context(), due[0], state.NewOwner())
			return ok && err == nil
		})
		c := look.Operation
		if look.Age <= 0 || look.HoldLeft > hold || c.ExpectedTokenID != "at-0" || c.Description != "d" || c.RateKey != "service" ||
			c.IdempotencyKey != "r" || string(c.AuditRecord) != `"who"` {
			t.Errorf("%+v", look)
		}
		begin(t, s, ask("a", ""), state.InDoubt)
		begin(t, s, ask("a", "r"), state.DuplicateInDoubt)
		if _, ok, err := s.AcquireInDoubt(t.Context(), "a", state.NewOwner()); ok || err != nil {
			t.Errorf("two look at once: %v", err)
		}
		end(t, s, look.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}) // not yet
		_ = s.Release(t.Context(), first.Lock, state.Release{})                             // changes nothing
		begin(t, s, ask("a", ""), state.InDoubt)

		var mine state.AcquireResult
		eventually(t, func() bool { // whoever comes when it is due looks as well
			var err error
			mine, err = s.Acquire(t.Context(), ask("a", ""))
			return err == nil && mine.Status == state.MustResolve
		})
		if mine.InDoubt.HoldLeft >= look.HoldLeft {
			t.Errorf("the hold began anew: %v, before %v", mine.InDoubt.HoldLeft, look.HoldLeft)
		}
		end(t, s, mine.InDoubt.Lock, state.Release{CurrentTokenID: "at-1", Record: state.RecordSecretLost, Response: state.Response{TokenID: "at-1"}})
		if p, err := s.Heartbeat(t.Context(), "one"); p != (state.ClusterStatus{Replicas: 1}) || err != nil {
			t.Errorf("when it is settled: %+v, %v", p, err)
		}
		if got := begin(t, s, ask("a", "r"), state.Acquired); got.LostTokenID != "at-1" || got.CurrentTokenID != "at-1" {
			t.Errorf("%+v", got)
		}
	})
}

func TestBudget(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		slot := state.RateRequest{Key: "b", Interval: 200 * time.Millisecond, Burst: 200 * time.Millisecond, MaxWait: 300 * time.Millisecond}
		var waits []time.Duration
		for range 4 {
			wait, err := s.ReserveRate(t.Context(), slot)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
		}
		if waits[0] != 0 || waits[1] != 0 || waits[2] <= 0 || waits[2] > 200*time.Millisecond || waits[3] <= 300*time.Millisecond {
			t.Errorf("two at once, one after a while, and no more: %v", waits)
		}
		a := ask("a", "")
		a.Rate = slot
		if got := begin(t, s, a, state.RateLimited); got.Wait <= 300*time.Millisecond {
			t.Errorf("wait %v", got.Wait)
		}
		a.Rate.Key = "another"
		begin(t, s, a, state.Acquired)
		if err := s.BlockRate(t.Context(), a.Rate, time.Minute); err != nil {
			t.Fatal(err)
		}
		if wait, err := s.ReserveRate(t.Context(), a.Rate); err != nil || wait < 50*time.Second {
			t.Errorf("paused: %v, %v", wait, err)
		}
	})
}

// What is begun anew is judged from then on, and by the token that there was then.
func TestRedo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", ""), state.Acquired)
		time.Sleep(50 * time.Millisecond) // for Since to tell
		if err := s.Restart(t.Context(), first.Lock, "at-2"); err != nil {
			t.Fatal(err)
		}
		redone := time.Now()
		end(t, s, first.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
		eventually(t, func() bool {
			u, ok, err := s.AcquireInDoubt(t.Context(), "a", state.NewOwner())
			if ok && (u.CurrentTokenID != "at-2" || u.Age > time.Since(redone)+40*time.Millisecond) {
				t.Errorf("%+v", u)
			}
			return ok && err == nil
		})
		if err := s.Restart(t.Context(), first.Lock, "at-3"); !errors.Is(err, state.ErrFenced) {
			t.Errorf("a turn that has ended: %v", err)
		}
	})
}

// A replica that dies leaves its turn to whoever comes after the lease.
func TestADeadReplica(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	dead, living := open(t, r.URL(), "teamtoken"), open(t, r.URL(), "teamtoken")
	first := begin(t, dead, ask("a", "r"), state.Acquired)
	begin(t, living, ask("a", ""), state.Locked)
	begin(t, living, ask("a", "r"), state.DuplicateRunning)
	if err := dead.Renew(t.Context(), first.Lock); err != nil {
		t.Fatal(err)
	}
	var left state.InDoubtOperation
	eventually(t, func() bool {
		due, err := living.ListInDoubt(t.Context())
		if err != nil || len(due) == 0 {
			return false
		}
		var ok bool
		left, ok, err = living.AcquireInDoubt(t.Context(), "a", state.NewOwner())
		return ok && err == nil
	})
	if left.Age < dead.Lease() || left.HoldLeft <= 0 || left.Operation.IdempotencyKey != "r" {
		t.Errorf("%+v", left)
	}
	for _, err := range []error{
		dead.Renew(t.Context(), first.Lock), dead.Release(t.Context(), first.Lock, state.Release{Record: state.RecordCompleted}),
	} {
		if !errors.Is(err, state.ErrFenced) {
			t.Errorf("it was not dead: %v", err)
		}
	}
	end(t, living, left.Lock, state.Release{Record: state.RecordReset})
	begin(t, living, ask("a", "r"), state.Acquired)
	if p, err := living.Heartbeat(t.Context(), "one"); p.Replicas != 1 || err != nil {
		t.Error(p, err)
	}
	if p, err := dead.Heartbeat(t.Context(), "two"); p.Replicas != 2 || err != nil {
		t.Error(p, err)
	}
}

// The same question twice has one answer: a connection may be lost in between.
func TestTheSameAskTwice(t *testing.T) {
	t.Parallel()
	s := open(t, statetest.Start(t).URL(), "teamtoken")
	a := ask("a", "r")
	first, again := begin(t, s, a, state.Acquired), begin(t, s, a, state.Acquired)
	if first.Lock.Team != again.Lock.Team || first.Lock.Owner != again.Lock.Owner || first.Lock.FencingToken != again.Lock.FencingToken {
		t.Errorf("%+v, and then %+v", first.Lock, again.Lock)
	}
	begin(t, open(t, statetest.Start(t).URL(), "other"), a, state.Acquired)

	end(t, s, first.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
	other := begin(t, s, ask("b", ""), state.Acquired)
	end(t, s, other.Lock, state.Release{})
	next := begin(t, s, ask("b", ""), state.Acquired)
	end(t, s, next.Lock, state.Release{})
	for _, turn := range []state.Lock{first.Lock, other.Lock} { // whatever came between
		if err := s.Release(t.Context(), turn, state.Release{InDoubt: turn == first.Lock, CurrentTokenID: state.Unchanged}); err != nil {
			t.Errorf("the same end twice: %v", err)
		}
	}
	b := ask("a", "")
	var settling state.AcquireResult
	eventually(t, func() bool {
		var err error
		settling, err = s.Acquire(t.Context(), b)
		return err == nil && settling.Status == state.MustResolve
	})
	if again := begin(t, s, b, state.MustResolve); again.InDoubt.Operation.IdempotencyKey != "r" {
		t.Errorf("what is to be settled was taken for what was asked: %+v", again)
	}
}

// What Redis was told is there after it was killed; while it is away or hangs,
// every step says so within its time-out.
func TestRedisGoesAway(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	s := open(t, r.URL(), "teamtoken")
	first := begin(t, s, ask("a", ""), state.Acquired)
	r.Kill()
	if _, err := s.Acquire(t.Context(), ask("b", "")); err == nil {
		t.Error("there is no Redis")
	}
	r.Run()
	eventually(t, func() bool { return s.Renew(t.Context(), first.Lock) == nil })
	r.Hang()
	if _, err := s.Acquire(t.Context(), ask("b", "")); err == nil {
		t.Error("Redis hangs")
	}
	r.Resume()
	eventually(t, func() bool { _, err := s.ListInDoubt(t.Context()); return err == nil })
}

func TestPasswordAndUser(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t, "user tt on >right ~* &* +@all", "user default off")
	url := "redis://tt:right@" + r.Address()
	begin(t, open(t, url, "teamtoken"), ask("a", ""), state.Acquired)
	if _, err := open(t, "redis://tt:wrong@"+r.Address(), "x").Acquire(t.Context(), ask("a", "")); err == nil {
		t.Error("the wrong password does as well")
	}
	given, err := state.OpenRedis(state.RedisOptions{
		URL: secret.New("redis://tt@" + r.Address()), Password: func() secret.Text { return secret.New("right") },
		Prefix: "y", Times: state.NewTTLs(hold), Keys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	begin(t, given, ask("a", ""), state.Acquired)
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"redis://h:6379":                                           true,
		"rediss://user:pass@h:6379/2":                              true,
		"redis://h:26379?master_name=m&addr=i:26379":               true,
		"rediss://h:6379?cluster=true&addr=i:6379":                 true,
		"redis://h:6379?addr=i:6379":                               false,
		"redis://h:6379?cluster=maybe":                             false,
		"redis://h:6379?unheard_of=1":                              false,
		"redis://h:6379?db=2":                                      true,
		"redis://h:26379?master_name=m&db=2&username=u&password=p": true,
		"rediss://h:6379?skip_verify=true":                         false,
		"rediss://h:6379?skip_verify=false":                        false,
		"rediss://h:6379?cluster=true&skip_verify=true":            false,
		"rediss://h:6379?master_name=m&skip_verify=1":              false,
		"redis://h:6379?skip_verify=true":                          false,
		"rediss://h:6379?Skip_Verify=true":                         false,
		"rediss://h:6379?%73kip_verify=true":                       false,
		"rediss://h:6379?db=1;skip_verify=true":                    false,
		"redis://h:6379?read_timeout=1h":                           false,
		"redis://h:6379?cluster=true&read_only=true":               false,
		"redis://h:6379?cluster=true&route_randomly=true":          false,
		"redis://h:6379?cluster=true&db=1":                         false,
		"redis://h:6379?cluster=true&master_name=m":                false,
		"redis://h:6379?cluster=true&cluster=false":                false,
		"redis://h:6379?master_name=":                              false,
		"redis://h:6379?master_name=m&master_name=n":               false,
		"redis://h:6379?master_name=m&replica_only=true":           false,
		"redis://h:6379?username=u":                                false,
		"redis://h:6379?db=1&db=2":                                 false,
		"redis://:pa#ss@h:6379":                                    false,
		"REDISS://h:6379":                                          true,
		"http://h":                                                 false,
		"h:6379":                                                   false,
		"redis://user:p%ZZass@h":                                   false,
		"unix:///run/redis.sock":                                   false,
	} {
		if err := state.CheckURL(secret.New(url)); (err == nil) != ok {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// An error shows nothing of a URL but the names of parameters that go-redis has.
func TestURLErrorsTellNothing(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://:pa?sswordx=y@h:6379", "redis://u:sswordx#y@h", "redis://u:p%ZZsswordx@h", "rediss://h?skip_verify=sswordx", "rediss://:sswordx@h?read_only=1"} {
		if err := state.CheckURL(secret.New(url)); err == nil || strings.Contains(err.Error(), "sswordx") {
			t.Errorf("%v", err)
		}
	}
}

// What is warned of at start.
func TestWeaknesses(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]state.Weakness{
		"redis://redis:6379":                                       {NoTLS: true, NoPassword: true},
		"redis://:p@redis:6379":                                    {NoTLS: true},
		"rediss://redis:6379":                                      {NoPassword: true},
		"rediss://u:p@redis:6379":                                  {},
		"redis://127.0.0.1:6379":                                   {},
		"redis://127.9.9.9":                                        {},
		"redis://localhost:6379":                                   {},
		"redis://[::1]:6379":                                       {},
		"redis://[2001:db8::1]:6379":                               {NoTLS: true, NoPassword: true},
		"redis://10.0.0.1:6379":                                    {NoTLS: true, NoPassword: true},
		"redis://localhost.example.com":                            {NoTLS: true, NoPassword: true},
		"redis://localhost:6379?cluster=true&addr=redis:6379":      {NoTLS: true, NoPassword: true},
		"redis://:p@localhost:6379?cluster=true&addr=10.0.0.1:637": {NoTLS: true},
		"redis://:p@sentinel:26379?master_name=m":                  {NoTLS: true, NoPassword: true}, // the Sentinel's alone
		"redis://sentinel:26379?master_name=m&password=p":          {NoTLS: true},
		"redis://localhost:26379?master_name=m":                    {},
	} {
		if got := state.Weaknesses(secret.New(url)); got != want {
			t.Errorf("%s: %+v", url, got)
		}
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// An ask that Redis reads after it was withdrawn is of nobody: the team is free again
// at once when that is seen, and nothing is alarmed.
func TestAnAskThatCameLate(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	rejected := false
	s, err := state.OpenRedis(state.RedisOptions{
		URL: secret.New(r.URL()), Prefix: "teamtoken", Times: state.NewTTLs(hold), Keys: keys,
		Rejected: func(context.Context, string, string, error) { rejected = true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	a := ask("a", "r")
	end(t, s, begin(t, s, a, state.Acquired).Lock, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset})
	begin(t, s, a, state.Acquired) // as the same words, read again
	eventually(t, func() bool {
		got, err := s.Acquire(t.Context(), ask("a", ""))
		return err == nil && got.Status == state.Acquired
	})
	if rejected {
		t.Error("it was taken for a forged one")
	}
}
