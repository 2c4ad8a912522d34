package upstream_test

import (
	"context"
	"time"

	"github.com/teamtoken/teamtoken/internal/upstream"
)

// newClient is upstream.New, without a pace and without an observer unless there is one.
func newClient(o upstream.Options) (*upstream.Client, error) {
	if o.OnAttempt == nil {
		o.OnAttempt = func(context.Context, upstream.Attempt) {}
	}
	if o.RateLimiter == nil {
		o.RateLimiter = unpaced{}
	}
	return upstream.New(o)
}

// unpaced sends every request at once.
type unpaced struct{}

func (unpaced) Wait(context.Context, bool) *upstream.Error { return nil }
func (unpaced) SetLimit(context.Context, float64)          {}
func (unpaced) Block(context.Context, time.Duration)       {}
