package state_test

import (
	"context"
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
	t.Run("memory", func(t *testing.T) { test(t, state.NewMemory(state.NewTimes(hold))) })
	t.Run("redis", func(t *testing.T) { test(t, open(t, statetest.Start(t).URL(), "teamtoken")) })
}

func open(t *testing.T, url, prefix string) *state.Redis {
	t.Helper()
	s, err := state.OpenRedis(state.RedisOptions{URL: secret.New(url), Prefix: prefix, Times: state.NewTimes(hold), Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func ask(team, record string) state.Ask {
	return state.Ask{
		Change: state.Change{Method: "GenerateToken", Team: team, Record: record, Journal: "who"},
		Holder: state.NewHolder(), Params: "p",
	}
}

func begin(t *testing.T, s state.Store, a state.Ask, want state.Verdict) state.Answer {
	t.Helper()
	got, err := s.Begin(t.Context(), a)
	if err != nil || got.Verdict != want {
		t.Fatalf("begin: %q, %v; want %q", got.Verdict, err, want)
	}
	return got
}

func end(t *testing.T, s state.Store, turn state.Turn, e state.End) {
	t.Helper()
	if err := s.End(t.Context(), turn, e); err != nil {
		t.Fatalf("end: %v", err)
	}
}

func TestATurnIsOnes(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", ""), state.Granted)
		begin(t, s, ask("a", ""), state.Busy)
		other := begin(t, s, ask("b", ""), state.Granted)
		end(t, s, first.Turn, state.End{Known: "at-1"})
		second := begin(t, s, ask("a", ""), state.Granted)
		if second.Known != "at-1" || second.Turn.Epoch <= first.Turn.Epoch || other.Known != "" {
			t.Errorf("%+v after %+v", second, first)
		}
		if err := s.Renew(t.Context(), first.Turn); !errors.Is(err, state.ErrFenced) {
			t.Errorf("a turn that has ended: %v", err)
		}
		end(t, s, second.Turn, state.End{Known: state.Same})
		_ = s.End(t.Context(), first.Turn, state.End{Known: "at-0"}) // said again, by who did not hear the answer
		if third := begin(t, s, ask("a", ""), state.Granted); third.Known != "at-1" {
			t.Errorf("known: %q", third.Known)
		}
	})
}

func TestOfManyOneHasTheTurn(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		var mu sync.Mutex
		seen := map[state.Verdict]int{}
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				got, err := s.Begin(context.Background(), ask("a", ""))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[got.Verdict]++
			})
		}
		all.Wait()
		if seen[state.Granted] != 1 || seen[state.Busy] != 31 {
			t.Error(seen)
		}
	})
}

func TestRecords(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", "r"), state.Granted)
		begin(t, s, ask("a", "r"), state.Running)
		other := ask("b", "r")
		other.Params = "other"
		begin(t, s, other, state.Reused)
		begin(t, s, ask("a", "another caller's r"), state.Busy)
		end(t, s, first.Turn, state.End{Fate: state.Keep, Recorded: state.Recorded{Answer: []byte{1, 0, 2}, Token: "at-1"}})
		got := begin(t, s, ask("a", "r"), state.Done).Recorded
		if string(got.Answer) != "\x01\x00\x02" || got.Token != "at-1" || got.Failure != "" {
			t.Errorf("%+v", got)
		}

		forgotten := begin(t, s, ask("a", "f"), state.Granted)
		end(t, s, forgotten.Turn, state.End{Fate: state.Forget, Known: state.Same})
		again := begin(t, s, ask("a", "f"), state.Granted)
		end(t, s, again.Turn, state.End{Fate: state.Lost, Recorded: state.Recorded{Token: "at-2"}})
		lost := begin(t, s, ask("a", "f"), state.Granted)
		end(t, s, lost.Turn, state.End{Fate: state.Forget, Known: state.Same})
		still := begin(t, s, ask("a", "f"), state.Granted)
		if lost.Lost != "at-2" || still.Lost != "at-2" {
			t.Errorf("lost: %q, and then %q", lost.Lost, still.Lost)
		}
	})
}

