package upstream_test

import (
	"context"
	"time"

	"github.com/teamtoken/teamtoken/internal/upstream"
)

// newClient is upstream.New, without a pace and without an observer unless there is one.
func newClient(o upstream.Options) (*upstream.Client, error) {
	if o.Observe == nil {
		o.Observe = func(context.Context, upstream.Attempt) {}
	}
	if o.Pacer == nil {
		o.Pacer = unpaced{}
	}
	return upstream.New(o)
}

// unpaced sends every request at once.
type unpaced struct{}

func (unpaced) Permit(context.Context, bool) *upstream.Error { return nil }
func (unpaced) Learn(context.Context, float64)               {}
func (unpaced) Pause(context.Context, time.Duration)         {}
