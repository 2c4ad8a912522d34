package fairqueue

import "slices"

// queue holds the waiters of each caller in the order in which they came. Callers
// take turns.
type queue struct {
	order   []string // callers with a waiter, the next one first
	callers map[string][]*waiter
	length  int
}

func (q *queue) push(w *waiter) {
	if q.callers == nil {
		q.callers = make(map[string][]*waiter)
	}
	if len(q.callers[w.caller]) == 0 {
		q.order = append(q.order, w.caller)
	}
	q.callers[w.caller] = append(q.callers[w.caller], w)
	q.length++
}

// pop removes the first waiter of the next caller, who then goes to the end.
func (q *queue) pop() *waiter {
	caller := q.order[0]
	q.order = q.order[1:]
	waiting := q.callers[caller]
	q.length--
	if len(waiting) == 1 {
		delete(q.callers, caller)
		return waiting[0]
	}
	q.callers[caller] = waiting[1:]
	q.order = append(q.order, caller)
	return waiting[0]
}

// remove reports whether w was still in the queue.
func (q *queue) remove(w *waiter) bool {
	waiting := q.callers[w.caller]
	i := slices.Index(waiting, w)
	if i < 0 {
		return false
	}
	q.length--
	if len(waiting) > 1 {
		q.callers[w.caller] = slices.Delete(waiting, i, i+1)
		return true
	}
	delete(q.callers, w.caller)
	q.order = slices.DeleteFunc(q.order, func(other string) bool { return other == w.caller })
	return true
}
