package ratelimit_test

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(perSecond float64, store state.Store) *ratelimit.Limiter {
	if store == nil {
		store = state.NewMemory(state.NewTTLs(time.Second))
	}
	return ratelimit.New(perSecond, store, slog.New(slog.DiscardHandler), nil)
}

func by(ctx context.Context, id string) context.Context {
	return calls.NewContext(ctx, &calls.Call{Caller: caller.Caller{ID: id}, Credential: calls.From(ctx).Credential})
}

func withCredential(ctx context.Context, credential secret.Text) context.Context {
	return calls.NewContext(ctx, &calls.Call{Caller: calls.From(ctx).Caller, Credential: credential})
}

// Callers take turns, and three changes go for each read, in whatever order they
// came.
func TestOrder(t *testing.T) {
	b := open(100, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pass, _ := b.Enqueue(ctx, true) // keeps all others waiting
	var mu sync.Mutex
	var order []string
	var all sync.WaitGroup
	queue := func(name, id string, mutates bool) {
		waiting := b.QueueLen()
		all.Go(func() {
			p, err := b.Enqueue(by(ctx, id), mutates)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			b.Abort(p, 0)
		})
		for b.QueueLen() == waiting {
			time.Sleep(time.Millisecond) // until it stands in line
		}
	}
	queue("read 1", "reader", false)
	queue("greedy 1", "greedy", true)
	queue("greedy 2", "greedy", true)
	queue("greedy 3", "greedy", true)
	queue("modest 1", "modest", true)
	queue("read 2", "reader", false)
	queue("modest 2", "modest", true)
	b.Abort(pass, 0)
	all.Wait()
	want := []string{"greedy 1", "modest 1", "read 1", "greedy 2", "modest 2", "greedy 3", "read 2"}
	if !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// A call without room is told whose calls were in its way.
func TestWhoseLimit(t *testing.T) {
	credential := withCredential(t.Context(), secret.New("a caller's own"))
	for _, row := range []struct {
		name          string
		holder, asker context.Context
		paused        bool
		want          upstream.Kind
	}{
		{"calls of another caller", by(t.Context(), "greedy"), by(t.Context(), "modest"), false, upstream.Exhausted},
		{"its own calls", by(t.Context(), "greedy"), by(t.Context(), "greedy"), false, upstream.LocallyRateLimited},
		{"nobody knows whose", t.Context(), t.Context(), false, upstream.Exhausted},
		{"its own credential's", by(credential, "a"), by(credential, "b"), false, upstream.LocallyRateLimited},
		{"the upstream's", by(t.Context(), "greedy"), by(t.Context(), "greedy"), true, upstream.RateLimited},
	} {
		for _, mutates := range []bool{false, true} {
			b := open(10, nil)
			pass, err := b.Enqueue(row.holder, mutates)
			if err != nil {
				t.Fatal(err)
			}
			if row.paused {
				b.Block(row.holder, 30*time.Second)
			}
			ctx, cancel := context.WithTimeout(row.asker, time.Minute)
			go func() {
				for b.QueueLen() == 0 {
					time.Sleep(time.Millisecond) // until it stands in line
				}
				cancel()
			}()
			if _, err = b.Enqueue(ctx, mutates); err == nil || err.RetryAfter <= 0 || err.Kind != row.want {
				t.Errorf("%s, mutates %v: %+v, want %v", row.name, mutates, err, row.want)
			}
			b.Abort(pass, 0)
		}
	}
}

// Who has no time is told how long it would have been, and leaves no trace.
func TestNoTime(t *testing.T) {
	b := open(1, nil)
	for range 2 { // at once, after a pause
		if err := b.Wait(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := b.Wait(ctx, true)
	if err == nil || err.Kind != upstream.Exhausted || err.RetryAfter <= 0 {
		t.Fatalf("%+v", err)
	}
	var reserved atomic.Bool
	reserved.Store(true)
	if err := b.Wait(upstream.WithSend(ctx, upstream.Send{Reserved: &reserved}), true); err != nil || reserved.Load() {
		t.Errorf("there was room for it already: %v", err)
	}
}

// After a 429 nobody asks before its time, and all are told that it is the
// upstream's limit.
func TestBlock(t *testing.T) {
	b := open(1000, nil)
	b.Block(t.Context(), 30*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Wait(ctx, false); err == nil || err.Kind != upstream.RateLimited || err.RetryAfter < 20*time.Second {
		t.Errorf("%+v", err)
	}
	other := withCredential(ctx, secret.New("another user's"))
	if err := b.Wait(other, false); err != nil {
		t.Errorf("another user has his own limit: %v", err)
	}
}

// The upstream's own limit is believed of the credential that it was said of, from 1
// a second to the rate that is set, and for as long as it says so.
func TestLearn(t *testing.T) {
	service := t.Context()
	invented := withCredential(service, secret.New("invented"))
	type said struct {
		of    context.Context
		limit float64
	}
	for _, row := range []struct {
		name string
		said []said
		rate float64 // of the service's credential
	}{
		{"nothing", nil, 27},
		{"a lower one", []said{{service, 10}}, 9},
		{"a higher one", []said{{service, 1e5}}, 27},
		{"a lower one, and then the old one", []said{{service, 10}, {service, 30}}, 27},
		{"a lower one, and then a higher one", []said{{service, 10}, {service, 1000}}, 27},
		{"a lower one, and then one between", []said{{service, 10}, {service, 20}}, 18},
		{"lower and lower", []said{{service, 20}, {service, 10}}, 9},
		{"the lowest", []said{{service, 1}}, 0.9},
		{"too low to be one", []said{{service, 0.99}}, 27},
		{"none", []said{{service, 0}}, 27},
		{"a negative one", []said{{service, -5}}, 27},
		{"no number", []said{{service, math.NaN()}}, 27},
		{"no end", []said{{service, 10}, {service, math.Inf(1)}}, 9},
		{"garbage after a lower one", []said{{service, 10}, {service, 1e9}, {service, -1}, {service, math.NaN()}}, 9},
		{"of another credential", []said{{invented, 1}}, 27},
		{"of both", []said{{service, 20}, {invented, 1}}, 18},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := open(27, nil)
			for _, s := range row.said {
				b.SetLimit(s.of, s.limit)
			}
			if got := b.Rate(); got != row.rate {
				t.Errorf("%v requests in a second, want %v", got, row.rate)
			}
			p, err := b.Enqueue(service, false)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Abort(p, 0)
			if got := float64(time.Second) / float64(p.Slot.Interval); math.Abs(got-row.rate) > 0.01 {
				t.Errorf("a request is paced as if %v went in a second, want %v", got, row.rate)
			}
		})
	}
}

// Without a rate nothing is learnt: the operator wants none.
func TestLearnWithoutARate(t *testing.T) {
	b := open(0, nil)
	b.SetLimit(t.Context(), 1)
	b.Block(t.Context(), time.Hour)
	if err := b.Wait(t.Context(), true); err != nil || b.Rate() != 0 || b.Blocked() != 0 {
		t.Errorf("%v, %v requests in a second, paused for %v", err, b.Rate(), b.Blocked())
	}
}

// Whatever credentials callers make up, and whatever the upstream says of them, the
// memory that is kept of them is bounded.
func TestMemoryIsBounded(t *testing.T) {
	n := 50_000
	if os.Getenv("TEAMTOKEN_LONG") != "" {
		n = 1_000_000
	}
	away, err := state.OpenRedis(state.RedisOptions{URL: secret.New("redis://127.0.0.1:1"), Prefix: "x", Times: state.NewTTLs(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	for _, row := range []struct {
		name  string
		store state.Store
		then  func(b *ratelimit.Limiter, ctx context.Context)
	}{
		{"a request", nil, func(*ratelimit.Limiter, context.Context) {}},
		{"a limit", nil, func(b *ratelimit.Limiter, ctx context.Context) { b.SetLimit(ctx, 5) }},
		{"a 429", nil, func(b *ratelimit.Limiter, ctx context.Context) { b.Block(ctx, time.Hour) }},
		{"a request, without the state", away, func(*ratelimit.Limiter, context.Context) {}},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := n
			if row.store != nil {
				n /= 20 // a store that is away is slow
			}
			b := open(27, row.store)
			before := heap()
			for i := range n {
				ctx := withCredential(t.Context(), secret.New("invented "+strconv.Itoa(i)))
				if err := b.Wait(ctx, i%2 == 0); err != nil {
					t.Fatal(err)
				}
				row.then(b, ctx)
			}
			if grown := heap() - before; grown > 4<<20 {
				t.Errorf("%d KiB are kept of %d credentials", grown>>10, n)
			}
			runtime.KeepAlive(b)
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Without the shared state each replica has its part.
func TestAlone(t *testing.T) {
	away, err := state.OpenRedis(state.RedisOptions{URL: secret.New("redis://127.0.0.1:1"), Prefix: "x", Times: state.NewTTLs(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	b := open(50, away)
	b.SetReplicas(5)
	ctx, cancel := context.WithTimeout(t.Context(), 450*time.Millisecond)
	defer cancel()
	n := 0
	for b.Wait(ctx, false) == nil {
		n++
	}
	if n < 2 || n > 6 {
		t.Errorf("%d requests in 450 ms, of 10 a second", n)
	}
}
