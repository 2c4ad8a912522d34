package mutation

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// leaseKeeper renews a lock's lease for as long as the lock is used. It is an
// upstream.Lease, which ends with the lease: when another has the lock, or when the lease
// could not be renewed in time.
type leaseKeeper struct {
	lock    state.Lock
	lease   time.Duration
	expires atomic.Int64 // in nanoseconds from lock.RequestedAt
	cancel  context.CancelFunc
	ctx     context.Context //nolint:containedctx // of the lease
	timer   *time.Timer     // of the next renewal
}

var errLeaseOver = errors.New("the lease ended before the request was sent")

// Done is of upstream.Lease.
func (k *leaseKeeper) Done() <-chan struct{} { return k.ctx.Done() }

// Err is of upstream.Lease.
func (k *leaseKeeper) Err() error {
	if k.ctx.Err() != nil || time.Since(k.lock.RequestedAt) >= time.Duration(k.expires.Load()) {
		return errLeaseOver
	}
	return nil
}

// keepAlive renews the lease of a lock until stop is called. The lease is nil if locks of
// the store last for ever.
func (e *Engine) keepAlive(ctx context.Context, l state.Lock) (_ upstream.Lease, stop func()) {
	lease := e.store.Lease()
	if lease == 0 {
		return nil, func() {}
	}
	k := &leaseKeeper{lock: l, lease: lease}
	k.ctx, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	k.expires.Store(int64(lease))
	k.timer = time.AfterFunc(time.Hour, func() { e.renew(k) })
	k.timer.Reset(lease / 3)
	return k, func() { k.cancel(); k.timer.Stop() } // which would keep the call in memory until then
}

func (e *Engine) renew(k *leaseKeeper) {
	if k.ctx.Err() != nil {
		return
	}
	asked := time.Since(k.lock.RequestedAt)
	left := time.Duration(k.expires.Load()) - asked
	ctx, cancel := context.WithTimeout(k.ctx, max(left, 0))
	err := e.store.Renew(ctx, k.lock)
	cancel()
	switch {
	case err == nil:
		left = k.lease
		k.expires.Store(int64(asked + left))
	case errors.Is(err, state.ErrFenced), k.Err() != nil:
		k.cancel()
		return
	}
	k.timer.Reset(min(k.lease/3, left/2))
}
