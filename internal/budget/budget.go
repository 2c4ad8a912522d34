package budget

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/caller"
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
	// unhurried is how long those wait who have no deadline.
	unhurried = time.Minute
)

// Budget is what may be asked of the upstream. It is safe for concurrent use.
type Budget struct {
	store    state.Store
	log      *slog.Logger
	waited   func(ctx context.Context, changes bool, d time.Duration)
	interval atomic.Int64 // between two requests; 0 has no budget
	replicas atomic.Int64 // that share it, as was last known
	alone    *state.Memory

	mu     sync.Mutex
	gates  map[string]*gate
	paused map[string]time.Time // by what the upstream told this replica
}

// New returns a budget of perSecond requests, for all replicas together; 0 has no
// limit. waited, if it is not nil, is told how long each request waited for room.
func New(perSecond float64, store state.Store, log *slog.Logger, waited func(ctx context.Context, changes bool, d time.Duration)) *Budget {
	if waited == nil {
		waited = func(context.Context, bool, time.Duration) {}
	}
	b := &Budget{
		store: store, log: log, waited: waited, alone: state.NewMemory(state.Times{}), gates: make(map[string]*gate), paused: make(map[string]time.Time),
	}
	if perSecond > 0 {
		b.interval.Store(int64(float64(time.Second) / perSecond))
	}
	b.replicas.Store(1)
	return b
}

// Shared tells how many replicas share the budget.
func (b *Budget) Shared(replicas int) { b.replicas.Store(int64(max(replicas, 1))) }

// Rate is how many requests may be made in a second; 0 is no limit.
func (b *Budget) Rate() float64 {
	interval := b.interval.Load()
	if interval == 0 {
		return 0
	}
	return math.Round(1e3*float64(time.Second)/float64(interval)) / 1e3
}

// Queue is how many requests of this replica wait for their turn to ask for room.
func (b *Budget) Queue() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, g := range b.gates {
		n += g.length()
	}
	return n
}

// Paused is for how long the upstream takes no requests of somebody's, by what it
// told this replica.
func (b *Budget) Paused() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := time.Duration(0)
	for _, until := range b.paused {
		longest = max(longest, time.Until(until))
	}
	return longest
}

// Learn lowers the rate to what the upstream takes.
func (b *Budget) Learn(perSecond float64) {
	if !(perSecond >= 1) { // NaN is neither
		return
	}
	for {
		present := b.interval.Load()
		taught := int64(float64(time.Second) / (headroom * perSecond))
		if present == 0 || taught <= present {
			return
		}
		if b.interval.CompareAndSwap(present, taught) {
			b.log.Warn("the upstream takes fewer requests than TEAMTOKEN_UPSTREAM_RATE: the rate is lowered", telemetry.KeyRate, headroom*perSecond)
			return
		}
	}
}

// Bucket names the budget of a call: the service's own credential's, or that of
// the caller's.
func Bucket(ctx context.Context) string {
	credential, callers := upstream.CredentialFrom(ctx)
	if !callers {
		return "service"
	}
	sum := sha256.Sum256([]byte(credential.Reveal()))
	return hex.EncodeToString(sum[:16])
}

func (b *Budget) slot(ctx context.Context) state.Slot {
	interval := time.Duration(b.interval.Load())
	if interval == 0 {
		return state.Slot{Bucket: Bucket(ctx)}
	}
	most := unhurried
	if end, ok := ctx.Deadline(); ok {
		most = max(time.Until(end), 0)
	}
	return state.Slot{Bucket: Bucket(ctx), Interval: interval, Burst: (burst - 1) * interval, MaxWait: most}
}

// Pass is the right to ask for room, which one has at a time.
type Pass struct {
	gate    *gate      // nil without a budget
	Slot    state.Slot // to ask for
	changes bool
	queued  time.Duration
}

// Enter waits until it is this call's turn to ask for room. The pass must be given
// back.
func (b *Budget) Enter(ctx context.Context, mutates bool) (Pass, *upstream.Error) {
	slot := b.slot(ctx)
	if slot.Interval == 0 {
		return Pass{Slot: slot}, nil
	}
	if left := b.pausedFor(slot.Bucket); left > slot.MaxWait {
		return Pass{}, &upstream.Error{Kind: upstream.RateLimited, Wait: left}
	}
	came := time.Now()
	g := b.gate(slot.Bucket)
	if !g.enter(ctx, caller.FromContext(ctx).ID, mutates) {
		b.leave(g)
		return Pass{}, &upstream.Error{Kind: upstream.Throttled, Wait: slot.Interval * time.Duration(1+g.length()), Cause: context.Cause(ctx)}
	}
	return Pass{gate: g, Slot: b.slot(ctx), changes: mutates, queued: time.Since(came)}, nil
}

