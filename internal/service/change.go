package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// issued is a new token, and its secret; or nothing, of a change that makes none.
type issued struct {
	token  upstream.Token
	secret secret.Text
}

// deed is what a change does upstream, and how it is seen afterwards whether it
// was done. Its errors are *upstream.Error.
type deed interface {
	kind() callKind
	// send asks the upstream to do it, once.
	send(ctx context.Context) (issued, error)
	// look reads back what became of it, if it was begun so long ago, at the earliest,
	// when the team's token was known (see state.Answer).
	look(ctx context.Context, since time.Duration, known string) (trace, error)
	// undo takes back what was done and is of no use to anybody. Only a deed whose
	// trace leaves an orphan has to.
	undo(ctx context.Context, token upstream.TokenID) error
	// known is the id of the team's token after it was done, which was before before,
	// as of state.End.
	known(made issued, before string) string
	traits() traits
}

// traits are how deeds differ once their answer is lost.
type traits struct {
	suffices bool // that the token is gone is as good as the answer
	orphans  bool // what it made stays, and has to be undone; otherwise doing it again revokes it
	narrow   bool // landing late it harms nothing else, so that nobody has to wait for it
}

// trace is what is seen of a deed.
type trace struct {
	done    bool
	gone    bool   // what was to be deleted is not there, whoever did it
	token   string // that it made
	used    bool   // that was used, so that somebody was given its secret
	present string // the id of the team's token, or state.None; empty if that was not read
}

// maxSends is how often a change is sent in all, where each answer before was lost
// although it had been carried out.
const maxSends = 3

// change carries out a deed when it is the team's turn: c is written down before,
// and what came of it after. Under a request id, which params then is the request
// of, the answer of an earlier call may be given again.
func (s *Service) change(ctx context.Context, c state.Operation, params string, d deed) (issued, error) {
	c.RateKey, c.AuditRecord = budget.Bucket(ctx), s.options.Journal(ctx)
	for {
		made, err := s.changeOnce(ctx, c, params, d)
		wait, limited := rateLimited(ctx, err)
		if !limited || !budget.Sleep(ctx, wait) {
			return made, err
		}
	}
}

// rateLimited reports whether a change was refused by the rate limit of its caller's
// credential, and may be tried again within ctx. That is waited for without the lock,
// which others want whose credentials have a limit of their own.
func rateLimited(ctx context.Context, err error) (wait time.Duration, ok bool) {
	var e *upstream.Error
	if _, callers := upstream.CredentialFrom(ctx); !callers || !errors.As(err, &e) || e.Kind != upstream.RateLimited || e.Status == 0 {
		return 0, false
	}
	end, ok := ctx.Deadline()
	return e.Wait, outcomeOf(err) == reason.NotApplied && (!ok || time.Until(end) > e.Wait)
}

func (s *Service) changeOnce(ctx context.Context, c state.Operation, params string, d deed) (issued, error) {
	place := s.locks.join(c.Team, caller.FromContext(ctx).ID, s.acceptance.rankOf(ctx, c.Team))
	defer place.leave()
	a, joined, err := s.begin(ctx, c, params, d, place)
	if err != nil {
		return issued{}, err
	}
	ctx = budget.Changing(ctx)
	if a.Status == state.Completed {
		place.leave() // it needs no lock
		return s.replay(ctx, c, params, a.Response, d, joined)
	}
	ctx, stop := s.keep(budget.Prepaid(ctx), a.Lock)
	defer stop()

	end := state.Release{InDoubt: true, CurrentTokenID: state.Unchanged} // should it panic
	var made issued
	defer func() {
		if p := recover(); p != nil {
			_ = s.end(ctx, a.Lock, end)
			panic(p)
		}
	}()
	made, end, err = s.carryOut(ctx, c, a, d)
	if err == nil && c.IdempotencyKey == "" && d.traits().orphans && ctx.Err() != nil {
		made, end, err = s.discard(ctx, made, d)
	}
	return s.ended(ctx, c, params, a.Lock, made, end, err, d)
}

