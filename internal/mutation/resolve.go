package mutation

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

const (
	maxReconcileInterval = time.Second
	resolveTimeout       = 20 * time.Second
	reconcileConcurrency = 8 // teams at a time
)

// Reconcile resolves what calls left in doubt, those of replicas that died as well, and
// has the store know that this replica lives, until ctx ends.
func (e *Engine) Reconcile(ctx context.Context) {
	replica := state.NewOwner()
	tick := time.NewTicker(max(min(e.options.Hold/4, maxReconcileInterval), 10*time.Millisecond))
	defer tick.Stop()
	for {
		teams, err := e.heartbeat(ctx, replica)
		if ctx.Err() != nil {
			return
		}
		e.storeAnswers(ctx, err)
		e.resolveAll(ctx, teams)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) heartbeat(ctx context.Context, replica string) (inDoubt []string, err error) {
	status, err := e.store.Heartbeat(ctx, replica)
	if err != nil {
		return nil, err
	}
	e.limiter.SetReplicas(status.Replicas)
	e.status.Store(&status)
	return e.store.ListInDoubt(ctx)
}

// storeAnswers notes whether the store answers, and logs it if that is news.
func (e *Engine) storeAnswers(ctx context.Context, err error) {
	e.options.Metrics.State(err == nil)
	switch down := e.storeDown.Swap(err != nil); {
	case err != nil && !down:
		e.log.LogAttrs(ctx, slog.LevelError, "the state store does not answer: changes are refused until it does", slog.Any(telemetry.KeyError, err))
	case err == nil && down:
		e.log.LogAttrs(ctx, slog.LevelInfo, "the state store answers again")
	}
}

func (e *Engine) resolveAll(ctx context.Context, teams []string) {
	var all errgroup.Group
	all.SetLimit(reconcileConcurrency)
	for _, team := range teams {
		all.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			if d, found, err := e.store.AcquireInDoubt(ctx, team, state.NewOwner()); err == nil && found {
				_ = e.resolve(ctx, d) // tried again when it is due again
			}
			return nil
		})
	}
	_ = all.Wait()
}

// resolve finds out what became of an operation, if that can be known by now, and
// releases its lock. Its error is that of the upstream, which could not be asked.
func (e *Engine) resolve(ctx context.Context, d state.InDoubtOperation) error {
	credential := ratelimit.KeyFor(ctx)
	trail := e.options.Audit.Restore(d.Operation.AuditRecord)
	ctx = audit.WithTrail(ctx, trail)
	by := calls.From(ctx)
	ctx = calls.NewContext(ctx, &calls.Call{RequestID: trail.Record().RequestID, Caller: by.Caller, Credential: by.Credential})
	lease, stop := e.keepAlive(ctx, d.Lock)
	defer stop()
	ctx = upstream.WithSend(ctx, upstream.Send{Change: true, Lease: lease})
	s, observed, err := e.inquire(ctx, d, credential)
	decided := decide(s)
	if decided.do == giveUp && s.seen&(readDenied|cantTell) != 0 && s.kind != DeleteByID {
		e.log.LogAttrs(ctx, slog.LevelError, "what became of a change can't be found out: a token that nobody was given may be live",
			slog.String(telemetry.KeyMethod, d.Operation.Method), slog.String(telemetry.KeySubject, d.Operation.Team), slog.Any(telemetry.KeyError, err))
	}
	if e.release(ctx, d.Lock, resolvedRelease(decided, observed)) == nil && decided.do != hold {
		e.options.Metrics.Resolved(ctx, string(decided.told))
		trail.Resolved(observed.tokenID, string(decided.told))
		e.log.LogAttrs(ctx, slog.LevelInfo, "what became of a change is known, or need not be any more",
			slog.String(telemetry.KeyMethod, d.Operation.Method), slog.String(telemetry.KeySubject, d.Operation.Team),
			slog.String(telemetry.KeyOutcome, string(decided.told)))
	}
	if decided.do == hold {
		return err
	}
	return nil
}

// inquire reads back what became of an operation, and deletes the token that it left if
// it is to be deleted.
func (e *Engine) inquire(ctx context.Context, d state.InDoubtOperation, credential string) (s situation, observed observation, err error) {
	s = situation{resolving: true, seen: notRead, holdOver: d.HoldLeft <= 0, orphan: orphanThere}
	op, err := restore(d.Operation)
	s.kind = op.Kind
	switch {
	case err != nil: // by a version that this one does not know: given up as what does no harm late
		s.kind, s.seen, s.holdOver = DeleteByID, readDenied, true
		return s, observed, nil
	case credential != d.Operation.RateKey:
		s.seen = anotherCreds
	}
	for {
		switch decide(s).do {
		case observeFirst:
			observed, err = e.observe(ctx, op, d.Age, d.CurrentTokenID)
			switch s.seen = observed.seen; {
			case isPermanent(err):
				s.seen = readDenied
			case err != nil:
				s.seen = readFailed
			}
		case deleteOrphan:
			s.orphan = orphanRemoved
			if err = e.deleteOrphan(ctx, op.Team, observed.tokenID); err != nil {
				s.orphan = orphanRemains
			}
		default:
			return s, observed, err
		}
	}
}

// resolvedRelease is how the lock of a resolved operation is released.
func resolvedRelease(d decision, o observation) state.Release {
	switch d.do {
	case hold:
		return state.Release{InDoubt: true, CurrentTokenID: state.Unchanged}
	case giveUp:
		return state.Release{Record: d.record} // nor is it known which token the team has
	}
	r := state.Release{CurrentTokenID: cmp.Or(o.current, state.Unchanged), Record: d.record}
	if d.record == secretLost {
		r.Response.TokenID = o.tokenID
	}
	return r
}

// isPermanent reports whether the upstream said no, and will say so again.
func isPermanent(err error) bool {
	return outcome.IsKind(err, upstream.Forbidden, upstream.NotFound, upstream.Rejected, upstream.Unsupported, upstream.Redirected)
}
