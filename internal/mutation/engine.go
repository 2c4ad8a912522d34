package mutation

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Metrics count what the engine does.
type Metrics interface {
	// Replayed counts a call that found the record of its idempotency key, and how that
	// went: answered, joined, superseded, expired or failed.
	Replayed(ctx context.Context, result string)
	// Retried counts one more request of a method for the same call.
	Retried(ctx context.Context, method string)
	// Resolved counts an operation that was resolved.
	Resolved(ctx context.Context, outcome string)
	// State tells whether the store answers.
	State(ok bool)
}

// Options are what the engine needs besides its upstream.
type Options struct {
	// Store is what the replicas share, and Hold its TTL of that name: for how long
	// nobody else changes a team after an unknown outcome.
	Store state.Store
	Hold  time.Duration
	// Limiter is the upstream client's.
	Limiter *ratelimit.Limiter
	// Keys seal results that are kept.
	Keys func() *seal.Keys
	// Audit is the log of the trails.
	Audit   *audit.Log
	Metrics Metrics
	// Rejected is called for each stored value that was rejected: see state.RedisOptions.
	Rejected func(ctx context.Context, kind, team string, why error)
	// MaxRecords is how many idempotency keys are remembered of one caller; 0 is no limit.
	MaxRecords int
	// Organizations are those whose lists may show a token that was lost; none stands
	// for all that the credential can see.
	Organizations []upstream.Organization
}

// Engine carries out changes. It is safe for concurrent use.
type Engine struct {
	upstream    Upstream
	options     Options
	store       state.Store
	limiter     *ratelimit.Limiter
	log         *slog.Logger
	queues      lockQueues
	duplicates  duplicates
	credentials credentials
	replica     string // its name in the queues that replicas share

	running    sync.WaitGroup // changes, and what is done for them in the background
	aborted    chan struct{}  // closed when callers are to wait no longer
	abort      func()
	tasks      chan func()
	background context.Context //nolint:containedctx // of what nobody waits for
	stop       func()

	status    atomic.Pointer[state.ClusterStatus]
	storeDown atomic.Bool
}

// New returns an engine in front of u, which logs to log what no caller is told.
func New(u Upstream, o Options, log *slog.Logger) *Engine {
	e := &Engine{
		upstream: u, options: o, store: o.Store, limiter: o.Limiter, log: log, credentials: newCredentials(), replica: state.NewOwner(),
		aborted: make(chan struct{}), tasks: make(chan func()),
	}
	e.abort = sync.OnceFunc(func() { close(e.aborted) })
	e.background, e.stop = context.WithCancel(context.Background())
	e.status.Store(&state.ClusterStatus{Replicas: 1})
	e.startWorkers()
	return e
}

// Status is what was last known of all replicas together.
func (e *Engine) Status() state.ClusterStatus { return *e.status.Load() }

// AbortWaiting has the caller of every change under way answered, that its outcome is
// unknown: what it would be told otherwise is UNAVAILABLE, by a connection that is
// closed.
func (e *Engine) AbortWaiting() { e.abort() }

// Drain waits for the changes that are under way, or for the end of ctx.
func (e *Engine) Drain(ctx context.Context) {
	done := make(chan struct{})
	go func() { e.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	e.stop()
}

// Do carries out an operation, or gives the result of an earlier call with the same
// key. It goes on when ctx ends.
func (e *Engine) Do(ctx context.Context, op Operation, key Key) (Result, error) {
	return e.detach(ctx, op, key)
}

// perform waits for the team's lock and carries out the operation under it. If the rate
// of the caller's own credential is used up, that is waited for without the lock, which
// others want whose credentials have a rate of their own.
func (e *Engine) perform(ctx context.Context, op Operation, key Key) (Result, error) {
	stored := op.stored(key, ratelimit.KeyFor(ctx), audit.TrailFrom(ctx).Snapshot())
	for {
		made, err := e.performOnce(ctx, op, key, stored)
		wait, limited := retryUnlocked(ctx, err)
		if !limited || !sleep(ctx, wait) {
			return made, err
		}
	}
}

// retryUnlocked reports whether a change was refused by the rate limit of its caller's
// own credential, and may be tried again within ctx.
func retryUnlocked(ctx context.Context, err error) (wait time.Duration, ok bool) {
	var e *upstream.Error
	if calls.From(ctx).Credential.IsZero() || !errors.As(err, &e) || e.Kind != upstream.RateLimited || e.Status == 0 {
		return 0, false
	}
	end, bounded := ctx.Deadline()
	return e.RetryAfter, outcome.Of(err) == apierror.NotApplied && (!bounded || time.Until(end) > e.RetryAfter)
}

func (e *Engine) performOnce(ctx context.Context, op Operation, key Key, stored state.Operation) (made Result, err error) {
	w := e.queues.join(stored.Team, calls.From(ctx).Caller.ID, e.credentials.rankOf(ctx, stored.Team))
	defer w.leave()
	acquired, duplicate, err := e.acquire(ctx, op, key, stored, w)
	if err != nil {
		return Result{}, err
	}
	send := upstream.Send{Change: true}
	if acquired.Status == state.Completed {
		w.leave() // it needs no lock
		return e.replay(upstream.WithSend(ctx, send), op, key, acquired.Response, duplicate)
	}
	send.Reserved = new(atomic.Bool)
	send.Reserved.Store(true)
	var stop func()
	send.Lease, stop = e.keepAlive(ctx, acquired.Lock)
	defer stop()
	ctx = upstream.WithSend(ctx, send)
	defer func() {
		if p := recover(); p != nil {
			_ = e.release(ctx, acquired.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
			panic(p)
		}
	}()
	made, released, err := e.execute(ctx, op, key, acquired)
	return e.finish(ctx, op, key, acquired.Lock, made, released, err)
}

// sleep waits, and reports whether it did before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool { return ratelimit.Sleep(ctx, d) }
