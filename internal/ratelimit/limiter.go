package ratelimit

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

const (
	// burst is how many requests may leave at once after a pause: no more, since the
	// upstream counts them all in one second.
	burst = 2
	// headroom is how much of the upstream's own limit is used.
	headroom = 0.9
	// maxPause bounds what one answer of the upstream can do to all callers.
	maxPause = time.Minute
	// minLimit and maxLimit bound the limits that are believed, in requests a second.
	minLimit = 1
	maxLimit = 1e6
	// defaultMaxWait is how long those wait who have no deadline.
	defaultMaxWait = time.Minute
	// service is the bucket of the service's own credential.
	service = "service"
)

// Limiter is what may be asked of the upstream. It is safe for concurrent use.
type Limiter struct {
	store    state.Store
	log      *slog.Logger
	onWait   func(ctx context.Context, changes bool, d time.Duration)
	interval time.Duration // between two requests, as it is set; 0 has no limit
	replicas atomic.Int64  // that share it, as was last known

	mu      sync.Mutex
	buckets buckets
}

// New returns a limiter of perSecond requests, for all replicas together; 0 has no
// limit. waited, if it is not nil, is told how long each request waited for a slot.
func New(perSecond float64, store state.Store, log *slog.Logger, waited func(ctx context.Context, changes bool, d time.Duration)) *Limiter {
	if waited == nil {
		waited = func(context.Context, bool, time.Duration) {}
	}
	b := &Limiter{store: store, log: log, onWait: waited}
	if perSecond > 0 {
		b.interval = time.Duration(float64(time.Second) / perSecond)
	}
	b.replicas.Store(1)
	return b
}

// SetReplicas tells how many replicas share the rate.
func (b *Limiter) SetReplicas(replicas int) { b.replicas.Store(int64(max(replicas, 1))) }

// Rate is how many requests may be made in a second with the service's credential,
// or with any one of the callers'; 0 is no limit.
func (b *Limiter) Rate() float64 {
	if b.interval == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	interval := b.interval
	if own := b.buckets.byName[service]; own != nil {
		interval = max(interval, own.learned)
	}
	return math.Round(1e3*float64(time.Second)/float64(interval)) / 1e3
}

// QueueLen is how many requests of this replica wait for their turn to ask for a slot.
func (b *Limiter) QueueLen() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, x := range b.buckets.byName {
		n += x.queue.Waiting()
	}
	return n
}

// Blocked is for how long the upstream takes no requests with the service's credential,
// or with one of the callers' that it has accepted, by what it told this replica.
func (b *Limiter) Blocked() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := time.Duration(0)
	for name, x := range b.buckets.byName {
		if name == service || x.accepted {
			longest = max(longest, time.Until(x.blockedUntil))
		}
	}
	return longest
}

// SetLimit is of upstream.Pacer. The rate of the credential's bucket is nine tenths of
// what the upstream takes, and at most the one that is set: it rises again when the
// upstream says more.
func (b *Limiter) SetLimit(ctx context.Context, perSecond float64) {
	if b.interval == 0 || !(perSecond >= minLimit && perSecond <= maxLimit) { // NaN is neither
		return
	}
	learned := time.Duration(float64(time.Second) / (headroom * perSecond))
	if learned <= b.interval {
		learned = 0
	}
	name := KeyFor(ctx)
	b.mu.Lock()
	x := b.buckets.byName[name]
	if x == nil && learned > 0 {
		x = b.buckets.get(name, time.Now())
	}
	changed := x != nil && x.learned != learned
	if x != nil {
		x.learned, x.accepted = learned, true
	}
	b.mu.Unlock()
	switch {
	case !changed || name != service: // a caller's own limit is nothing to an operator
	case learned > 0:
		b.log.Warn("the upstream takes fewer requests than TEAMTOKEN_UPSTREAM_RATE: the rate is lowered", telemetry.KeyRate, headroom*perSecond)
	default:
		b.log.Info("the upstream takes as many requests as TEAMTOKEN_UPSTREAM_RATE again", telemetry.KeyRate, b.Rate())
	}
}

// KeyFor names the rate of a call: the service's own credential's, or that of
// the caller's.
func KeyFor(ctx context.Context) string {
	credential := calls.From(ctx).Credential
	if credential.IsZero() {
		return service
	}
	return secret.Fingerprint(credential)
}

// use returns the bucket of a name and a request for a slot in it. The bucket stays
// known until it is given back by unuse.
func (b *Limiter) use(ctx context.Context, name string) (*bucket, state.RateRequest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.buckets.get(name, time.Now())
	x.users++
	return x, b.slot(ctx, name, x)
}

func (b *Limiter) unuse(x *bucket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x.users--
}

// slot is a request for a slot that is free before ctx ends. The caller holds mu.
func (b *Limiter) slot(ctx context.Context, name string, x *bucket) state.RateRequest {
	interval := max(b.interval, x.learned)
	most := defaultMaxWait
	if end, ok := ctx.Deadline(); ok {
		most = max(time.Until(end), 0)
	}
	return state.RateRequest{Key: name, Interval: interval, Burst: (burst - 1) * interval, MaxWait: most}
}

// Ticket is the right to ask for a slot, which one has at a time.
type Ticket struct {
	bucket  *bucket           // nil without a limit
	Slot    state.RateRequest // to ask for
	changes bool
	own     bool // calls of the same caller were in its way
	queued  time.Duration
}

