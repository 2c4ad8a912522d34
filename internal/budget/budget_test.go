package budget_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(perSecond float64, store state.Store) *budget.Budget {
	if store == nil {
		store = state.NewMemory(state.NewTimes(time.Second))
	}
	return budget.New(perSecond, store, slog.New(slog.DiscardHandler), nil)
}

func by(ctx context.Context, id string) context.Context {
	return caller.NewContext(ctx, caller.Caller{ID: id})
}

// Callers take turns, and changes go before reads, in whatever order they came.
func TestOrder(t *testing.T) {
	b := open(100, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pass, _ := b.Enter(ctx, true) // keeps all others waiting
	var mu sync.Mutex
	var order []string
	var all sync.WaitGroup
	queue := func(name, id string, mutates bool) {
		waiting := b.Waiting(pass)
		all.Go(func() {
			p, err := b.Enter(by(ctx, id), mutates)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			b.Leave(p, 0)
		})
		for b.Waiting(pass) == waiting {
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
	b.Leave(pass, 0)
	all.Wait()
	want := []string{"greedy 1", "modest 1", "greedy 2", "modest 2", "greedy 3", "read 1", "read 2"}
	if !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// Who has no time is told how long it would have been, and leaves no trace.
func TestNoTime(t *testing.T) {
	b := open(1, nil)
	for range 2 { // at once, after a pause
		if err := b.Permit(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := b.Permit(ctx, true)
	if err == nil || err.Kind != upstream.Throttled || err.Wait <= 0 {
		t.Fatalf("%+v", err)
	}
	if err := b.Permit(budget.Prepaid(ctx), true); err != nil {
		t.Errorf("there was room for it already: %v", err)
	}
}

// After a 429 nobody asks before its time, and all are told that it is the
// upstream's limit.
func TestPause(t *testing.T) {
	b := open(1000, nil)
	b.Pause(t.Context(), 30*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Permit(ctx, false); err == nil || err.Kind != upstream.RateLimited || err.Wait < 20*time.Second {
		t.Errorf("%+v", err)
	}
	other := upstream.WithCredential(ctx, secret.New("another user's"))
	if err := b.Permit(other, false); err != nil {
		t.Errorf("another user has his own limit: %v", err)
	}
}

// The upstream's own limit is believed if it is lower, and nothing that is no limit.
func TestLearn(t *testing.T) {
	for _, row := range []struct {
		name   string
		taught float64
		slow   bool
	}{
		{"a lower one", 2, true},
		{"a higher one", 1e6, false},
		{"none", 0, false},
		{"a negative one", -5, false},
	} {
		b := open(1000, nil)
		b.Learn(row.taught)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		var err *upstream.Error
		for range 5 {
			if err == nil {
				err = b.Permit(ctx, true)
			}
		}
		cancel()
		if (err != nil) != row.slow {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// Without the shared state each replica has its part.
func TestAlone(t *testing.T) {
	away, err := state.OpenRedis(state.RedisOptions{URL: secret.New("redis://127.0.0.1:1"), Prefix: "x", Times: state.NewTimes(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	b := open(50, away)
	b.Shared(5)
	ctx, cancel := context.WithTimeout(t.Context(), 450*time.Millisecond)
	defer cancel()
	n := 0
	for b.Permit(ctx, false) == nil {
		n++
	}
	if n < 2 || n > 6 {
		t.Errorf("%d requests in 450 ms, of 10 a second", n)
	}
}
