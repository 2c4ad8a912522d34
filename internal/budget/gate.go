package budget

import (
	"context"
	"slices"
	"sync"
	"time"
)

// gate lets one pass at a time, and decides who is next.
type gate struct {
	users int // who uses it; guarded by the budget

	mu      sync.Mutex
	busy    bool
	changes line
	reads   line
}

// line is who waits: each caller in his own queue, the callers in turn.
type line struct {
	order  []string // callers with somebody waiting
	queues map[string][]*waiter
	length int
}

type waiter struct{ turn chan struct{} }

func (l *line) push(id string, w *waiter) {
	if l.queues == nil {
		l.queues = make(map[string][]*waiter)
	}
	if len(l.queues[id]) == 0 {
		l.order = append(l.order, id)
	}
	l.queues[id] = append(l.queues[id], w)
	l.length++
}

// pop takes the first of the caller whose turn it is, who then goes to the end.
func (l *line) pop() *waiter {
	if len(l.order) == 0 {
		return nil
	}
	id := l.order[0]
	l.order = l.order[1:]
	queue := l.queues[id]
	w := queue[0]
	l.length--
	if len(queue) == 1 {
		delete(l.queues, id)
		return w
	}
	l.queues[id] = queue[1:]
	l.order = append(l.order, id)
	return w
}

// remove takes w out, and reports whether it was there.
func (l *line) remove(id string, w *waiter) bool {
	queue := l.queues[id]
	i := slices.Index(queue, w)
	if i < 0 {
		return false
	}
	l.length--
	if len(queue) == 1 {
		delete(l.queues, id)
		l.order = slices.DeleteFunc(l.order, func(other string) bool { return other == id })
		return true
	}
	l.queues[id] = slices.Delete(queue, i, i+1)
	return true
}

// enter waits for the gate, and reports whether it was there before ctx ended.
func (g *gate) enter(ctx context.Context, id string, mutates bool) bool {
	g.mu.Lock()
	if !g.busy {
		g.busy = true
		g.mu.Unlock()
		return true
	}
	l := &g.reads
	if mutates {
		l = &g.changes
	}
	w := &waiter{turn: make(chan struct{})}
	l.push(id, w)
	g.mu.Unlock()
	select {
	case <-w.turn:
		return true
	case <-ctx.Done():
	}
	g.mu.Lock()
	waiting := l.remove(id, w)
	g.mu.Unlock()
	if !waiting { // it was let in at this very moment
		g.next()
	}
	return false
}

// leave lets the next one in, after wait.
func (g *gate) leave(wait time.Duration) {
	if wait <= 0 {
		g.next()
		return
	}
	time.AfterFunc(wait, g.next)
}

func (g *gate) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.changes.pop()
	if w == nil {
		w = g.reads.pop()
	}
	if w == nil {
		g.busy = false
		return
	}
	close(w.turn)
}

// length is how many wait.
func (g *gate) length() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changes.length + g.reads.length
}

func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.busy
}
