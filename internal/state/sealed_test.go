package state

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// writer is somebody who can write to Redis, and has no key.
type writer struct {
	*redis.Client
	t     *testing.T
	store *Redis
	other *Redis // with another key, in the same Redis
}

const forgedHold = 600 * time.Millisecond

// rejections are what a store found and did not believe.
type rejections map[string]int

func newWriter(t *testing.T) (*writer, rejections) {
	t.Helper()
	r := statetest.Start(t)
	seen := rejections{}
	open := func(prefix string, seen rejections) *Redis {
		keys, err := seal.Ephemeral()
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenRedis(RedisOptions{
			URL: secret.New(r.URL()), Prefix: prefix, Times: NewTTLs(forgedHold), Keys: func() *seal.Keys { return keys },
			Rejected: func(_ context.Context, kind, _ string, why error) { seen[kind]++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	w := &writer{Client: redis.NewClient(&redis.Options{Addr: r.Address()}), t: t, store: open("teamtoken", seen), other: open("teamtoken", rejections{})}
	t.Cleanup(func() { _ = w.Close() })
	return w, seen
}

func (w *writer) do(args ...any) any {
	w.t.Helper()
	v, err := w.Do(w.t.Context(), args...).Result()
	if err != nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	return v
}

func asks(team, record string) AcquireRequest {
	return AcquireRequest{
		Operation: Operation{Method: "CreateNamedToken", Team: team, IdempotencyKey: record, Description: "ci", AuditRecord: json.RawMessage(`{"caller":"who"}`)},
		Owner:     NewOwner(), Fingerprint: "p",
	}
}

func (w *writer) begin(s *Redis, a AcquireRequest, want AcquireStatus) AcquireResult {
	w.t.Helper()
	got, err := s.Acquire(w.t.Context(), a)
	if err != nil || got.Status != want {
		w.t.Fatalf("begin: %q, %v; want %q", got.Status, err, want)
	}
	return got
}

func (w *writer) end(s *Redis, turn Lock, e Release) {
	w.t.Helper()
	if err := s.Release(w.t.Context(), turn, e); err != nil {
		w.t.Fatal(err)
	}
}

// done has a team known, by a change that ended well.
func (w *writer) done(s *Redis, team, record, token string) {
	w.t.Helper()
	got := w.begin(s, asks(team, record), Acquired)
	w.end(s, got.Lock, Release{CurrentTokenID: token, Record: RecordCompleted, Response: Response{TokenID: token, Sealed: []byte("sealed for " + record)}})
}

// left leaves a change of a team unsettled.
func (w *writer) left(s *Redis, team, record string) Lock {
	w.t.Helper()
	got := w.begin(s, asks(team, record), Acquired)
	w.end(s, got.Lock, Release{InDoubt: true, CurrentTokenID: Unchanged})
	return got.Lock
}

// settled settles what is left of a team, once that is due.
func (w *writer) settled(s *Redis, team string) {
	w.t.Helper()
	w.eventually(func() bool {
		u, ok, err := s.AcquireInDoubt(w.t.Context(), team, NewOwner())
		if ok {
			w.end(s, u.Lock, Release{CurrentTokenID: "at-1", Record: RecordReset})
		}
		return ok && err == nil
	})
}

func (w *writer) eventually(ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("not within 30 s")
		}
	}
}

func (w *writer) sealed(s *Redis, kind string, value any, where ...string) []byte {
	w.t.Helper()
	b, err := s.seal(kind, value, where...)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

const (
	keyA         = "{teamtoken}:team:team-a"
	keyB         = "{teamtoken}:team:team-b"
	keyUnsettled = "{teamtoken}:unsettled"
)

func (w *writer) field(key, name string) string {
	v, _ := w.HGet(w.t.Context(), key, name).Result()
	return v
}

// A change that somebody else wrote, moved, kept or cut leads to nothing: nobody is
// asked to settle it, it is out of the queue, and after the hold the team is free.
func TestForgedChange(t *testing.T) {
	t.Parallel()
	plain, err := json.Marshal(storedOperation{Operation: asks("team-a", "").Operation, At: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	set := func(value func(w *writer) any) func(w *writer) {
		return func(w *writer) { w.do("HSET", keyA, "change", value(w)) }
	}
	rows := map[string]func(w *writer){
		"plain":                  set(func(*writer) any { return plain }),
		"nonsense":               set(func(*writer) any { return "x" }),
		"nothing":                set(func(*writer) any { return "" }),
		"cut short":              set(func(w *writer) any { c := w.field(keyA, "change"); return c[:len(c)-1] }),
		"one bit":                set(func(w *writer) any { c := []byte(w.field(keyA, "change")); c[len(c)/2] ^= 1; return c }),
		"another team's":         set(func(w *writer) any { return w.field(keyB, "change") }),
		"another team's, and by": func(w *writer) { w.do("HSET", keyA, "change", w.field(keyB, "change"), "by", w.field(keyB, "by")) },
		"another team's, all":    func(w *writer) { w.do("COPY", keyB, keyA, "REPLACE") },
		"another key's": set(func(w *writer) any {
			return w.sealed(w.other, sealedChange, storedOperation{Operation: asks("team-a", "").Operation, At: time.Now().UnixMilli()}, "team-a", w.field(keyA, "by"))
		}),
		"another holder's":  func(w *writer) { w.do("HSET", keyA, "by", NewOwner()) },
		"nobody's":          func(w *writer) { w.do("HDEL", keyA, "by") },
		"a known token's":   set(func(w *writer) any { return w.field(keyA, "known") }),
		"of an older epoch": set(func(w *writer) any { return w.do("HGET", "older", "change") }),
		"of an older epoch, and by": func(w *writer) {
			w.do("HSET", keyA, "change", w.do("HGET", "older", "change"), "by", w.do("HGET", "older", "by"))
		},
		"an older epoch, all": func(w *writer) { w.do("COPY", "older", keyA, "REPLACE") },
		"too old": set(func(w *writer) any {
			return w.sealed(w.store, sealedChange, storedOperation{Operation: asks("team-a", "").Operation, At: time.Now().Add(-resolveWithin - 2*clockSlack).UnixMilli()}, "team-a", w.field(keyA, "by"))
		}),
		"of the future": set(func(w *writer) any {
			return w.sealed(w.store, sealedChange, storedOperation{Operation: asks("team-a", "").Operation, At: time.Now().Add(2 * clockSlack).UnixMilli()}, "team-a", w.field(keyA, "by"))
		}),
		"another team inside": set(func(w *writer) any {
			return w.sealed(w.store, sealedChange, storedOperation{Operation: asks("team-c", "").Operation, At: time.Now().UnixMilli()}, "team-a", w.field(keyA, "by"))
		}),
		"alone":   func(w *writer) { w.do("DEL", keyA); w.do("HSET", keyA, "change", plain) },
		"no hash": func(w *writer) { w.do("SET", keyA, plain) },
		"a list":  func(w *writer) { w.do("DEL", keyA); w.do("RPUSH", keyA, plain) },
		"odd numbers": func(w *writer) {
			w.do("HSET", keyA, "change", plain, "epoch", "1e300", "until", "nan", "hold", "-inf", "due", "x")
		},
	}
	for name, forge := range rows {
		for _, who := range []string{"who settles", "who calls"} {
			t.Run(name+", "+who, func(t *testing.T) {
				t.Parallel()
				w, seen := newWriter(t)
				w.done(w.store, "team-a", "", "at-0")
				w.left(w.store, "team-a", "")
				w.do("COPY", keyA, "older")
				w.do("PERSIST", "older")
				w.settled(w.store, "team-a")
				w.left(w.store, "team-a", "r")
				w.left(w.store, "team-b", "")
				forge(w)
				w.do("ZADD", keyUnsettled, 1, "team-a")
				if kind := w.do("TYPE", keyA); kind == "hash" {
					w.do("HDEL", keyA, "due", "holder")
				}
				w.do("ZREM", keyUnsettled, "team-b")
				if who == "who calls" {
					if got := w.begin(w.store, asks("team-a", ""), InDoubt); got.InDoubt.Operation.Team != "" {
						t.Error("it is to be settled")
					}
				} else {
					for _, team := range must(w.store.ListInDoubt(t.Context())) {
						if u, ok, err := w.store.AcquireInDoubt(t.Context(), team, NewOwner()); ok || err != nil {
							t.Errorf("it is to be settled: %+v, %v", u, err)
						}
					}
				}
				if due := w.do("ZCARD", keyUnsettled); due != int64(0) {
					t.Errorf("%v teams in the queue", due)
				}
				if name == "nothing" && who == "who settles" { // it is what a dropped one leaves
					return
				}
				if seen[sealedChange] != 1 {
					t.Errorf("rejected: %v", seen)
				}
				w.begin(w.store, asks("team-a", ""), InDoubt)
				w.eventually(func() bool {
					got, err := w.store.Acquire(t.Context(), asks("team-a", ""))
					if err == nil && got.Status != InDoubt && (got.Status != Acquired || got.CurrentTokenID != "") {
						t.Fatalf("%+v", got)
					}
					return err == nil && got.Status == Acquired
				})
			})
		}
	}
}

// A true change whose plain fields somebody else changed is settled as what it is, and
// not before the hold that it has at least is over.
func TestForgedNumbers(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]any{
		"no hold":   {"hold", 1},
		"odd":       {"hold", "nan", "epoch", "x", "until", "-1", "due", "0x"},
		"huge":      {"hold", "1", "epoch", "1e300", "until", "1", "due", "1"},
		"backwards": {"hold", "1", "epoch", "-5", "until", "1", "due", "1"},
		"since":     {"hold", "1", "begun", "1", "due", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, seen := newWriter(t)
			w.left(w.store, "team-a", "r")
			w.do("HDEL", keyA, "due")
			w.do(append([]any{"HSET", keyA}, fields...)...)
			u, ok, err := w.store.AcquireInDoubt(t.Context(), "team-a", NewOwner())
			if !ok || err != nil || u.Operation.IdempotencyKey != "r" || u.HoldLeft <= 0 || u.Age > 10*time.Second || len(seen) != 0 {
				t.Fatalf("%+v, %v, %v, %v", u, ok, err, seen)
			}
			w.end(w.store, u.Lock, Release{Record: RecordReset})
			if left := must(w.Keys(t.Context(), "{teamtoken}:team:*").Result()); len(left) != 0 {
				t.Error(left)
			}
		})
	}
}

// What somebody else wrote of a team's token is as if it were not known.
func TestForgedKnown(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(w *writer){
		"plain":     func(w *writer) { w.do("HSET", keyA, "known", "at-9") },
		"cut short": func(w *writer) { k := w.field(keyA, "known"); w.do("HSET", keyA, "known", k[:len(k)-2]) },
		"another team's": func(w *writer) {
			w.do("HSET", keyA, "known", w.field(keyB, "known"), "known_by", w.field(keyB, "known_by"))
		},
		"another team's all": func(w *writer) { w.do("COPY", keyB, keyA, "REPLACE") },
		"older":              func(w *writer) { w.do("HSET", keyA, "known", w.do("GET", "older")) },
		"another key's": func(w *writer) {
			w.do("HSET", keyA, "known", w.sealed(w.other, sealedKnown, knownToken{"at-9", time.Now().UnixMilli()}, "team-a", w.field(keyA, "known_by")))
		},
		"too old": func(w *writer) {
			w.do("HSET", keyA, "known", w.sealed(w.store, sealedKnown, knownToken{"at-9", time.Now().Add(-25 * time.Hour).UnixMilli()}, "team-a", w.field(keyA, "known_by")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, seen := newWriter(t)
			w.done(w.store, "team-a", "", "at-0")
			w.do("SET", "older", w.field(keyA, "known"))
			w.done(w.store, "team-a", "", "at-1")
			w.done(w.store, "team-b", "", "at-2")
			forge(w)
			if got := w.begin(w.store, asks("team-a", ""), Acquired); got.CurrentTokenID != "" || seen[sealedKnown] != 1 {
				t.Errorf("known: %q, rejected: %v", got.CurrentTokenID, seen)
			}
		})
	}
}

// A record that somebody else wrote answers nothing, and lets nothing be done.
func TestForgedRecord(t *testing.T) {
	t.Parallel()
	const r, q = "{teamtoken}:record:r", "{teamtoken}:record:q"
	now := func() int64 { return time.Now().UnixMilli() }
	failed := storedRecord{Fingerprint: "p", State: RecordCompleted, Failure: "UPSTREAM_REJECTED not_applied"}
	for name, forge := range map[string]func(w *writer){
		"plain":     func(w *writer) { w.do("SET", r, string(must(json.Marshal(failed)))) },
		"nothing":   func(w *writer) { w.do("SET", r, "") },
		"a hash":    func(w *writer) { w.do("DEL", r); w.do("HSET", r, "params", "p", "fate", "done", "token", "at-9") },
		"cut short": func(w *writer) { v := w.do("GET", r).(string); w.do("SET", r, v[:len(v)-3]) },
		"another's": func(w *writer) { w.do("COPY", q, r, "REPLACE") },
		"another key's": func(w *writer) {
			failed.At = now()
			w.do("SET", r, w.sealed(w.other, sealedRecord, failed, "r"))
		},
		"a change": func(w *writer) { w.left(w.store, "team-b", "r2"); w.do("SET", r, w.field(keyB, "change")) },
		"too old": func(w *writer) {
			w.do("SET", r, w.sealed(w.store, sealedRecord, storedRecord{Fingerprint: "p", State: RecordCompleted, TokenID: "at-1", At: time.Now().Add(-25 * time.Hour).UnixMilli()}, "r"))
		},
	} {
		for _, other := range []string{"the same request", "another under the same id"} {
			t.Run(name+", "+other, func(t *testing.T) {
				t.Parallel()
				w, seen := newWriter(t)
				w.done(w.store, "team-a", "r", "at-0")
				w.done(w.store, "team-c", "q", "at-3")
				forge(w)
				a := asks("team-a", "r")
				if other != "the same request" {
					a.Fingerprint = "q"
				}
				w.begin(w.store, a, RecordUnreadable)
				if seen[sealedRecord] != 1 {
					t.Errorf("rejected: %v", seen)
				}
				w.begin(w.store, asks("team-a", "another"), Acquired)
			})
		}
	}
}

// An answer that outlived its time is not given again.
func TestAnswerPutBack(t *testing.T) {
	t.Parallel()
	w, _ := newWriter(t)
	w.done(w.store, "team-a", "r", "at-0")
	if got := w.begin(w.store, asks("team-a", "r"), Completed); string(got.Response.Sealed) != "sealed for r" || got.Response.TokenID != "at-0" {
		t.Errorf("%+v", got.Response)
	}
	w.do("SET", "{teamtoken}:record:r", w.sealed(w.store, sealedRecord, storedRecord{Fingerprint: "p", State: RecordCompleted, TokenID: "at-0", At: time.Now().Add(-responseTTL - 2*clockSlack).UnixMilli()}, "r"))
	if got := w.begin(w.store, asks("team-a", "r"), Completed); len(got.Response.Sealed) != 0 || got.Response.TokenID != "at-0" {
		t.Errorf("%+v", got.Response)
	}
}

// Nothing that Redis is given tells what it is about, but teams' names and numbers.
func TestNothingIsInTheClear(t *testing.T) {
	t.Parallel()
	w, _ := newWriter(t)
	w.done(w.store, "team-a", "r", "at-0")
	w.left(w.store, "team-a", "s")
	for _, key := range must(w.Keys(t.Context(), "*").Result()) {
		dump := must(w.Dump(t.Context(), key).Result())
		for _, word := range []string{"at-0", "CreateNamedToken", "who", `"ci"`} {
			if len(dump) > 0 && contains(dump, word) {
				t.Errorf("%s holds %s", key, word)
			}
		}
	}
}

func contains(s, word string) bool {
	for i := range max(len(s)-len(word)+1, 0) {
		if s[i:i+len(word)] == word {
			return true
		}
	}
	return false
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint(err))
	}
	return v
}
