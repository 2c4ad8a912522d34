package mutation

import (
	"context"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/fairqueue"
)

// lockQueues hold, for each team, the calls of this process that want the team's lock.
// The first one polls for the lock or holds it; the others wait in a fair queue until
// they are the first. The zero value is ready.
type lockQueues struct {
	mu    sync.Mutex
	teams map[string]*lockQueue
}

type lockQueue struct {
	fair     *fairqueue.Lock
	released chan struct{} // has a value when the lock may be free; nil until somebody waits for one
	users    int
}

// waiter is a call in the queue of a team.
type waiter struct {
	queues *lockQueues
	team   string
	caller string
	queue  *lockQueue
	rank   rank
	tested bool // the rank is what the upstream said just now
	first  bool // it may ask for the lock, or holds it
}

// untested reports whether the upstream has to be asked about the call's credential
// before it may wait.
func (w *waiter) untested() bool { return w.rank != accepted && !w.tested }

// join enters the queue of a team. It is the first at once if nobody
// else is there. The caller must leave it.
func (q *lockQueues) join(team, caller string, r rank) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.teams == nil {
		q.teams = make(map[string]*lockQueue)
	}
	own := q.teams[team]
	if own == nil {
		own = &lockQueue{fair: fairqueue.New(rankWeights...)}
		q.teams[team] = own
	}
	own.users++
	return &waiter{queues: q, team: team, caller: caller, queue: own, rank: r, first: own.fair.TryAcquire(caller)}
}

// acquire waits to be the first, and reports whether that was before ctx ended.
func (w *waiter) acquire(ctx context.Context) bool {
	if w.first {
		return ctx.Err() == nil
	}
	_, w.first = w.queue.fair.Acquire(ctx, int(w.rank), w.caller)
	return w.first && ctx.Err() == nil
}

// yield lets another one be the first.
func (w *waiter) yield() {
	if w.first {
		w.first = false
		w.queue.fair.Release()
	}
}

// pause waits until the lock may be free, d at the most. If a call of a better rank
// waits, pause lets that one be the first and waits to be the first again. It reports
// false if ctx ended.
func (w *waiter) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.queues.signals(w.queue):
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	if w.queue.fair.Outranked(int(w.rank)) {
		w.yield()
		return w.acquire(ctx)
	}
	return true
}

// leave leaves the queue, which may be done twice.
func (w *waiter) leave() {
	if w.queue == nil {
		return
	}
	w.yield()
	w.queues.mu.Lock()
	defer w.queues.mu.Unlock()
	if w.queue.users--; w.queue.users == 0 {
		delete(w.queues.teams, w.team)
	}
	w.queue = nil
}

// signals has a value when the lock may be free.
func (q *lockQueues) signals(own *lockQueue) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if own.released == nil {
		own.released = make(chan struct{}, 1)
	}
	return own.released
}

// signal tells the first of a team that the lock may be free.
func (q *lockQueues) signal(team string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if own := q.teams[team]; own != nil {
		select {
		case own.released <- struct{}{}:
		default:
		}
	}
}
