package state_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// Replicas have a team's lock by turns. A step is "call verdict", where a call is
// REPLICA:CALLER:CLASS; or "end", of the call that has the lock; or "leave call".
// "look call" only sees whether the lock can be had.
func TestReplicasTakeTurns(t *testing.T) {
	t.Parallel()
	s := open(t, statetest.Start(t).URL(), "teamtoken")
	for _, row := range []struct{ name, steps string }{
		{"who waited longest", `
			A:x:0 granted, B:z:0 busy, A:x2:0 busy, C:y:0 busy, end,
			C:y:0 busy, A:x2:0 busy, B:z:0 granted, end, C:y:0 busy, A:x2:0 granted, end, C:y:0 granted, end`},
		{"a newcomer to a free lock does not go first", `A:x:0 granted, B:z:0 busy, end, A:x2:0 busy, B:z:0 granted, end`},
		{"nobody waits", `A:x:0 granted, end, A:x:0 granted, end, B:z:0 granted, end`},
		{"all of a caller's go to the end when one is served", `
			A:y:0 granted, B:x:0 busy, C:x:0 busy, D:z:0 busy, end,
			D:z:0 busy, C:x:0 busy, B:x:0 granted, end, C:x:0 busy, D:z:0 granted, end, C:x:0 granted, end`},
		{"the better class first", `A:x:0 granted, B:u:1 busy, C:v:2 busy, D:p:0 busy, end,
			C:v:2 busy, B:u:1 busy, D:p:0 granted, end, C:v:2 busy, B:u:1 granted, end, C:v:2 granted, end`},
		{"a replica's next call is another's", `
			A:x:0 granted, B:z:0 busy, C:y:0 busy, B:u:1 busy, end, B:u:1 busy, C:y:0 granted, end, B:u:1 granted, end`},
		{"who leaves is not waited for", `A:x:0 granted, B:z:0 busy, leave B:z:0, end, A:x2:0 granted, end`},
		{"nobody takes another out of the queue", `A:x:0 granted, B:z:0 busy, leave B:q:0, end, A:x2:0 busy, B:z:0 granted, end`},
		{"who only looks takes nothing, and loses nothing", `
			A:x:0 granted, B:z:0 busy, look A:x2:0 busy, end, look A:x2:0 busy, look B:z:0 over, A:x2:0 busy, look B:z:0 over, B:z:0 granted, end`},
		{"who does not wait in the queue", `A:x:0 granted, B:z:0 busy, end, :w:0 granted, end, A:x2:0 busy, B:z:0 granted, end`},
	} {
		t.Run(row.name, func(t *testing.T) {
			asks := map[string]state.AcquireRequest{}
			turns := map[string]state.Lock{}
			has := ""
			for step := range strings.SplitSeq(row.steps, ",") {
				words := strings.Fields(step)
				look := words[0] == "look"
				if look {
					words = words[1:]
				}
				call := words[len(words)-1]
				if len(words) == 2 && words[0] != "leave" {
					call = words[0]
				}
				a, ok := asks[call]
				if !ok && call != "end" {
					a = ask(row.name, "")
					parts := strings.Split(call, ":")
					a.Waiter = state.Waiter{Replica: parts[0], Caller: strings.TrimRight(parts[1], "0123456789"), Class: int(parts[2][0] - '0')}
					asks[call] = a
				}
				if look {
					a = a.DryRun()
				}
				switch {
				case call == "end":
					end(t, s, turns[has], state.Release{CurrentTokenID: state.Unchanged})
					delete(asks, has) // the next call of the same name is another one
					has = ""
				case words[0] == "leave":
					if err := s.Leave(t.Context(), a); err != nil {
						t.Fatal(err)
					}
				default:
					got, err := s.Acquire(t.Context(), a)
					if err != nil || got.Status != state.AcquireStatus(words[1]) {
						t.Fatalf("%s: %q, %v", strings.TrimSpace(step), got.Status, err)
					}
					if got.Status == state.Acquired {
						has, turns[call] = call, got.Lock
					}
				}
			}
		})
	}
}

// A replica that died, and whatever else lies in the queue, keeps nobody waiting for
// longer than a second or so.
func TestQueueIsNotBelieved(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t)
	s := open(t, r.URL(), "teamtoken")
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	t.Cleanup(func() { _ = client.Close() })
	far := time.Now().Add(time.Hour).UnixMilli()
	for name, write := range map[string]func(key string) error{
		"a replica that died": func(string) error {
			dead := ask("a replica that died", "")
			dead.Waiter = state.Waiter{Replica: "B", Caller: "z"}
			_, err := s.Acquire(t.Context(), dead)
			return err
		},
		"no hash":    func(key string) error { return client.Set(t.Context(), key, "x", 0).Err() },
		"a list":     func(key string) error { return client.RPush(t.Context(), key, "x").Err() },
		"no entries": func(key string) error { return client.HSet(t.Context(), key, "B", "x", "C", "", "D", "0 1 2").Err() },
		"from the end of time": func(key string) error {
			return client.HSet(t.Context(), key, "B", "0 1 "+time.Now().Add(time.Hour).Format("20060102150405")+" 0 H c").Err()
		},
		"for an hour": func(key string) error { return client.HSet(t.Context(), key, "B", "0 1 "+number(far)+" 0 H c").Err() },
		"a hundred": func(key string) error {
			for i := range int64(100) {
				if err := client.HSet(t.Context(), key, "R"+number(i), "0 1 "+number(far)+" 0 H c").Err(); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := begin(t, s, ask(name, ""), state.Acquired)
			key := "{teamtoken}:queue:" + name
			if err := write(key); err != nil {
				t.Fatal(err)
			}
			end(t, s, first.Lock, state.Release{CurrentTokenID: state.Unchanged})
			a := ask(name, "")
			a.Waiter = state.Waiter{Replica: "A", Caller: "x"}
			deadline := time.Now().Add(20 * time.Second)
			for {
				got, err := s.Acquire(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				if got.Status == state.Acquired {
					end(t, s, got.Lock, state.Release{CurrentTokenID: state.Unchanged})
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("still %q", got.Status)
				}
				time.Sleep(20 * time.Millisecond)
			}
			for time.Now().Before(deadline) && client.Exists(t.Context(), key).Val() > 0 {
				time.Sleep(20 * time.Millisecond)
			}
			if client.Exists(t.Context(), key).Val() > 0 {
				t.Error("it is kept")
			}
		})
	}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
