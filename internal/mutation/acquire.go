package mutation

import (
	"context"
	"errors"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// How often the lock is asked for while another replica has it, and while an operation
// in doubt keeps all away.
const (
	minPollInterval     = 10 * time.Millisecond
	lockedPollInterval  = 100 * time.Millisecond
	inDoubtPollInterval = 250 * time.Millisecond
)

const (
	// busyRetryAfter is what a caller that found a team busy is told to wait.
	busyRetryAfter = time.Second
	// quotaRetryAfter is what one with too many records is told: its oldest may expire
	// within the hour.
	quotaRetryAfter = time.Hour
)

// acquisition is a call that wants a team's lock.
type acquisition struct {
	e       *Engine
	op      Operation
	waiter  *waiter
	request state.AcquireRequest

	// dryRun only looks whether the lock can be had, and tells what is known of the
	// request: it takes nothing, and needs no turn at the rate limit.
	dryRun    bool
	busy      bool // others had the lock, or a change in doubt kept it
	queued    bool // in the queue that replicas share
	duplicate bool // the same request was seen under way
	poll      time.Duration
}

// acquire waits for the team's lock until ctx ends, resolves what is in the way, and
// returns the lock, with a reservation at the rate limit; or the record of the same
// request. duplicate says that this was under way when it was first asked for.
func (e *Engine) acquire(
	ctx context.Context, op Operation, key Key, stored state.Operation, w *waiter,
) (_ state.AcquireResult, duplicate bool, err error) {
	a := &acquisition{e: e, op: op, waiter: w, poll: minPollInterval, request: state.AcquireRequest{
		Operation: stored, Owner: e.owner(), Fingerprint: key.Fingerprint, MaxRecords: e.options.MaxRecords,
		Waiter: state.Waiter{Caller: w.caller},
	}}
	r, err := a.run(ctx)
	if a.queued && r.Status != state.Acquired {
		e.running.Go(func() { e.leaveQueue(a.request) })
	}
	return r, a.duplicate, err
}

func (a *acquisition) run(ctx context.Context) (state.AcquireResult, error) {
	a.dryRun = !a.waiter.first
	if a.dryRun && a.request.Operation.IdempotencyKey == "" { // nothing is known of it, and the lock has to be waited for
		a.busy = true
		if err := a.wait(ctx); err != nil {
			return state.AcquireResult{}, a.deadlineError(ctx, err)
		}
	}
	for {
		r, ticket, err := a.ask(ctx)
		if err != nil {
			return r, err
		}
		next, err := a.conclude(ctx, r, ticket)
		switch {
		case err != nil || next == stop:
			return r, err
		case next == askAgain:
			continue
		}
		if err := a.await(ctx, r); err != nil {
			return r, a.deadlineError(ctx, err)
		}
	}
}

// ask asks the store once.
func (a *acquisition) ask(ctx context.Context) (state.AcquireResult, ratelimit.Ticket, error) {
	a.request.Waiter.Replica, a.request.Waiter.Class = "", a.waiter.rank.class()
	if a.waiter.first {
		a.request.Waiter.Replica = a.e.replica
	}
	request, ticket := a.request.DryRun(), ratelimit.Ticket{}
	if !a.dryRun {
		var full *upstream.Error
		if ticket, full = a.e.limiter.Enqueue(ctx, true); full != nil {
			return state.AcquireResult{}, ticket, a.deadlineError(ctx, outcome.Error(ctx, full, a.op.method()))
		}
		request = a.request
		request.Rate = a.e.limiter.Within(ticket)
	}
	r, err := a.e.askStore(ctx, request)
	if err != nil || r.Status != state.Acquired {
		a.e.limiter.Abort(ticket, 0)
	}
	if err != nil {
		err = errStoreUnavailable(err, a.duplicate)
		if !a.duplicate { // and it may be that the call's own deadline ended
			err = a.deadlineError(ctx, err)
		}
		return state.AcquireResult{}, ticket, err
	}
	return r, ticket, nil
}

// next is what to do after the store has answered.
type next uint8

const (
	stop     next = iota // the call has the lock, or its answer
	askAgain             // at once
	await                // the lock
)

// conclude says what a result means. An error is what the caller is told.
func (a *acquisition) conclude(ctx context.Context, r state.AcquireResult, ticket ratelimit.Ticket) (next, error) {
	rateLimited := func() error {
		return outcome.Error(ctx, a.e.limiter.ErrExhausted(ticket, r.Wait), a.op.method())
	}
	switch r.Status {
	case state.Acquired:
		if !a.e.limiter.Commit(ctx, ticket, r.Wait) {
			_ = a.e.release(ctx, r.Lock, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset})
			return stop, rateLimited()
		}
		return stop, nil
	case state.Completed:
		return stop, nil
	case state.KeyReused:
		return stop, notApplied(teamtokenv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED, 0, nil)
	case state.QuotaExceeded:
		return stop, notApplied(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED, quotaRetryAfter, errTooManyRecords)
	case state.RecordUnreadable:
		return stop, outcome.Unknown(errUnreadableRecord)
	case state.DuplicateInDoubt:
		return stop, &apierror.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
			Outcome: apierror.Unknown, RetryAfter: max(r.Wait, busyRetryAfter), Cause: errInDoubt,
		}
	case state.MustResolve:
		err := a.e.resolve(ctx, r.InDoubt)
		a.request.Owner = a.e.owner()
		if err != nil && ctx.Err() == nil {
			return stop, outcome.NotSent(outcome.Error(ctx, err, a.op.method()))
		}
		return askAgain, nil
	case state.RateLimited:
		switch end, bounded := ctx.Deadline(); {
		case a.dryRun && a.waiter.first: // the lock is free
			a.dryRun = false
			return askAgain, nil
		case a.dryRun:
		case bounded && time.Until(end) <= r.Wait:
			return stop, rateLimited()
		default: // the rate of its own credential is used up for a while: others go first
			a.waiter.yield()
			if !sleep(ctx, r.Wait) {
				return stop, rateLimited()
			}
		}
	case state.DuplicateRunning:
		a.duplicate = true
	}
	return await, nil
}

