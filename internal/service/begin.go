package service

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// How often the lock is asked for while another replica has it, and while an outcome
// that is not known yet keeps all away.
const (
	firstPoll = 10 * time.Millisecond
	busyPoll  = 100 * time.Millisecond
	heldPoll  = 250 * time.Millisecond
)

// busyRetry is what a caller that found a team busy is told to wait.
const busyRetry = time.Second

// begin waits for the team's lock until ctx ends, settles what is in the way, and
// returns the lock, with the upstream's leave to be asked; or the record of the
// same request. joined says that this ran when begin first asked.
func (s *Service) begin(
	ctx context.Context, c state.Operation, params string, d deed, place *place,
) (a state.AcquireResult, joined bool, err error) {
	ask := state.AcquireRequest{Operation: c, Owner: s.holder(), Fingerprint: params, MaxRecords: s.options.MaxRecords, Waiter: state.Waiter{Caller: place.caller}}
	busy, queued := false, false
	defer func() {
		if queued && a.Status != state.Acquired {
			left := ask // by itself, since most calls need none on the heap
			s.flights.start(func() { s.leaveQueue(left) })
		}
	}()
	tooLate := func(err error) error { return s.tooLate(ctx, err, joined, busy) }
	look := !place.first // what is known of a request can be told at once, and the lock has to be waited for
	if look && c.IdempotencyKey == "" {
		busy, look = true, false
		if err := s.wait(ctx, place, d); err != nil {
			return state.AcquireResult{}, joined, tooLate(err)
		}
	}
	for poll := firstPoll; ; {
		ask.Waiter.Replica, ask.Waiter.Class = "", place.rank.class()
		if place.first {
			ask.Waiter.Replica = s.replica
		}
		asking, pass := ask.DryRun(), budget.Pass{}
		if !look {
			var full *upstream.Error
			if pass, full = s.budget.Enter(ctx, true); full != nil {
				return state.AcquireResult{}, joined, tooLate(translate(ctx, full, d.kind()))
			}
			asking = ask
			asking.Rate = s.budget.Near(pass)
		}
		a, err = s.store.Acquire(ctx, asking)
		if err != nil || a.Status != state.Acquired {
			s.budget.Leave(pass, 0)
		}
		if err != nil {
			unheard := ask
			s.flights.start(func() { s.withdraw(unheard) })
			return state.AcquireResult{}, joined, away(err, joined)
		}
		switch a.Status {
		case state.Acquired:
			if !s.budget.Take(ctx, pass, a.Wait) {
				_ = s.end(ctx, a.Lock, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset})
				return state.AcquireResult{}, joined, translate(ctx, s.budget.Full(pass, a.Wait), d.kind())
			}
			return a, joined, nil
		case state.Completed:
			return a, joined, nil
		case state.KeyReused:
			return a, joined, &reason.Error{
				Reason: teamtokenv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED, Outcome: reason.NotApplied,
			}
		case state.QuotaExceeded:
			return a, joined, &reason.Error{
				Reason: teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED, Outcome: reason.NotApplied, RetryAfter: recordsRetry, Cause: errRecords,
			}
		case state.RecordUnreadable:
			return a, joined, stillUnknown(errUnreadableRecord)
		case state.RateLimited:
			switch end, ok := ctx.Deadline(); {
			case look && place.first: // it is free
				look = false
				continue
			case look:
			case ok && time.Until(end) <= a.Wait:
				return a, joined, translate(ctx, s.budget.Full(pass, a.Wait), d.kind())
			default: // its own credential's rate is used up for a while: others go first
				place.yield()
				if !budget.Sleep(ctx, a.Wait) {
					return a, joined, translate(ctx, s.budget.Full(pass, a.Wait), d.kind())
				}
			}
		case state.DuplicateInDoubt:
			return a, joined, &reason.Error{
				Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
				Outcome: reason.Unknown, RetryAfter: max(a.Wait, busyRetry), Cause: errUnsettled,
			}
		case state.MustResolve:
			settleErr := s.settle(ctx, a.InDoubt)
			ask.Owner = s.holder()
			if settleErr != nil && ctx.Err() == nil {
				return a, joined, unsent(translate(ctx, settleErr, d.kind()))
			}
			continue
		case state.DuplicateRunning:
			joined = true
		}
		busy, queued = true, queued || place.first
		if !place.first || place.unproven() {
			if err := s.wait(ctx, place, d); err != nil {
				return a, joined, tooLate(err)
			}
			look = false
			continue
		}
		most := heldPoll
		if a.Status == state.Locked {
			most = busyPoll
		}
		if !place.pause(ctx, min(poll, most, max(a.Wait, firstPoll))) {
			return a, joined, tooLate(nil)
		}
		look, poll = true, min(2*poll, heldPoll)
	}
}

// wait waits until a call is the first of those of this process that want the team's
// lock. A credential of which it is not known whether the upstream accepts it is shown
// to the upstream before, so that it waits in nobody's way. An error other than nil is
// errNoTime, or what the caller is told.
func (s *Service) wait(ctx context.Context, p *place, d deed) error {
	if p.unproven() {
		p.yield()
		p.proved = true
		r, err := s.prove(ctx, p.team)
		if err != nil {
			return unsent(translate(ctx, err, d.kind()))
		}
		p.rank = r
	}
	if !p.acquire(ctx) {
		return errNoTime
	}
	return nil
}