// carryOut does the deed, and says how the turn is to end.
func (s *Service) carryOut(ctx context.Context, c state.Operation, a state.AcquireResult, d deed) (issued, state.Release, error) {
	known := a.CurrentTokenID
	notSent := state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset}
	if a.LostTokenID != "" {
		if err := s.stillThere(ctx, c, a.LostTokenID, d); err != nil {
			if isReason(err, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED) {
				return issued{}, state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordCompleted, Response: failed(err)}, err
			}
			return issued{}, notSent, undelivered(err)
		}
		known = a.LostTokenID
		if err := s.options.Redrive(ctx, c.Method, a.LostTokenID); err != nil {
			return issued{}, notSent, undelivered(err)
		}
	} else if c.ExpectedTokenID != "" {
		if err := s.expect(first(ctx), c); err != nil {
			return issued{}, notSent, err
		}
		if known != c.ExpectedTokenID {
			if err := s.redo(ctx, a.Lock, c.ExpectedTokenID); err != nil {
				return issued{}, notSent, away(err, false)
			}
			known = c.ExpectedTokenID
		}
	}
	for sends := 1; ; sends++ {
		begun := time.Now()
		sending := ctx
		if sends == 1 && a.LostTokenID == "" {
			sending = first(ctx)
		}
		made, err := d.send(sending)
		s.acceptance.learn(ctx, c.Team, !d.traits().suffices, err)
		if err == nil {
			return made, state.Release{CurrentTokenID: d.known(made, known), Record: state.RecordCompleted, Response: state.Response{TokenID: made.token.ID}}, nil
		}
		if sends > 1 && d.traits().suffices && isNotFound(err) { // the one before did it
			return issued{}, state.Release{CurrentTokenID: d.known(issued{}, known)}, nil
		}
		told := translate(ctx, err, d.kind())
		switch outcomeOf(told) {
		case reason.NotApplied:
			switch {
			case sends == 1 && a.LostTokenID == "":
				return issued{}, notSent, told
			case sends == 1: // by an earlier call of the same request something was
				return issued{}, notSent, undelivered(told)
			case d.traits().narrow: // and of the one before nobody knows
				return issued{}, state.Release{CurrentTokenID: d.known(issued{}, known)}, stillUnknown(told)
			}
			return issued{}, s.afterAll(known, d), undelivered(told)
		case reason.AppliedUndelivered:
			return issued{}, s.afterNoUse(ctx, c, d, time.Since(begun), known, told), told
		}
		held := state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}
		told = s.later(told, c)
		seen, lookErr := d.look(ctx, time.Since(begun), known)
		switch {
		case lookErr != nil && !d.traits().narrow:
			return issued{}, held, told
		case seen.done && d.traits().suffices:
			return issued{}, state.Release{CurrentTokenID: d.known(issued{}, known)}, nil
		case seen.gone: // as was asked for, and the request may still be on its way
			return issued{}, held, nil
		case !seen.done && !d.traits().narrow:
			return issued{}, held, told
		}
		if seen.done && d.traits().orphans {
			if err := s.remove(ctx, c, seen.token, d); err != nil {
				return issued{}, held, told
			}
		} else if seen.done {
			known = seen.token
		}
		if ctx.Err() != nil || sends == maxSends || s.again(ctx, c, a.Lock, seen, d) != nil {
			if d.traits().narrow { // it can be asked for again at any time
				return issued{}, state.Release{CurrentTokenID: d.known(issued{}, known)}, told
			}
			return issued{}, s.afterAll(known, d), undelivered(told)
		}
	}
}

// first is the context of what a change sends first: nothing is lost if that is given
// up, and so a caller's own rate limit is not waited for with the lock.
func first(ctx context.Context) context.Context {
	if _, callers := upstream.CredentialFrom(ctx); callers {
		return upstream.WithoutWait(ctx)
	}
	return ctx
}

// again writes down that a change is about to be sent once more, and which token
// there is now: whoever has to settle it must not take what it did before for what
// it does next.
func (s *Service) again(ctx context.Context, c state.Operation, t state.Lock, seen trace, d deed) error {
	if err := s.options.Redrive(ctx, c.Method, seen.token); err != nil {
		return err
	}
	if t := d.traits(); t.orphans || t.narrow {
		return nil
	}
	return s.redo(ctx, t, seen.token)
}

// redo has the change of a turn begun anew.
func (s *Service) redo(ctx context.Context, t state.Lock, known string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return s.store.Restart(ctx, t, known)
}

// afterAll is the end of a change that was carried out, with an answer that was
// lost, and is not done again in this call. Known is then the token that it made.
func (s *Service) afterAll(known string, d deed) state.Release {
	if d.traits().orphans { // which was removed
		return state.Release{CurrentTokenID: state.Unchanged, Record: state.RecordReset}
	}
	return state.Release{CurrentTokenID: known, Record: state.RecordSecretLost, Response: state.Response{TokenID: known}}
}

// later tells a caller with a request id when the outcome will be known.
func (s *Service) later(err error, c state.Operation) error {
	var e *reason.Error
	if c.IdempotencyKey != "" && errors.As(err, &e) {
		e.RetryAfter = s.options.Hold
	}
	return err
}

// undelivered is the error of a change that was carried out, as is known by now.
func undelivered(err error) error {
	return &reason.Error{
		Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
		Outcome: reason.AppliedUndelivered, Cause: err,
	}
}

// stillUnknown is the error of a change whose first answer was lost, and which was
// then refused.
func stillUnknown(err error) error {
	return &reason.Error{
		Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
		Outcome: reason.Unknown, Cause: err,
	}
}

// remove undoes what a deed left behind, once that is written down.
func (s *Service) remove(ctx context.Context, c state.Operation, token string, d deed) error {
	id, err := upstream.ParseTokenID(token)
	if err != nil {
		return err
	}
	if err := s.options.Redrive(ctx, "DeleteTokenByID", token); err != nil {
		return err
	}
	err = d.undo(ctx, id)
	if err != nil && !isNotFound(err) {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a token that nobody was given could not be deleted yet",
			slog.String(telemetry.KeySubject, c.Team), slog.Any(telemetry.KeyError, err))
		return err
	}
	return nil
}