// Enqueue waits until it is this call's turn to ask for a slot. The ticket must be given
// back.
func (b *Limiter) Enqueue(ctx context.Context, mutates bool) (Ticket, *upstream.Error) {
	name := KeyFor(ctx)
	if b.interval == 0 {
		return Ticket{Slot: state.RateRequest{Key: name}}, nil
	}
	x, slot := b.use(ctx, name)
	if left := b.blockedFor(x); left > slot.MaxWait {
		b.unuse(x)
		return Ticket{}, &upstream.Error{Kind: upstream.RateLimited, RetryAfter: left}
	}
	came := time.Now()
	who := calls.From(ctx).Caller.ID
	ownAhead, ok := x.queue.Acquire(ctx, classOf(mutates), who)
	b.mu.Lock()
	p := Ticket{
		bucket: x, Slot: b.slot(ctx, name, x), changes: mutates, queued: time.Since(came),
		own: name != service || ownAhead && who != "", // nobody knows whose the calls of the anonymous are
	}
	b.mu.Unlock()
	if !ok {
		defer b.unuse(x)
		err := b.ErrExhausted(p, slot.Interval*time.Duration(1+x.queue.Waiting()))
		err.Cause = context.Cause(ctx)
		return Ticket{}, err
	}
	return p, nil
}

// maxLockedWait is how long a slot may be waited for with a lock that others want.
const maxLockedWait = time.Second

// Within is the request of a ticket for a slot that is free soon: what the replicas have
// asked for before, and not a time after a 429.
func (b *Limiter) Within(p Ticket) state.RateRequest {
	s := p.Slot
	s.MaxWait = min(s.MaxWait, max(maxLockedWait, 2*s.Interval*time.Duration(b.replicas.Load())))
	return s
}

// Commit gives the ticket back with a slot that is free after wait, waits for that, and
// reports whether it did before ctx ended.
func (b *Limiter) Commit(ctx context.Context, p Ticket, wait time.Duration) bool {
	b.Abort(p, wait)
	if p.bucket != nil {
		b.onWait(ctx, p.changes, p.queued+wait)
	}
	return Sleep(ctx, wait)
}

// Abort gives the ticket back, and has the next one asked for after wait: when the
// slot that was given is free.
func (b *Limiter) Abort(p Ticket, wait time.Duration) {
	if p.bucket == nil {
		return
	}
	p.bucket.queue.ReleaseAfter(wait)
	b.unuse(p.bucket)
}

// ErrExhausted is the error of a call for which there is no slot within its time: it says
// whose limit that is.
func (b *Limiter) ErrExhausted(p Ticket, wait time.Duration) *upstream.Error {
	left := time.Duration(0)
	if p.bucket != nil {
		left = b.blockedFor(p.bucket)
	}
	switch {
	case left > 0:
		return &upstream.Error{Kind: upstream.RateLimited, RetryAfter: max(wait, left)}
	case p.own:
		return &upstream.Error{Kind: upstream.LocallyRateLimited, RetryAfter: wait}
	default:
		return &upstream.Error{Kind: upstream.Exhausted, RetryAfter: wait}
	}
}

// Wait is of upstream.Pacer.
func (b *Limiter) Wait(ctx context.Context, mutates bool) *upstream.Error {
	if b.interval == 0 {
		return nil
	}
	send := upstream.SendFrom(ctx)
	if send.Reserved != nil && send.Reserved.CompareAndSwap(true, false) {
		return nil
	}
	p, err := b.Enqueue(ctx, mutates || send.Change)
	if err != nil {
		return err
	}
	wait, failed := b.store.ReserveRate(ctx, p.Slot)
	if failed != nil {
		wait = b.reserveLocal(p)
	}
	if wait > p.Slot.MaxWait {
		b.Abort(p, 0)
		return b.ErrExhausted(p, wait)
	}
	if !b.Commit(ctx, p, wait) {
		return b.ErrExhausted(p, wait)
	}
	return nil
}

// reserveLocal is a slot in this replica's part of the rate.
func (b *Limiter) reserveLocal(p Ticket) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	wait := max(p.bucket.nextLocal.Sub(now), 0)
	if wait <= p.Slot.MaxWait {
		p.bucket.nextLocal = now.Add(wait + p.Slot.Interval*time.Duration(b.replicas.Load()))
	}
	return wait
}

// Sleep waits, and reports whether it did before ctx ended.
func Sleep(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Block is of upstream.Pacer.
func (b *Limiter) Block(ctx context.Context, d time.Duration) {
	if b.interval == 0 {
		return
	}
	d = min(d, maxPause)
	x, s := b.use(ctx, KeyFor(ctx))
	defer b.unuse(x)
	b.mu.Lock()
	if until := time.Now().Add(d); until.After(x.blockedUntil) {
		x.blockedUntil = until
	}
	if x.blockedUntil.After(x.nextLocal) {
		x.nextLocal = x.blockedUntil
	}
	b.mu.Unlock()
	if err := b.store.BlockRate(context.WithoutCancel(ctx), s, d); err != nil {
		b.log.Warn("other replicas could not be told that the upstream takes no requests", telemetry.KeyError, err)
	}
}

func (b *Limiter) blockedFor(x *bucket) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Until(x.blockedUntil)
}