var errNoTime = errors.New("the call's deadline ended before the lock was free")

// leaveQueue takes a call that no longer waits for the lock out of the queue that the
// replicas share. If it can't, the queue does so in a second.
func (s *Service) leaveQueue(ask state.AcquireRequest) {
	ctx, cancel := context.WithTimeout(s.background, endTimeout)
	defer cancel()
	ask.Waiter.Replica = s.replica
	_ = s.store.Leave(ctx, ask)
}

// holder is a name that nobody else has, of those who share the store: turns of one
// process are told apart by their epoch.
func (s *Service) holder() string {
	if s.store.Lease() == 0 {
		return "this process"
	}
	return state.NewOwner()
}

// recordsRetry is how long a caller with too many records is told to wait: its oldest
// record may expire within the hour.
const recordsRetry = time.Hour

var (
	errRecords          = errors.New("too many request ids of this caller are remembered: see TEAMTOKEN_MAX_REQUEST_IDS_PER_CALLER (--max-request-ids-per-caller)")
	errUnreadableRecord = errors.New("the record of this request id can't be read: look which token there is, and use another request id")
)

var errUnsettled = errors.New("what became of the call with this request id is not known yet")

// away is what a call is told when the store can't be asked. If the same request was
// seen to run, nothing certain can be said of that.
func away(cause error, joined bool) error {
	if joined {
		return stillUnknown(cause)
	}
	return &reason.Error{
		Reason:  teamtokenv1.ErrorReason_ERROR_REASON_STATE_STORE_UNAVAILABLE,
		Outcome: reason.NotApplied, RetryAfter: busyRetry, Cause: cause,
	}
}

// tooLate is the error of a call whose deadline ended before it had the lock: err if
// that has another cause, and otherwise TEAM_BUSY if the call found the team busy.
func (s *Service) tooLate(ctx context.Context, err error, joined, busy bool) error {
	switch {
	case joined:
		return &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: reason.Unknown, Cause: context.Cause(ctx),
		}
	case err == nil, errors.Is(err, errNoTime), busy && ctx.Err() != nil:
		return &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_TEAM_BUSY,
			Outcome: reason.NotApplied, RetryAfter: busyRetry, Cause: context.Cause(ctx),
		}
	default:
		return err
	}
}

// withdraw gives back a turn that may have been given without its being heard of. It
// looks only: were it to take a lock that is free, others would find it busy.
func (s *Service) withdraw(ask state.AcquireRequest) {
	ask.Waiter = state.Waiter{}
	ask = ask.DryRun()
	for pause := 100 * time.Millisecond; pause < maxWithdraw; pause *= 2 {
		ctx, cancel := context.WithTimeout(s.background, endTimeout)
		a, err := s.store.Acquire(ctx, ask)
		switch {
		case err == nil && a.Status == state.Acquired:
			err = s.store.Release(ctx, a.Lock, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset})
		case err == nil && a.Status == state.MustResolve:
			err = s.store.Release(ctx, a.InDoubt.Lock, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged})
		}
		cancel()
		if err == nil || !budget.Sleep(s.background, pause) {
			return
		}
	}
}

const maxWithdraw = 5 * time.Second

// keeper keeps a turn for as long as it is used. It is an upstream.Life, which ends
// with the turn: when another has it, or when it could not be renewed in time.
type keeper struct {
	turn  state.Lock
	lease time.Duration
	until atomic.Int64 // in nanoseconds from turn.Asked
	over  context.CancelFunc
	life  context.Context //nolint:containedctx // of the turn
	timer *time.Timer     // of the next renewal
}

var errTurnOver = errors.New("the turn ended before the request was sent")

// Done is of upstream.Life.
func (k *keeper) Done() <-chan struct{} { return k.life.Done() }

// Err is of upstream.Life.
func (k *keeper) Err() error {
	if k.life.Err() != nil || time.Since(k.turn.RequestedAt) >= time.Duration(k.until.Load()) {
		return errTurnOver
	}
	return nil
}

// keep renews a turn until it is stopped, and returns a context of the change that
// has it.
func (s *Service) keep(ctx context.Context, t state.Lock) (_ context.Context, stop func()) {
	lease := s.store.Lease()
	if lease == 0 {
		return ctx, func() {}
	}
	k := &keeper{turn: t, lease: lease}
	k.life, k.over = context.WithCancel(context.WithoutCancel(ctx))
	k.until.Store(int64(lease))
	k.timer = time.AfterFunc(time.Hour, func() { s.renew(k) })
	k.timer.Reset(lease / 3)
	return upstream.WithLife(ctx, k), func() { k.over(); k.timer.Stop() } // which would keep the call in memory until then
}

func (s *Service) renew(k *keeper) {
	if k.life.Err() != nil {
		return
	}
	asked := time.Since(k.turn.RequestedAt)
	left := time.Duration(k.until.Load()) - asked
	ctx, cancel := context.WithTimeout(k.life, max(left, 0))
	err := s.store.Renew(ctx, k.turn)
	cancel()
	switch {
	case err == nil:
		left = k.lease
		k.until.Store(int64(asked + left))
	case errors.Is(err, state.ErrFenced), k.Err() != nil:
		k.over()
		return
	}
	k.timer.Reset(min(k.lease/3, left/2))
}

var errUnknownMethod = &upstream.Error{Kind: upstream.Rejected, Cause: errors.New("a change of a method that this version does not know")}