// await waits until the lock may be free, and it is this call's turn to ask for it.
func (a *acquisition) await(ctx context.Context, r state.AcquireResult) error {
	a.busy, a.queued = true, a.queued || a.waiter.first
	if !a.waiter.first || a.waiter.untested() {
		return a.wait(ctx)
	}
	most := inDoubtPollInterval
	if r.Status == state.Locked {
		most = lockedPollInterval
	}
	if !a.waiter.pause(ctx, min(a.poll, most, max(r.Wait, minPollInterval))) {
		return errDeadline
	}
	a.dryRun, a.poll = true, min(2*a.poll, inDoubtPollInterval)
	return nil
}

// wait waits until a call is the first of those of this process that want the team's
// lock. A credential of which it is not known whether the upstream accepts it is shown
// to the upstream before, so that it waits in nobody's way. An error is errDeadline, or
// what the caller is told.
func (a *acquisition) wait(ctx context.Context) error {
	a.dryRun = false
	if a.waiter.untested() {
		a.waiter.yield()
		a.waiter.tested = true
		r, err := a.e.testCredential(ctx, a.op.Team)
		if err != nil {
			return outcome.NotSent(outcome.Error(ctx, err, a.op.method()))
		}
		a.waiter.rank = r
	}
	if !a.waiter.acquire(ctx) {
		return errDeadline
	}
	return nil
}

// leaveQueue takes a call that no longer waits for the lock out of the queue that the
// replicas share. If it can't, the queue does so in a second.
func (e *Engine) leaveQueue(request state.AcquireRequest) {
	ctx, cancel := context.WithTimeout(e.background, releaseTimeout)
	defer cancel()
	request.Waiter.Replica = e.replica
	_ = e.store.Leave(ctx, request)
}

// owner is a name that nobody else has, of those who share the store: locks of one
// process are told apart by their fencing token.
func (e *Engine) owner() string {
	if e.store.Lease() == 0 {
		return "this process"
	}
	return state.NewOwner()
}

// askStore asks the store once.
func (e *Engine) askStore(ctx context.Context, request state.AcquireRequest) (state.AcquireResult, error) {
	if e.store.Lease() == 0 { // it answers at once
		return e.store.Acquire(ctx, request)
	}
	return e.askSharedStore(ctx, request)
}

