package interceptor

import (
	"sync"
	"time"
)

// shares count the calls that each caller has under way.
type shares struct {
	limit int // of one caller; 0 has none
	mu    sync.Mutex
	calls map[string]int
}

// shareRetry is what a caller over his share is told to wait.
const shareRetry = time.Second

// take counts one more call of a caller, until it is given back; ok is false if
// he has as many as he may.
func (s *shares) take(id string) (giveBack func(), ok bool) {
	if s.limit == 0 {
		return func() {}, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[id] >= s.limit {
		return nil, false
	}
	if s.calls == nil {
		s.calls = make(map[string]int)
	}
	s.calls[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.calls[id]--; s.calls[id] == 0 {
			delete(s.calls, id)
		}
	}, true
}
