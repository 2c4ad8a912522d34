package state

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Renew is of Store.
func (r *Redis) Renew(ctx context.Context, t Lock) error { return r.renew(ctx, t, nil, nil) }

// Restart is of Store.
func (r *Redis) Restart(ctx context.Context, t Lock, known string) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if t.operation == nil {
		return ErrFenced
	}
	again := *t.operation
	again.At, again.currentTokenID = now, known
	change, err := r.seal(sealedChange, again, t.Team, again.owner)
	if err != nil {
		return err
	}
	sealed, err := r.sealKnown(t.Team, known, again.owner, now)
	if err != nil {
		return err
	}
	if err := r.renew(ctx, t, change, sealed); err != nil {
		return err
	}
	t.operation.At, t.operation.currentTokenID = again.At, again.currentTokenID // its other fields are read by renewals, at any time
	return nil
}

func (r *Redis) renew(ctx context.Context, t Lock, change, known []byte) error {
	by := ""
	if t.operation != nil {
		by = t.operation.owner
	}
	return fenced(r.runScript(ctx, renewScript, []string{r.teamKey(t.Team), r.inDoubtKey()},
		t.Team, t.Owner, t.FencingToken, r.times.leaseTTL().Milliseconds(), change, known, by))
}

// fenced is the error of a script that a lock is needed for.
func fenced(cmd *redis.Cmd) error {
	switch done, err := cmd.Int(); {
	case err != nil:
		return fmt.Errorf("state: %w", err)
	case done == 0:
		return ErrFenced
	}
	return nil
}

// Release is of Store.
func (r *Redis) Release(ctx context.Context, t Lock, e Release) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if t.operation == nil {
		return ErrFenced
	}
	op, unknown := t.operation, "0"
	if e.InDoubt {
		unknown = "1"
	}
	if e.CurrentTokenID == Unchanged {
		e.CurrentTokenID = op.currentTokenID
	}
	known, err := r.sealKnown(t.Team, e.CurrentTokenID, op.owner, now)
	if err != nil {
		return err
	}
	what, more, err := r.recordAfter(op, e, now)
	if err != nil {
		return err
	}
	cmd := r.runScript(ctx, releaseScript,
		[]string{r.teamKey(t.Team), r.recordKey(t.idempotencyKey), r.responseKey(t.idempotencyKey), r.inDoubtKey(), r.releasedKey(t.Owner), r.heldKey(), r.recordsPerCallerKey(op.Operation.Caller)},
		t.Team, t.Owner, t.FencingToken, unknown, r.times.Hold.Milliseconds(), r.times.checkInterval().Milliseconds(), known, op.owner,
		what, more, e.Response.Sealed, r.times.Response.Milliseconds(), r.times.Tombstone.Milliseconds(),
	)
	if done, err := cmd.Int(); err == nil && done != 0 && !e.InDoubt {
		if e.Record == RecordReset && t.Owner == op.owner {
			r.withdrawn.add(op.owner)
		} else {
			r.ended.add(op.owner)
		}
	}
	return fenced(cmd)
}

// recordAfter is what a record says after its lock was released, in the words of the
// script, and whether it is one more of those that are kept.
func (r *Redis) recordAfter(op *storedOperation, e Release, now int64) (what []byte, more string, err error) {
	k := storedRecord{Fingerprint: op.Fingerprint, State: e.Record, TokenID: e.Response.TokenID, Failure: e.Response.Failure, At: now}
	switch {
	case e.InDoubt || e.Record == "":
		return nil, "0", nil
	case e.Record == RecordReset && op.LostTokenID == "":
		return []byte(RecordReset), "0", nil
	case op.Operation.IdempotencyKey == "":
		return nil, "0", nil
	case e.Record == RecordReset:
		k.State, k.TokenID = RecordSecretLost, op.LostTokenID
	}
	what, err = r.seal(sealedRecord, k, op.Operation.IdempotencyKey)
	if op.LostTokenID == "" {
		return what, "1", err
	}
	return what, "0", err
}
