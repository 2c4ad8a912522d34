package fairqueue_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/fairqueue"
)

// Calls are served in this order, whatever order they come in. A call is its class
// and its caller: "0a" is one of caller a in the first class.
func TestOrder(t *testing.T) {
	for _, row := range []struct {
		name    string
		weights []int
		came    string
		served  string
	}{
		{"one caller, first come first served", []int{1}, "0a 0a 0a", "0a 0a 0a"},
		{"callers take turns", []int{1}, "0a 0a 0a 0b 0c 0b", "0a 0b 0c 0a 0b 0a"},
		{"a greedy caller costs another one call", []int{1}, strings.Repeat("0a ", 90) + "0b", "0a 0b " + strings.Repeat("0a ", 89)},
		{
			"classes share by weight",
			[]int{3, 1},
			strings.Repeat("0a ", 6) + strings.Repeat("1b ", 3),
			"0a 0a 1b 0a 0a 0a 1b 0a 1b",
		},
		{"callers take turns in each class", []int{3, 1}, "1a 1a 1b 0c 0c 0d", "0c 0d 1a 0c 1b 1a"},
		{"a lone class has all", []int{3, 1}, "1a 1b 1a", "1a 1b 1a"},
		{"without weight after all others", []int{1, 0, 0}, "2x 1y 2z 1y 0a 0a", "0a 0a 1y 1y 2x 2z"},
		{"the anonymous are one caller", []int{1}, "0 0 0a", "0 0a 0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := fairqueue.New(row.weights...)
				if !l.TryAcquire("somebody") || l.TryAcquire("another") {
					t.Fatal("one holds it")
				}
				var served []string
				came := strings.Fields(row.came)
				for _, call := range came {
					go func() {
						if _, ok := l.Acquire(t.Context(), int(call[0]-'0'), call[1:]); !ok {
							t.Error("it was not served")
						}
						served = append(served, call)
						l.Release()
					}()
					synctest.Wait()
				}
				if n := l.Waiting(); n != len(came) {
					t.Errorf("%d wait", n)
				}
				l.Release()
				synctest.Wait()
				if want := strings.Fields(row.served); !slices.Equal(served, want) {
					t.Errorf("%q, want %q", served, want)
				}
				if l.Held() || l.Waiting() != 0 {
					t.Error("it is not free in the end")
				}
			})
		})
	}
}

// A call that leaves the queue costs nobody anything, and is told who was ahead.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fairqueue.New(1, 0)
		l.TryAcquire("a")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		type result struct{ ownAhead, ok bool }
		var mu sync.Mutex
		got := map[string]result{}
		acquire := func(name string, class int, caller string) {
			go func() {
				ownAhead, ok := l.Acquire(short, class, caller)
				mu.Lock()
				defer mu.Unlock()
				got[name] = result{ownAhead, ok}
			}()
			synctest.Wait()
		}
		acquire("behind the holder, who is another caller", 0, "b")
		acquire("behind a call of its own", 0, "b")
		acquire("behind itself, who holds it", 0, "a")
		acquire("in another class", 1, "c")
		served := 0
		for range 3 {
			go func() {
				if _, ok := l.Acquire(t.Context(), 0, "patient"); ok {
					served++
					l.Release()
				}
			}()
		}
		if synctest.Wait(); !l.Outranked(1) || l.Outranked(0) {
			t.Error("calls of the first class are served before those of the second, and not the other way round")
		}
		time.Sleep(2 * time.Second)
		l.Release()
		synctest.Wait()
		want := map[string]result{
			"behind the holder, who is another caller": {false, false}, "behind a call of its own": {true, false},
			"behind itself, who holds it": {true, false}, "in another class": {false, false},
		}
		if !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if served != 3 || l.Held() || l.Waiting() != 0 {
			t.Errorf("%d of 3 were served, %d wait", served, l.Waiting())
		}
	})
}

// A call that is given the lock in the moment in which its time ends passes it on.
func TestLeaveAsItIsServed(t *testing.T) {
	for range 1000 {
		l := fairqueue.New(1)
		l.TryAcquire("a")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			_, ok := l.Acquire(ctx, 0, "b")
			done <- ok
		}()
		for l.Waiting() == 0 {
			time.Sleep(time.Microsecond)
		}
		go cancel()
		l.Release()
		if <-done {
			l.Release()
		}
		if l.Held() {
			t.Fatal("nobody has it, and it is held")
		}
	}
}

// Somebody may keep the next one waiting.
func TestReleaseAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fairqueue.New(1)
		l.TryAcquire("a")
		l.ReleaseAfter(time.Minute)
		start := time.Now()
		if _, ok := l.Acquire(t.Context(), 0, "b"); !ok || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", ok, time.Since(start))
		}
	})
}
