// Package fairqueue is a lock whose waiters are served fairly: callers take turns,
// however many calls each has waiting, and the calls of one caller are served in
// the order in which they came.
//
// Waiters are in classes. Classes with a weight share the lock by their weights, so
// that none of them starves. A class without a weight is served only while no class
// before it has a waiter.
package fairqueue

import (
	"context"
	"sync"
	"time"
)

// Lock is held by one caller at a time. It is safe for concurrent use.
type Lock struct {
	mu      sync.Mutex
	held    bool
	owner   string
	weights []int
	classes []class // made for the first waiter: most locks never have one
}

type class struct {
	queue

	credit int
}

type waiter struct {
	caller string
	served chan struct{}
}

// New returns a lock with a class for each weight, which may be 0. It keeps weights.
func New(weights ...int) *Lock { return &Lock{weights: weights} }

// TryAcquire takes the lock if nobody holds it.
func (l *Lock) TryAcquire(caller string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tryAcquire(caller)
}

func (l *Lock) tryAcquire(caller string) bool {
	if l.held {
		return false
	}
	l.held, l.owner = true, caller
	return true
}

// Acquire waits for the lock, and reports whether it was there before ctx ended.
// ownAhead says that calls of the same caller had it, or were ahead in the queue, when
// this one came.
func (l *Lock) Acquire(ctx context.Context, class int, caller string) (ownAhead, ok bool) {
	l.mu.Lock()
	if l.tryAcquire(caller) {
		l.mu.Unlock()
		return false, true
	}
	q := l.queueOf(class)
	ownAhead = l.owner == caller || len(q.callers[caller]) > 0
	w := &waiter{caller: caller, served: make(chan struct{})}
	q.push(w)
	l.mu.Unlock()
	select {
	case <-w.served:
		return ownAhead, true
	case <-ctx.Done():
	}
	l.mu.Lock()
	waiting := q.remove(w)
	l.mu.Unlock()
	if !waiting { // the lock came at this very moment
		l.Release()
	}
	return ownAhead, false
}

func (l *Lock) queueOf(i int) *queue {
	if l.classes == nil {
		l.classes = make([]class, len(l.weights))
	}
	return &l.classes[i].queue
}

// Release gives the lock to the next waiter.
func (l *Lock) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.next()
	if next == nil {
		l.held, l.owner = false, ""
		return
	}
	w := next.pop()
	l.owner = w.caller
	close(w.served)
}

// ReleaseAfter gives the lock to the next waiter after d.
func (l *Lock) ReleaseAfter(d time.Duration) {
	if d <= 0 {
		l.Release()
		return
	}
	time.AfterFunc(d, l.Release)
}

// next is the class whose turn it is, by smooth weighted round robin among those
// with waiters; nil if nobody waits.
func (l *Lock) next() *class {
	var best, rest *class
	total := 0
	for i := range l.classes {
		c := &l.classes[i]
		switch {
		case c.length == 0:
			c.credit = 0 // nothing is saved up while nobody waits
		case l.weights[i] == 0:
			if rest == nil {
				rest = c
			}
		default:
			total += l.weights[i]
			c.credit += l.weights[i]
			if best == nil || c.credit > best.credit {
				best = c
			}
		}
	}
	if best == nil {
		return rest
	}
	best.credit -= total
	return best
}

// Outranked reports whether a call waits that is served before any of this class.
func (l *Lock) Outranked(class int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.classes == nil || l.weights[class] > 0 {
		return false
	}
	for i := range class {
		if l.classes[i].length > 0 {
			return true
		}
	}
	return false
}

// Waiting is how many calls wait.
func (l *Lock) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.classes {
		n += l.classes[i].length
	}
	return n
}

// Held reports whether somebody holds the lock.
func (l *Lock) Held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
