package mutation

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Key is the idempotency key of a request. The zero value is none: each call is another
// request.
type Key struct {
	ID          string // of one request of one caller, for one method
	Owner       string // whose key it is: so many are remembered of one
	Fingerprint string // a hash of what is asked for, which the key stands for
}

// once carries out an operation once for each key, in this process: who comes while it
// is under way is given its result.
func (e *Engine) once(ctx context.Context, op Operation, key Key) (Result, error) {
	if key.ID == "" {
		return e.perform(ctx, op, key)
	}
	for {
		came := time.Now()
		f, first := e.duplicates.join(key)
		if first {
			// A panic leaves the outcome unknown, and those who wait are told.
			f.err = &apierror.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: apierror.Unknown}
			defer e.duplicates.end(key, f)
			f.made, f.err = e.perform(ctx, op, key)
			f.callerLeft = ctx.Err() != nil
			return f.made, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Result{}, errWaitDeadline(ctx, nil, true, false)
		}
		if f.err == nil || !f.callerLeft || outcome.Of(f.err) != apierror.NotApplied {
			made, err := f.made, f.err
			if err == nil && came.After(made.liveAt) { // the store kept the first one waiting, and others may have had the lock since
				err = e.checkCurrent(ctx, op, made)
			}
			e.options.Metrics.Replayed(ctx, replayResult(err, true))
			if err != nil {
				return Result{}, err
			}
			return made, nil
		} // the first one had no time to wait for the lock, and this one has
	}
}

// duplicates are the calls with a key that are under way in this process. The zero
// value is ready. A library's singleflight would not do: each call has a deadline of
// its own, by which the rate limit and the lock are waited for.
type duplicates struct {
	mu      sync.Mutex
	running map[Key]*duplicate
}

type duplicate struct {
	done       chan struct{} // closed when what follows is set
	made       Result
	err        error
	callerLeft bool // before it ended
}

// join returns the running call of a key, and whether the caller is the first and must end
// it.
func (d *duplicates) join(key Key) (_ *duplicate, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.running[key]; known != nil {
		return known, false
	}
	if d.running == nil {
		d.running = make(map[Key]*duplicate)
	}
	f := &duplicate{done: make(chan struct{})}
	d.running[key] = f
	return f, true
}

func (d *duplicates) end(key Key, f *duplicate) {
	d.mu.Lock()
	delete(d.running, key)
	d.mu.Unlock()
	close(f.done)
}

// associatedData is what a result is sealed for: one caller's request, with all that it
// asks for.
func associatedData(op Operation, key Key) string {
	return strings.Join([]string{methods[op.Kind], op.Team.String(), key.ID, key.Fingerprint}, "\x00")
}

// storedResult is a Result as it is sealed.
type storedResult struct {
	Token  upstream.Token `json:"token"`
	Secret string         `json:"secret"`
}

// sealResult is a result as it is kept. What can't be sealed is not kept.
func (e *Engine) sealResult(ctx context.Context, op Operation, key Key, made Result) []byte {
	text, err := json.Marshal(storedResult{made.Token, made.Secret.Reveal()}) //nolint:gosec // to be sealed in the next step
	var sealed []byte
	if err == nil {
		sealed, err = e.options.Keys().Seal(secret.New(string(text)), associatedData(op, key))
	}
	if err != nil {
		e.log.LogAttrs(ctx, slog.LevelError, "an answer can't be sealed: it will not be given again", slog.Any(telemetry.KeyError, err))
	}
	return sealed
}

// replay gives the result of an earlier call again, if its token is still the one that
// it was. Who waited for that call need not look.
func (e *Engine) replay(ctx context.Context, op Operation, key Key, r state.Response, duplicate bool) (Result, error) {
	made, err := e.loadReplay(ctx, op, key, r)
	made.liveAt = time.Now() // if it is there, as is looked next, or as the call that made it had found
	if err == nil && !duplicate {
		err = e.checkCurrent(ctx, op, made)
	}
	e.options.Metrics.Replayed(ctx, replayResult(err, duplicate))
	if err != nil {
		return Result{}, err
	}
	return made, nil
}

// replayResult is a name for how a replay went.
func replayResult(err error, duplicate bool) string {
	switch {
	case outcome.HasReason(err, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED):
		return "superseded"
	case outcome.HasReason(err, teamtokenv1.ErrorReason_ERROR_REASON_ANSWER_EXPIRED):
		return "expired"
	case err != nil:
		return "failed"
	case duplicate:
		return "joined"
	default:
		return "answered"
	}
}

// loadReplay is what was stored: a result, or an error.
func (e *Engine) loadReplay(ctx context.Context, op Operation, key Key, r state.Response) (Result, error) {
	if r.Failure != "" {
		return Result{}, decodeError(r)
	}
	if len(r.Sealed) == 0 {
		return Result{}, errAnswerExpired(nil)
	}
	text, err := e.options.Keys().Open(r.Sealed, associatedData(op, key))
	var stored storedResult
	if err == nil && (json.Unmarshal([]byte(text.Reveal()), &stored) != nil || stored.Token.ID != r.TokenID) {
		err = errUnreadableResult
	}
	if err != nil {
		e.options.Rejected(ctx, state.SealedAnswer, op.Team.String(), err)
		return Result{}, errAnswerExpired(err)
	}
	return Result{Token: stored.Token, Secret: secret.New(stored.Secret)}, nil
}

// checkCurrent is an error unless the token of a result is there as it was.
func (e *Engine) checkCurrent(ctx context.Context, op Operation, made Result) error {
	token, err := upstream.Token{}, error(nil)
	if op.Kind == Create {
		var id upstream.TokenID
		if id, err = upstream.ParseTokenID(made.Token.ID); err == nil {
			token, err = e.upstream.ReadTokenByID(ctx, id)
		}
	} else {
		token, err = e.upstream.ReadToken(ctx, op.Team)
	}
	switch {
	case outcome.IsNotFound(err), err == nil && token.ID != made.Token.ID:
		return errSuperseded(err)
	case err != nil:
		// The first call was carried out, whatever hides its token now: neither
		// UNAVAILABLE nor `not_applied` may be said of it.
		return outcome.Undelivered(err)
	}
	return nil
}

func errAnswerExpired(cause error) error {
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_ANSWER_EXPIRED, Outcome: apierror.AppliedUndelivered, Cause: cause,
	}
}

var errUnreadableResult = errors.New("a result that was kept can't be read")

// encodeError is an error as a record keeps it.
func encodeError(err error) state.Response {
	var e *apierror.Error
	if !errors.As(err, &e) {
		return state.Response{}
	}
	return state.Response{Failure: e.Reason.String() + " " + string(e.Outcome)}
}

func decodeError(r state.Response) error {
	name, outcome, _ := strings.Cut(r.Failure, " ")
	return &apierror.Error{
		Reason:  teamtokenv1.ErrorReason(teamtokenv1.ErrorReason_value[name]),
		Outcome: apierror.Outcome(outcome),
	}
}