// An unknown outcome keeps others away, is looked at by one at a time, and is over
// when it is settled.
func TestUnknownOutcome(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		begun := ask("a", "r")
		begun.Change.Expected, begun.Change.Description, begun.Change.Bucket = "at-0", "d", "service"
		first := begin(t, s, begun, state.Granted)
		end(t, s, first.Turn, state.End{Unknown: true, Known: state.Same})
		held := begin(t, s, ask("a", ""), state.Held)
		if held.Wait <= 0 || held.Wait > hold {
			t.Errorf("held for %v", held.Wait)
		}
		begin(t, s, ask("a", "r"), state.Unknown)
		if p, err := s.Beat(t.Context(), "one"); p != (state.Pulse{Replicas: 1, Held: 1}) || err != nil {
			t.Errorf("while a team is held: %+v, %v", p, err)
		}
		if due, err := s.Due(t.Context()); err != nil || len(due) != 0 {
			t.Errorf("due at once: %v, %v", due, err)
		}

		var look state.Unsettled
		eventually(t, func() bool {
			due, err := s.Due(t.Context())
			if err != nil || len(due) == 0 {
				return false
			}
			var ok bool
			look, ok, err = s.Claim(t.Context(), due[0], state.NewHolder())
			return ok && err == nil
		})
		c := look.Change
		if look.Since <= 0 || look.Hold > hold || c.Expected != "at-0" || c.Description != "d" || c.Bucket != "service" ||
			c.Record != "r" || c.Journal != "who" {
			t.Errorf("%+v", look)
		}
		begin(t, s, ask("a", ""), state.Held)
		begin(t, s, ask("a", "r"), state.Unknown)
		if _, ok, err := s.Claim(t.Context(), "a", state.NewHolder()); ok || err != nil {
			t.Errorf("two look at once: %v", err)
		}
		end(t, s, look.Turn, state.End{Unknown: true, Known: state.Same}) // not yet
		_ = s.End(t.Context(), first.Turn, state.End{})                   // changes nothing
		begin(t, s, ask("a", ""), state.Held)

		var mine state.Answer
		eventually(t, func() bool { // whoever comes when it is due looks as well
			var err error
			mine, err = s.Begin(t.Context(), ask("a", ""))
			return err == nil && mine.Verdict == state.Unsettle
		})
		if mine.Unsettled.Hold >= look.Hold {
			t.Errorf("the hold began anew: %v, before %v", mine.Unsettled.Hold, look.Hold)
		}
		end(t, s, mine.Unsettled.Turn, state.End{Known: "at-1", Fate: state.Lost, Recorded: state.Recorded{Token: "at-1"}})
		if p, err := s.Beat(t.Context(), "one"); p != (state.Pulse{Replicas: 1}) || err != nil {
			t.Errorf("when it is settled: %+v, %v", p, err)
		}
		if got := begin(t, s, ask("a", "r"), state.Granted); got.Lost != "at-1" || got.Known != "at-1" {
			t.Errorf("%+v", got)
		}
	})
}

func TestBudget(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		slot := state.Slot{Bucket: "b", Interval: 200 * time.Millisecond, Burst: 200 * time.Millisecond, MaxWait: 300 * time.Millisecond}
		var waits []time.Duration
		for range 4 {
			wait, err := s.Reserve(t.Context(), slot)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
		}
		if waits[0] != 0 || waits[1] != 0 || waits[2] <= 0 || waits[2] > 200*time.Millisecond || waits[3] <= 300*time.Millisecond {
			t.Errorf("two at once, one after a while, and no more: %v", waits)
		}
		a := ask("a", "")
		a.Slot = slot
		if got := begin(t, s, a, state.Over); got.Wait <= 300*time.Millisecond {
			t.Errorf("wait %v", got.Wait)
		}
		a.Slot.Bucket = "another"
		begin(t, s, a, state.Granted)
		if err := s.Pause(t.Context(), a.Slot, time.Minute); err != nil {
			t.Fatal(err)
		}
		if wait, err := s.Reserve(t.Context(), a.Slot); err != nil || wait < 50*time.Second {
			t.Errorf("paused: %v, %v", wait, err)
		}
	})
}

// What is begun anew is judged from then on, and by the token that there was then.
func TestRedo(t *testing.T) {
	each(t, func(t *testing.T, s state.Store) {
		first := begin(t, s, ask("a", ""), state.Granted)
		time.Sleep(50 * time.Millisecond) // for Since to tell
		if err := s.Redo(t.Context(), first.Turn, "at-2"); err != nil {
			t.Fatal(err)
		}
		redone := time.Now()
		end(t, s, first.Turn, state.End{Unknown: true, Known: state.Same})
		eventually(t, func() bool {
			u, ok, err := s.Claim(t.Context(), "a", state.NewHolder())
			if ok && (u.Known != "at-2" || u.Since > time.Since(redone)+40*time.Millisecond) {
				t.Errorf("%+v", u)
			}
			return ok && err == nil
		})
		if err := s.Redo(t.Context(), first.Turn, "at-3"); !errors.Is(err, state.ErrFenced) {
			t.Errorf("a turn that has ended: %v", err)
		}
	})
}

// A replica that dies leaves its turn to whoever comes after the lease.
func TestADeadReplica(t *testing.T) {
	r := statetest.Start(t)
	dead, living := open(t, r.URL(), "teamtoken"), open(t, r.URL(), "teamtoken")
	first := begin(t, dead, ask("a", "r"), state.Granted)
	begin(t, living, ask("a", ""), state.Busy)
	begin(t, living, ask("a", "r"), state.Running)
	if err := dead.Renew(t.Context(), first.Turn); err != nil {
		t.Fatal(err)
	}
	var left state.Unsettled
	eventually(t, func() bool {
		due, err := living.Due(t.Context())
		if err != nil || len(due) == 0 {
			return false
		}
		var ok bool
		left, ok, err = living.Claim(t.Context(), "a", state.NewHolder())
		return ok && err == nil
	})
	if left.Since < dead.Lease() || left.Hold <= 0 || left.Change.Record != "r" {
		t.Errorf("%+v", left)
	}
	for _, err := range []error{
		dead.Renew(t.Context(), first.Turn), dead.End(t.Context(), first.Turn, state.End{Fate: state.Keep}),
	} {
		if !errors.Is(err, state.ErrFenced) {
			t.Errorf("it was not dead: %v", err)
		}
	}
	end(t, living, left.Turn, state.End{Fate: state.Forget})
	begin(t, living, ask("a", "r"), state.Granted)
	if p, err := living.Beat(t.Context(), "one"); p.Replicas != 1 || err != nil {
		t.Error(p, err)
	}
	if p, err := dead.Beat(t.Context(), "two"); p.Replicas != 2 || err != nil {
		t.Error(p, err)
	}
}