// askSharedStore asks a store that may keep the call waiting. If ctx ends first, the
// store's answer is waited for in the background, and a lock that it gives is released:
// otherwise nobody else would have that until its lease ends.
func (e *Engine) askSharedStore(ctx context.Context, request state.AcquireRequest) (state.AcquireResult, error) {
	type answer struct {
		r   state.AcquireResult
		err error
	}
	answers := make(chan answer)
	e.running.Go(func() {
		r, err := e.store.Acquire(context.WithoutCancel(ctx), request)
		if err != nil {
			e.running.Go(func() { e.releaseUnconfirmed(request) })
		}
		select {
		case answers <- answer{r, err}:
		case <-ctx.Done():
			_ = e.releaseUnused(r)
		}
	})
	select {
	case a := <-answers:
		return a.r, a.err
	case <-ctx.Done():
		return state.AcquireResult{}, context.Cause(ctx)
	}
}

// releaseUnused releases the lock that a result gives, if it gives one.
func (e *Engine) releaseUnused(r state.AcquireResult) error {
	ctx, cancel := context.WithTimeout(e.background, releaseTimeout)
	defer cancel()
	switch r.Status {
	case state.Acquired:
		return e.store.Release(ctx, r.Lock, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset})
	case state.MustResolve:
		return e.store.Release(ctx, r.InDoubt.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
	default:
		return nil
	}
}

// releaseUnconfirmed releases a lock that the store may have given without its answer
// being heard, or may still give: a request that Redis reads later than two seconds
// after it was made is refused. It never takes a lock that is free, which others would
// find locked.
func (e *Engine) releaseUnconfirmed(request state.AcquireRequest) {
	request.Waiter = state.Waiter{}
	request = request.DryRun()
	for pause := 100 * time.Millisecond; pause < maxReleaseUnconfirmed; pause *= 2 {
		ctx, cancel := context.WithTimeout(e.background, releaseTimeout)
		r, err := e.store.Acquire(ctx, request)
		cancel()
		given := r.Status == state.Acquired || r.Status == state.MustResolve
		if err == nil && given && e.releaseUnused(r) == nil || !sleep(e.background, pause) {
			return
		}
	}
}

const maxReleaseUnconfirmed = 5 * time.Second

var (
	errDeadline         = errors.New("the call's deadline ended before the lock was free")
	errTooManyRecords   = errors.New("too many request ids of this caller are remembered: see TEAMTOKEN_MAX_REQUEST_IDS_PER_CALLER (--max-request-ids-per-caller)")
	errUnreadableRecord = errors.New("the record of this request id can't be read: look which token there is, and use another request id")
	errInDoubt          = errors.New("what became of the call with this request id is not known yet")
)

func notApplied(r teamtokenv1.ErrorReason, retryAfter time.Duration, cause error) error {
	return &apierror.Error{Reason: r, Outcome: apierror.NotApplied, RetryAfter: retryAfter, Cause: cause}
}

// errStoreUnavailable is what a call is told when the store can't be asked. If the same
// request was seen under way, nothing certain can be said of that.
func errStoreUnavailable(cause error, duplicate bool) error {
	if duplicate {
		return outcome.Unknown(cause)
	}
	return notApplied(teamtokenv1.ErrorReason_ERROR_REASON_STATE_STORE_UNAVAILABLE, busyRetryAfter, cause)
}

// deadlineError is the error of a call that can't wait any longer for the lock, or for
// what err says.
func (a *acquisition) deadlineError(ctx context.Context, err error) error {
	return errWaitDeadline(ctx, err, a.duplicate, a.busy)
}

// errWaitDeadline is the error of a call whose deadline ended before it had the lock:
// err if that has another cause, and otherwise TEAM_BUSY if the call found it locked.
func errWaitDeadline(ctx context.Context, err error, duplicate, busy bool) error {
	switch {
	case duplicate:
		return &apierror.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: apierror.Unknown, Cause: context.Cause(ctx),
		}
	case err == nil, errors.Is(err, errDeadline), busy && ctx.Err() != nil:
		return notApplied(teamtokenv1.ErrorReason_ERROR_REASON_TEAM_BUSY, busyRetryAfter, context.Cause(ctx))
	default:
		return err
	}
}
