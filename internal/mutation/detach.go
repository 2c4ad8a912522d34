package mutation

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// deadlineGrace is how long a change that has not yet sent anything upstream may take
// to end when its caller's time is over: its answer then says for certain that nothing
// was changed.
const deadlineGrace = 10 * time.Millisecond

// detach runs an operation to its end, and returns its result; or that the outcome is
// unknown, when ctx ends before it or the program is about to. The operation has ctx
// all the same: upstream.Client knows up to when its end may stop a request.
func (e *Engine) detach(ctx context.Context, op Operation, key Key) (Result, error) {
	type ending struct {
		made Result
		err  error
	}
	done := make(chan ending, 1)
	var claimed atomic.Bool // by the operation that ends, or by the caller that leaves: whoever is first
	releaseSlot := calls.From(ctx).Retain()
	e.work(func() {
		made, err := e.safely(ctx, op, key)
		releaseSlot() // before the caller is answered, who may call again at once
		if claimed.CompareAndSwap(false, true) {
			done <- ending{made, err}
			return
		}
		e.endedLate(ctx, op, key, made, err)
	})
	select {
	case r := <-done:
		return r.made, r.err
	case <-ctx.Done():
	case <-e.aborted:
	}
	grace := time.NewTimer(deadlineGrace)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.made, r.err
	case <-grace.C:
	}
	if !claimed.CompareAndSwap(false, true) {
		r := <-done
		return r.made, r.err
	}
	return Result{}, &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: apierror.Unknown, Cause: ctx.Err(),
	}
}

// maxWorkers goroutines are kept for changes. Their stacks have grown to what a request
// upstream needs, which costs a new goroutine a fourteenth of the whole call.
const maxWorkers = 64

// startWorkers starts the goroutines that are kept, until Drain has ended.
func (e *Engine) startWorkers() {
	for range maxWorkers {
		go func() {
			for {
				select {
				case task := <-e.tasks:
					task()
				case <-e.background.Done():
					return
				}
			}
		}()
	}
}

// work runs a task on a goroutine that is kept and free, or else on a new one.
func (e *Engine) work(task func()) {
	e.running.Add(1)
	counted := func() { defer e.running.Done(); task() }
	select {
	case e.tasks <- counted:
	default:
		go counted()
	}
}

// safely has a panic be an error: nobody above the operation's own goroutine could
// recover it.
func (e *Engine) safely(ctx context.Context, op Operation, key Key) (made Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			made, err = Result{}, apierror.Panic(p, apierror.Unknown)
		}
	}()
	return e.once(ctx, op, key)
}

// endedLate writes down how an operation ended whose caller had left, and deletes a
// token that nobody can ask for again.
func (e *Engine) endedLate(ctx context.Context, op Operation, key Key, made Result, err error) {
	good := apierror.AppliedUndelivered
	if op.Kind&anyDelete != 0 {
		good = ok
	}
	code, details := apierror.Describe(err, good)
	audit.TrailFrom(ctx).Late(audit.Ending{Code: code.String(), Reason: details.Reason, Outcome: details.Outcome, TokenID: made.Token.ID})
	subject := op.Team.String()
	if op.Kind == DeleteByID {
		subject = op.TokenID.String()
	}
	attrs := []slog.Attr{slog.String(telemetry.KeyMethod, methods[op.Kind]), slog.String(telemetry.KeySubject, subject)}
	message := "a change was carried out after its caller had left"
	if err != nil {
		message = "a change failed after its caller had left"
		attrs = append(attrs, slog.Any(telemetry.KeyError, err))
	}
	e.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
	if err == nil && op.Kind == Create && key.ID == "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
		defer cancel()
		_ = e.deleteOrphan(ctx, op.Team, made.Token.ID) // which logs
	}
}
