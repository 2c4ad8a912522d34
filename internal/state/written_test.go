package state

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// What is plain in Redis is taken for what a script may have written there, or for
// nothing: whatever else stands in its place holds nobody up for longer than it takes to
// find that out.
func TestPlainKeysWrittenByAnother(t *testing.T) {
	t.Parallel()
	const prefix = "{teamtoken}:"
	values := map[string]func(w *writer, key string){
		"a text":   func(w *writer, key string) { w.do("SET", key, "x") },
		"a list":   func(w *writer, key string) { w.do("RPUSH", key, "x") },
		"a stream": func(w *writer, key string) { w.do("XADD", key, "*", "x", "y") },
		"a hash":   func(w *writer, key string) { w.do("HSET", key, "x", "y", "-1", "nan", "inf", "1e300") },
		"a zset":   func(w *writer, key string) { w.do("ZADD", key, "-inf", "x", "inf", "y") },
	}
	for _, text := range []string{"", "nan", "-nan", "inf", "-inf", "-1", "-1e300", "0x7fffffffffffffff", "1e300", "9e18", "1 2"} {
		values["the text "+text] = func(w *writer, key string) { w.do("SET", key, text) }
	}
	for _, name := range []string{"unsettled", "held", "replicas", "budget:b", "kept:c", "queue:team-a", "ended:h", "record:r", "answer:r", "team:team-a"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := newWriter(t)
			for value, write := range values {
				w.do("FLUSHALL")
				write(w, prefix+name)
				if _, err := w.store.Heartbeat(t.Context(), "replica"); err != nil {
					t.Errorf("%s: beat: %v", value, err)
				}
				if _, err := w.store.ListInDoubt(t.Context()); err != nil {
					t.Errorf("%s: due: %v", value, err)
				}
				if _, _, err := w.store.AcquireInDoubt(t.Context(), "team-b", NewOwner()); err != nil {
					t.Errorf("%s: claim: %v", value, err)
				}
				slot := RateRequest{Key: "b", Interval: time.Millisecond, Burst: time.Second, MaxWait: time.Second}
				if wait, err := w.store.ReserveRate(t.Context(), slot); err != nil || wait < 0 {
					t.Errorf("%s: reserve: %v, %v", value, wait, err)
				}
				if err := w.store.BlockRate(t.Context(), RateRequest{Key: "b"}, 0); err != nil {
					t.Errorf("%s: pause: %v", value, err)
				}
				a := asks("team-a", "r")
				a.Operation.Caller, a.Rate, a.MaxRecords, a.Waiter = "c", slot, 10, Waiter{Replica: "A", Caller: "c"}
				got, err := w.store.Acquire(t.Context(), a)
				if err != nil || got.Wait < 0 {
					t.Errorf("%s: begin: %v, %v", value, got.Wait, err)
				}
				if got.Status == Acquired {
					w.do("DEL", prefix+name)
					write(w, prefix+name)
					if err := w.store.Renew(t.Context(), got.Lock); err != nil && name != "team:team-a" {
						t.Errorf("%s: renew: %v", value, err)
					}
					if err := w.store.Release(t.Context(), got.Lock, Release{Record: RecordCompleted, Response: Response{TokenID: "at-1"}}); err != nil && !errors.Is(err, ErrFenced) {
						t.Errorf("%s: end: %v", value, err)
					}
				}
			}
		})
	}
}

// A change that ended is over, even if somebody wrote before that its end had been
// written down: nobody is asked to settle it.
func TestAnEndThatAnotherWrote(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"%s", "%s 0", "%s 1"} {
		w, seen := newWriter(t)
		got := w.begin(w.store, asks("team-a", ""), Acquired)
		w.do("SET", "{teamtoken}:ended:"+w.field(keyA, "holder"), fmt.Sprintf(value, w.field(keyA, "epoch")))
		w.end(w.store, got.Lock, Release{CurrentTokenID: Unchanged, Record: RecordReset})
		if n := w.ZCard(t.Context(), keyUnsettled).Val(); n != 0 || w.Exists(t.Context(), keyA).Val() != 0 || len(seen) != 0 {
			t.Errorf(value+": %d teams are to be settled, or the change is still there; %v", "E", n, seen)
		}
	}
	w, seen := newWriter(t)
	got := w.begin(w.store, asks("team-a", ""), Acquired)
	w.do("SET", "{teamtoken}:ended:"+w.field(keyA, "holder"), w.field(keyA, "epoch")+" 0")
	w.do("HDEL", keyA, "holder")
	w.end(w.store, got.Lock, Release{CurrentTokenID: "at-1", Record: RecordCompleted})
	w.do("HSET", keyA, "until", "1", "due", "1")
	if _, ok, err := w.store.AcquireInDoubt(t.Context(), "team-a", NewOwner()); ok || err != nil || seen[sealedChange] != 1 {
		t.Errorf("with the lock taken away: to be settled: %v, %v, %v", ok, err, seen)
	}
}

// What is longer than this service writes is not even read: it would cost each replica
// that much memory.
func TestLongValuesAreNotRead(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 512<<10)
	for name, write := range map[string]func(w *writer){
		"change": func(w *writer) {
			w.do("HSET", keyA, "change", long, "by", "x")
			w.do("ZADD", keyUnsettled, "1", "team-a")
		},
		"by": func(w *writer) {
			w.do("HSET", keyA, "change", "x", "by", long)
			w.do("ZADD", keyUnsettled, "1", "team-a")
		},
		"known":  func(w *writer) { w.do("HSET", keyA, "known", long, "known_by", long) },
		"record": func(w *writer) { w.do("SET", "{teamtoken}:record:r", long) },
		"answer": func(w *writer) { w.done(w.store, "team-a", "r", "at-1"); w.do("SET", "{teamtoken}:answer:r", long) },
		"team":   func(w *writer) { w.do("ZADD", keyUnsettled, "1", long) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := newWriter(t)
			write(w)
			before := sent(t, w.Client)
			_, _ = w.store.ListInDoubt(t.Context())
			_, _, _ = w.store.AcquireInDoubt(t.Context(), "team-a", NewOwner())
			_, _ = w.store.Acquire(t.Context(), asks("team-a", "r"))
			if n := sent(t, w.Client) - before; n > 128<<10 {
				t.Errorf("Redis sent %d bytes", n)
			}
		})
	}
}

// sent is how much Redis has sent to its clients.
func sent(t *testing.T, c *redis.Client) int {
	t.Helper()
	for line := range strings.Lines(must(c.Info(t.Context(), "stats").Result())) {
		if value, ok := strings.CutPrefix(line, "total_net_output_bytes:"); ok {
			return must(strconv.Atoi(strings.TrimSpace(value)))
		}
	}
	t.Fatal("Redis does not say how much it has sent")
	return 0
}
