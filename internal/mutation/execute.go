package mutation

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// maxAttempts is how often an operation is sent in all, where each answer before was
// lost although it had been carried out.
const maxAttempts = 3

// execution is an operation that has the team's lock and is being carried out.
type execution struct {
	e       *Engine
	op      Operation
	key     Key
	lock    state.Lock
	current string // the id of the team's token before the attempt, as of state.AcquireResult

	situation
	attempts int
	sentAt   time.Time
	made     Result
	err      error // the answer to the last attempt, as the caller is told
	observed observation
	final    bool // no further attempt may be sent
}

// execute carries out an operation, and says how its lock is to be released and what
// the caller is told.
func (e *Engine) execute(ctx context.Context, op Operation, key Key, a state.AcquireResult) (Result, state.Release, error) {
	x := &execution{e: e, op: op, key: key, lock: a.Lock, current: a.CurrentTokenID}
	x.kind = op.Kind
	if r, err := x.prepare(ctx, a.LostTokenID); err != nil {
		return Result{}, r, err
	}
	x.send(ctx)
	for {
		x.again = !x.final && ctx.Err() == nil && x.attempts < maxAttempts
		switch d := decide(x.situation); d.do {
		case observeFirst:
			x.observe(ctx)
		case deleteOrphan:
			x.deleteOrphan(ctx)
		case sendAgain:
			x.sendAgain(ctx)
		default:
			var made Result
			if x.answer == answerOK {
				made = x.made
			}
			return made, x.lockRelease(d), x.told(ctx, d)
		}
	}
}

// prepare checks what has to be true before the first attempt, and writes down what is
// known then. The secret of lostTokenID, which the same request made before, was lost;
// empty if it made none. After an error nothing was sent.
func (x *execution) prepare(ctx context.Context, lostTokenID string) (state.Release, error) {
	notSent := state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset}
	switch {
	case lostTokenID != "":
		if err := x.checkSuperseded(ctx, lostTokenID); err != nil {
			if outcome.HasReason(err, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED) {
				return state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordCompleted, Response: encodeError(err)}, err
			}
			return notSent, outcome.Undelivered(err)
		}
		x.current, x.earlier = lostTokenID, true
		if err := x.e.logRetry(ctx, methods[x.op.Kind], lostTokenID); err != nil {
			return notSent, outcome.Undelivered(err)
		}
	case x.op.ExpectedTokenID != "":
		if err := x.checkExpected(firstRequest(ctx)); err != nil {
			return notSent, err
		}
		if x.current != x.op.ExpectedTokenID {
			if err := x.restart(ctx, x.op.ExpectedTokenID); err != nil {
				return notSent, errStoreUnavailable(err, false)
			}
			x.current = x.op.ExpectedTokenID
		}
	}
	return state.Release{}, nil
}

// firstRequest is the context of what is sent first for an operation: nothing is lost
// if that is given up, and so a caller's own rate limit is not waited for with the lock.
func firstRequest(ctx context.Context) context.Context {
	if calls.From(ctx).Credential.IsZero() {
		return ctx
	}
	send := upstream.SendFrom(ctx)
	send.NoWait = true
	return upstream.WithSend(ctx, send)
}

// send makes an attempt.
func (x *execution) send(ctx context.Context) {
	x.attempts++
	x.seen, x.orphan, x.observed = notRead, orphanThere, observation{}
	if x.attempts == 1 && !x.earlier {
		ctx = firstRequest(ctx)
	}
	x.sentAt = time.Now()
	made, err := x.e.send(ctx, x.op)
	x.e.credentials.learn(ctx, x.op.Team.String(), x.op.Kind&anyDelete == 0, err)
	if err == nil {
		made.liveAt = time.Now() // nobody else has changed the team since it was made
		x.made, x.answer = made, answerOK
		if x.op.Kind == Create && x.key.ID == "" && ctx.Err() != nil {
			x.answer, x.err = answerNoReader, context.Cause(ctx)
		}
		return
	}
	x.err = outcome.Error(ctx, err, x.op.method())
	switch outcome.Of(x.err) {
	case apierror.AppliedUndelivered:
		x.answer = answerInvalid
	case apierror.NotApplied:
		x.answer = answerRefused
		if outcome.IsNotFound(err) {
			x.answer = answerNotFound
		}
	default:
		x.answer = answerLost
	}
}

func (x *execution) observe(ctx context.Context) {
	var err error
	x.observed, err = x.e.observe(ctx, x.op, time.Since(x.sentAt), x.current)
	x.seen = x.observed.seen
	if err != nil {
		x.seen = readFailed
	}
	if x.kind == Generate && x.seen == ours && x.answer == answerLost {
		x.current = x.observed.tokenID
	}
}

func (x *execution) deleteOrphan(ctx context.Context) {
	id := x.observed.tokenID
	if x.answer == answerNoReader {
		ctx, id = context.WithoutCancel(ctx), x.made.Token.ID
	}
	x.orphan = orphanRemoved
	if err := x.e.deleteOrphan(ctx, x.op.Team, id); err != nil {
		x.orphan = orphanRemains
		if x.answer == answerNoReader {
			x.err = err
		}
	}
}

// sendAgain makes one more attempt, once that is in the audit, and which token there is
// now is written down: whoever has to resolve the operation must not take what it did
// before for what it does next.
func (x *execution) sendAgain(ctx context.Context) {
	err := x.e.logRetry(ctx, methods[x.op.Kind], x.observed.tokenID)
	if err == nil && x.kind == Generate {
		err = x.restart(ctx, x.observed.tokenID)
	}
	if err != nil {
		x.final = true
		return
	}
	x.earlier = true
	x.send(ctx)
}