// afterNoUse is how a change ends whose answer said that it was done, and showed
// nothing to use: with the team's token known again, and what it left behind gone.
func (s *Service) afterNoUse(
	ctx context.Context, c state.Operation, d deed, since time.Duration, known string, told error,
) state.Release {
	seen, err := d.look(ctx, since, known)
	if err != nil || d.traits().orphans && (!seen.done || s.remove(ctx, c, seen.token, d) != nil) {
		return state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}
	}
	return state.Release{CurrentTokenID: cmp.Or(seen.present, state.Unchanged), Record: state.RecordCompleted, Response: failed(told)}
}

// discard takes back a token that was made for somebody who has left and cannot
// ask for it again.
func (s *Service) discard(ctx context.Context, made issued, d deed) (issued, state.Release, error) {
	err := s.remove(context.WithoutCancel(ctx), state.Operation{Team: made.token.TeamID}, made.token.ID, d)
	if err != nil {
		return issued{}, state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}, undelivered(err)
	}
	return issued{}, state.Release{CurrentTokenID: state.Unchanged}, undelivered(context.Cause(ctx))
}

// discardLate does the same when the change has ended already, and its caller left
// in that very moment.
func (s *Service) discardLate(ctx context.Context, result any) {
	resp, ok := result.(*teamtokenv1.CreateNamedTokenResponse)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	token := resp.GetTeamToken()
	_ = s.remove(ctx, state.Operation{Team: token.GetTeamId()}, token.GetId(), creation{s: s}) // which logs
}

// stillThere is an error unless the token that the same request made before, and
// whose secret was lost, is the team's present one: then it is replaced for
// nobody's harm.
func (s *Service) stillThere(ctx context.Context, c state.Operation, lost string, d deed) error {
	team, err := upstream.ParseTeamID(c.Team)
	if err != nil {
		return err
	}
	token, err := s.upstream.ReadToken(ctx, team)
	if err == nil && token.ID == lost {
		return nil
	}
	if err == nil || isNotFound(err) {
		return superseded(err)
	}
	return translate(ctx, err, d.kind())
}

func superseded(cause error) error {
	return &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED, Outcome: reason.AppliedUndelivered, Cause: cause,
	}
}

// expect fails if the team's present token is not the expected one.
func (s *Service) expect(ctx context.Context, c state.Operation) error {
	team, err := upstream.ParseTeamID(c.Team)
	if err != nil {
		return err
	}
	token, err := s.upstream.ReadToken(ctx, team)
	switch {
	case isNotFound(err), err == nil && token.ID != c.ExpectedTokenID:
		return &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_CHANGED, Outcome: reason.NotApplied, Cause: err,
		}
	case err != nil:
		return unsent(translate(ctx, err, changeTeam))
	}
	return nil
}

// ended gives the turn back, with what became of the change, and is what the
// caller is told.
func (s *Service) ended(
	ctx context.Context, c state.Operation, params string, t state.Lock, made issued, end state.Release, err error, d deed,
) (issued, error) {
	if err == nil && c.IdempotencyKey != "" && end.Record == state.RecordCompleted {
		end.Response.Sealed = s.sealed(ctx, c, params, made)
	}
	failure := s.end(ctx, t, end)
	switch {
	case failure == nil, err != nil:
		return made, err
	case !errors.Is(failure, state.ErrFenced) && !d.traits().orphans, d.traits().suffices:
		return made, nil // it is true; only who asks again under its request id has it done again
	default:
		// Who settles it finds a token that nobody was given, and may revoke it.
		return issued{}, &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
			Outcome: reason.Unknown, Cause: failure,
		}
	}
}

// endTimeout bounds how long a turn is tried to be given back. What is not is
// settled by another, after the lease.
const endTimeout = 3 * time.Second

func (s *Service) end(ctx context.Context, t state.Lock, e state.Release) error {
	ctx = context.WithoutCancel(ctx)
	if s.store.Lease() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, endTimeout)
		defer cancel()
	}
	err := s.store.Release(ctx, t, e)
	for pause := 50 * time.Millisecond; err != nil && !errors.Is(err, state.ErrFenced); pause *= 2 {
		if !budget.Sleep(ctx, pause) {
			break
		}
		err = s.store.Release(ctx, t, e)
	}
	s.locks.released(t.Team)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "how a change ended could not be written down: it will be settled",
			slog.String(telemetry.KeySubject, t.Team), slog.Any(telemetry.KeyError, err))
	}
	return err
}

func outcomeOf(err error) reason.Outcome {
	var e *reason.Error
	if errors.As(err, &e) {
		return e.Outcome
	}
	return reason.Unknown
}

func isReason(err error, r teamtokenv1.ErrorReason) bool {
	var e *reason.Error
	return errors.As(err, &e) && e.Reason == r
}