// The same question twice has one answer: a connection may be lost in between.
func TestTheSameAskTwice(t *testing.T) {
	s := open(t, statetest.Start(t).URL(), "teamtoken")
	a := ask("a", "r")
	first, again := begin(t, s, a, state.Granted), begin(t, s, a, state.Granted)
	if first.Turn.Team != again.Turn.Team || first.Turn.Holder != again.Turn.Holder || first.Turn.Epoch != again.Turn.Epoch {
		t.Errorf("%+v, and then %+v", first.Turn, again.Turn)
	}
	begin(t, open(t, statetest.Start(t).URL(), "other"), a, state.Granted)

	end(t, s, first.Turn, state.End{Unknown: true, Known: state.Same})
	other := begin(t, s, ask("b", ""), state.Granted)
	end(t, s, other.Turn, state.End{})
	next := begin(t, s, ask("b", ""), state.Granted)
	end(t, s, next.Turn, state.End{})
	for _, turn := range []state.Turn{first.Turn, other.Turn} { // whatever came between
		if err := s.End(t.Context(), turn, state.End{Unknown: turn == first.Turn, Known: state.Same}); err != nil {
			t.Errorf("the same end twice: %v", err)
		}
	}
	b := ask("a", "")
	var settling state.Answer
	eventually(t, func() bool {
		var err error
		settling, err = s.Begin(t.Context(), b)
		return err == nil && settling.Verdict == state.Unsettle
	})
	if again := begin(t, s, b, state.Unsettle); again.Unsettled.Change.Record != "r" {
		t.Errorf("what is to be settled was taken for what was asked: %+v", again)
	}
}

// What Redis was told is there after it was killed; while it is away or hangs,
// every step says so within its time-out.
func TestRedisGoesAway(t *testing.T) {
	r := statetest.Start(t)
	s := open(t, r.URL(), "teamtoken")
	first := begin(t, s, ask("a", ""), state.Granted)
	r.Kill()
	if _, err := s.Begin(t.Context(), ask("b", "")); err == nil {
		t.Error("there is no Redis")
	}
	r.Run()
	eventually(t, func() bool { return s.Renew(t.Context(), first.Turn) == nil })
	r.Hang()
	if _, err := s.Begin(t.Context(), ask("b", "")); err == nil {
		t.Error("Redis hangs")
	}
	r.Resume()
	eventually(t, func() bool { _, err := s.Due(t.Context()); return err == nil })
}

func TestPasswordAndUser(t *testing.T) {
	r := statetest.Start(t, "user tt on >right ~* &* +@all", "user default off")
	url := "redis://tt:right@" + r.Address()
	begin(t, open(t, url, "teamtoken"), ask("a", ""), state.Granted)
	if _, err := open(t, "redis://tt:wrong@"+r.Address(), "x").Begin(t.Context(), ask("a", "")); err == nil {
		t.Error("the wrong password does as well")
	}
	given, err := state.OpenRedis(state.RedisOptions{
		URL: secret.New("redis://tt@" + r.Address()), Password: func() secret.Text { return secret.New("right") },
		Prefix: "y", Times: state.NewTimes(hold), Keys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	begin(t, given, ask("a", ""), state.Granted)
}

func TestURLs(t *testing.T) {
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
	for _, url := range []string{"redis://:pa?sswordx=y@h:6379", "redis://u:sswordx#y@h", "redis://u:p%ZZsswordx@h", "rediss://h?skip_verify=sswordx", "rediss://:sswordx@h?read_only=1"} {
		if err := state.CheckURL(secret.New(url)); err == nil || strings.Contains(err.Error(), "sswordx") {
			t.Errorf("%v", err)
		}
	}
}

// What is warned of at start.
func TestWeaknesses(t *testing.T) {
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
	r := statetest.Start(t)
	rejected := false
	s, err := state.OpenRedis(state.RedisOptions{
		URL: secret.New(r.URL()), Prefix: "teamtoken", Times: state.NewTimes(hold), Keys: keys,
		Rejected: func(context.Context, string, string, error) { rejected = true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	a := ask("a", "r")
	end(t, s, begin(t, s, a, state.Granted).Turn, state.End{Known: state.Same, Fate: state.Forget})
	begin(t, s, a, state.Granted) // as the same words, read again
	eventually(t, func() bool {
		got, err := s.Begin(t.Context(), ask("a", ""))
		return err == nil && got.Verdict == state.Granted
	})
	if rejected {
		t.Error("it was taken for a forged one")
	}
}