// restart has the store take the operation as begun only now, with another token of the
// team before it.
func (x *execution) restart(ctx context.Context, current string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return x.e.store.Restart(ctx, x.lock, current)
}

// lockRelease is how a decision releases the lock.
func (x *execution) lockRelease(d decision) state.Release {
	if d.do == hold {
		return state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}
	}
	r := state.Release{CurrentTokenID: state.Unchanged, Record: d.record}
	switch {
	case x.answer == answerOK:
		r.CurrentTokenID, r.Response.TokenID = x.op.currentAfter(x.made, x.current), x.made.Token.ID
	case x.answer == answerInvalid:
		r.CurrentTokenID, r.Response = cmp.Or(x.observed.current, state.Unchanged), encodeError(x.err)
	case d.record == secretLost:
		r.CurrentTokenID, r.Response.TokenID = x.current, x.current
	case x.kind&anyDelete != 0 && d.told != apierror.NotApplied:
		r.CurrentTokenID = x.op.currentAfter(Result{}, x.current)
	}
	return r
}

// told is what a decision tells the caller.
func (x *execution) told(ctx context.Context, d decision) error {
	var e *apierror.Error
	switch {
	case d.told == ok:
		return nil
	case outcome.Of(x.err) == d.told:
		if errors.As(x.err, &e) && x.answer == answerLost && x.key.ID != "" {
			e.RetryAfter = x.e.options.Hold // when it is known what became of it
		}
		return x.err
	case d.told == apierror.AppliedUndelivered:
		return outcome.Undelivered(x.err)
	default:
		return outcome.Unknown(x.err)
	}
}

// logRetry has the audit say that one more request that changes something is about to
// be sent. After an error it must not be.
func (e *Engine) logRetry(ctx context.Context, method, tokenID string) error {
	e.options.Metrics.Retried(ctx, method)
	if err := audit.TrailFrom(ctx).Retry(ctx, method, tokenID); err != nil {
		return &apierror.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE, Outcome: apierror.NotApplied, Cause: err,
		}
	}
	return nil
}

// deleteOrphan deletes a token that nobody was given, once that is in the audit.
func (e *Engine) deleteOrphan(ctx context.Context, team upstream.TeamID, tokenID string) error {
	id, err := upstream.ParseTokenID(tokenID)
	if err != nil {
		return err
	}
	if err := e.logRetry(ctx, methodDeleteByID, tokenID); err != nil {
		return err
	}
	err = e.upstream.DeleteTokenByID(ctx, id)
	if err != nil && !outcome.IsNotFound(err) {
		e.log.LogAttrs(ctx, slog.LevelWarn, "a token that nobody was given could not be deleted yet",
			slog.String(telemetry.KeySubject, team.String()), slog.Any(telemetry.KeyError, err))
		return err
	}
	return nil
}

// checkSuperseded is an error unless the token that the same request made before, and
// whose secret was lost, is the team's current one: then it is replaced for nobody's
// harm.
func (x *execution) checkSuperseded(ctx context.Context, lostTokenID string) error {
	token, err := x.e.upstream.ReadToken(ctx, x.op.Team)
	switch {
	case err == nil && token.ID == lostTokenID:
		return nil
	case err == nil, outcome.IsNotFound(err):
		return errSuperseded(err)
	default:
		return outcome.Error(ctx, err, x.op.method())
	}
}

// checkExpected is an error if the team's current token is not the expected one.
func (x *execution) checkExpected(ctx context.Context) error {
	token, err := x.e.upstream.ReadToken(ctx, x.op.Team)
	switch {
	case outcome.IsNotFound(err), err == nil && token.ID != x.op.ExpectedTokenID:
		return &apierror.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_CHANGED, Outcome: apierror.NotApplied, Cause: err,
		}
	case err != nil:
		return outcome.NotSent(outcome.Error(ctx, err, x.op.method()))
	}
	return nil
}

// finish releases the lock, and returns what the caller is told.
func (e *Engine) finish(
	ctx context.Context, op Operation, key Key, l state.Lock, made Result, r state.Release, err error,
) (Result, error) {
	if err == nil && key.ID != "" && r.Record == state.RecordCompleted {
		r.Response.Sealed = e.sealResult(ctx, op, key, made)
	}
	failure := e.release(ctx, l, r)
	switch {
	case failure == nil, err != nil:
		return made, err
	case !errors.Is(failure, state.ErrFenced) && op.Kind != Create, op.Kind&anyDelete != 0:
		return made, nil // it is true; only who asks again under the same key has it done again
	default:
		// Who resolves it finds a token that nobody was given, and may revoke it.
		return Result{}, outcome.Unknown(failure)
	}
}

// releaseTimeout bounds how long a lock is tried to be released. One that is not is
// resolved by another, after the lease.
const releaseTimeout = 3 * time.Second

func (e *Engine) release(ctx context.Context, l state.Lock, r state.Release) error {
	ctx = context.WithoutCancel(ctx)
	if e.store.Lease() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, releaseTimeout)
		defer cancel()
	}
	err := e.store.Release(ctx, l, r)
	for pause := 50 * time.Millisecond; err != nil && !errors.Is(err, state.ErrFenced); pause *= 2 {
		if !sleep(ctx, pause) {
			break
		}
		err = e.store.Release(ctx, l, r)
	}
	e.queues.signal(l.Team)
	if err != nil {
		e.log.LogAttrs(ctx, slog.LevelWarn, "how a change ended could not be written down: it will be resolved",
			slog.String(telemetry.KeySubject, l.Team), slog.Any(telemetry.KeyError, err))
	}
	return err
}

func errSuperseded(cause error) error {
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED, Outcome: apierror.AppliedUndelivered, Cause: cause,
	}
}