// Take gives the pass back with room that is there after wait, waits for that, and
// reports whether it did before ctx ended.
func (b *Budget) Take(ctx context.Context, p Pass, wait time.Duration) bool {
	b.Leave(p, wait)
	if p.gate != nil {
		b.waited(ctx, p.changes, p.queued+wait)
	}
	return Sleep(ctx, wait)
}

// Waiting is how many wait behind a pass.
func (b *Budget) Waiting(p Pass) int {
	if p.gate == nil {
		return 0
	}
	return p.gate.length()
}

// Leave gives the pass back, and has the next one asked for after wait: when the
// room that was given is there.
func (b *Budget) Leave(p Pass, wait time.Duration) {
	if p.gate == nil {
		return
	}
	p.gate.leave(wait)
	b.leave(p.gate)
}

func (b *Budget) gate(bucket string) *gate {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.gates[bucket]
	if g == nil {
		if len(b.gates) >= manyGates {
			maps.DeleteFunc(b.gates, func(_ string, g *gate) bool { return g.users == 0 && g.idle() })
		}
		g = &gate{}
		b.gates[bucket] = g
	}
	g.users++
	return g
}

// manyGates are so many that it is looked for some that nobody uses.
const manyGates = 256

func (b *Budget) leave(g *gate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g.users--
}

// Full is the error of a call for which there is no room within its time.
func (b *Budget) Full(p Pass, wait time.Duration) *upstream.Error {
	if b.pausedFor(p.Slot.Bucket) > 0 {
		return &upstream.Error{Kind: upstream.RateLimited, Wait: wait}
	}
	return &upstream.Error{Kind: upstream.Throttled, Wait: wait}
}

type prepaidKey struct{}

// Prepaid returns a context for whose first request there is room already.
func Prepaid(ctx context.Context) context.Context {
	paid := new(atomic.Bool)
	paid.Store(true)
	return context.WithValue(ctx, prepaidKey{}, paid)
}

// Permit is of upstream.Pacer.
func (b *Budget) Permit(ctx context.Context, mutates bool) *upstream.Error {
	if b.interval.Load() == 0 {
		return nil
	}
	if paid, ok := ctx.Value(prepaidKey{}).(*atomic.Bool); ok && paid.CompareAndSwap(true, false) {
		return nil
	}
	p, err := b.Enter(ctx, mutates || changing(ctx))
	if err != nil {
		return err
	}
	wait, failed := b.store.Reserve(ctx, p.Slot)
	if failed != nil {
		wait = b.reserveAlone(p.Slot)
	}
	if wait > p.Slot.MaxWait {
		b.Leave(p, 0)
		return b.Full(p, wait)
	}
	if !b.Take(ctx, p, wait) {
		return b.Full(p, wait)
	}
	return nil
}

// reserveAlone is room in this replica's part of the rate.
func (b *Budget) reserveAlone(s state.Slot) time.Duration {
	s.Interval *= time.Duration(b.replicas.Load())
	s.Burst = 0
	wait, _ := b.alone.Reserve(context.Background(), s) // memory never fails
	return wait
}

type changingKey struct{}

// Changing returns a context whose reads are part of a change, and go with it.
func Changing(ctx context.Context) context.Context {
	return context.WithValue(ctx, changingKey{}, true)
}

func changing(ctx context.Context) bool { return ctx.Value(changingKey{}) != nil }

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

// Pause is of upstream.Pacer.
func (b *Budget) Pause(ctx context.Context, d time.Duration) {
	s := b.slot(ctx)
	if s.Interval == 0 {
		return
	}
	d = min(d, maxPause)
	b.mu.Lock()
	for name, until := range b.paused {
		if time.Now().After(until) {
			delete(b.paused, name)
		}
	}
	if until := time.Now().Add(d); until.After(b.paused[s.Bucket]) {
		b.paused[s.Bucket] = until
	}
	b.mu.Unlock()
	_ = b.alone.Pause(ctx, s, d)
	if err := b.store.Pause(context.WithoutCancel(ctx), s, d); err != nil {
		b.log.Warn("other replicas could not be told that the upstream takes no requests", telemetry.KeyError, err)
	}
}

func (b *Budget) pausedFor(bucket string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Until(b.paused[bucket])
}
