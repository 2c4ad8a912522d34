package interceptor

import (
	"sync"
	"time"
)

// slots bound the calls that each caller has under way.
type slots struct {
	limit int // of one caller; 0 has none
	mu    sync.Mutex
	taken map[string]int
}

// slotRetryAfter is what a caller without a free slot is told to wait.
const slotRetryAfter = time.Second

// tryAcquire takes a slot of a caller, until it is released; ok is false if none is
// free.
func (s *slots) tryAcquire(id string) (release func(), ok bool) {
	if s.limit == 0 {
		return func() {}, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] >= s.limit {
		return nil, false
	}
	if s.taken == nil {
		s.taken = make(map[string]int)
	}
	s.taken[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.taken[id]--; s.taken[id] == 0 {
			delete(s.taken, id)
		}
	}, true
}
