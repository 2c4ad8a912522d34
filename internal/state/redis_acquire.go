package state

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"time"
)

// Acquire is of Store.
func (r *Redis) Acquire(ctx context.Context, a AcquireRequest) (AcquireResult, error) {
	asked := time.Now()
	now, err := r.now(ctx)
	if err != nil {
		return AcquireResult{}, err
	}
	key := a.Operation.IdempotencyKey
	op := &storedOperation{Operation: a.Operation, At: now, owner: a.Owner}
	if key != "" {
		op.Fingerprint = a.Fingerprint
	}
	seen := ""
	for range maxRecordChanges {
		reply, err := r.acquire(ctx, a, op, seen, now)
		if err != nil {
			return AcquireResult{}, err
		}
		if AcquireStatus(reply.str(0)) != statusRecord {
			return r.readAcquired(ctx, a, op, reply, asked, now)
		}
		seen = reply.str(1)
		k, ok := r.openRecord(ctx, a.Operation.Team, key, seen, now)
		switch {
		case !ok:
			return AcquireResult{Status: RecordUnreadable}, nil
		case k.Fingerprint != a.Fingerprint:
			return AcquireResult{Status: KeyReused}, nil
		case k.State == RecordCompleted:
			what := Response{TokenID: k.TokenID, Failure: k.Failure}
			if isRecent(k.At, now, r.times.Response) {
				what.Sealed = []byte(reply.str(2))
			}
			return AcquireResult{Status: Completed, Response: what}, nil
		}
		op.LostTokenID = k.TokenID // and the lock is asked for on the strength of this record
	}
	return AcquireResult{}, errReply
}

// maxRecordChanges is how often a record may change while a lock is asked for.
const maxRecordChanges = 4

func (r *Redis) acquire(ctx context.Context, a AcquireRequest, op *storedOperation, seen string, now int64) (reply, error) {
	team, key := a.Operation.Team, a.Operation.IdempotencyKey
	change, err := r.seal(sealedChange, op, team, op.owner)
	if err != nil {
		return nil, err
	}
	var record []byte
	if key != "" {
		if record, err = r.seal(sealedRecord, storedRecord{Fingerprint: op.Fingerprint, TokenID: op.LostTokenID, At: now}, key); err != nil {
			return nil, err
		}
	}
	quota := int64(math.MaxInt64)
	if a.MaxRecords > 0 {
		quota = int64(a.MaxRecords)
	}
	return parseReply(r.runScript(ctx, acquireScript,
		[]string{r.teamKey(team), r.recordKey(key), r.responseKey(key), r.inDoubtKey(), r.rateKey(a.Rate.Key), r.heldKey(), r.recordsPerCallerKey(a.Operation.Caller), r.queueKey(team)},
		append([]any{
			team, a.Owner, r.times.leaseTTL().Milliseconds(), r.times.Hold.Milliseconds(), change, record, seen,
			r.times.Tombstone.Milliseconds(), a.Rate.Interval.Microseconds(), a.Rate.Burst.Microseconds(), a.Rate.MaxWait.Microseconds(),
			now + acquireTTL.Milliseconds(), quota,
		}, a.Waiter.args()...)...,
	))
}

// readAcquired reads what became of an Ask.
func (r *Redis) readAcquired(ctx context.Context, a AcquireRequest, op *storedOperation, reply reply, asked time.Time, now int64) (AcquireResult, error) {
	team := a.Operation.Team
	answer := AcquireResult{Status: AcquireStatus(reply.str(0))}
	switch answer.Status {
	case Acquired:
		if old := reply.str(5); old != "" { // the same Ask, again
			k, ok := r.openRecord(ctx, team, a.Operation.IdempotencyKey, old, now)
			if !ok {
				return AcquireResult{Status: RecordUnreadable}, nil
			}
			op.LostTokenID = k.TokenID
		}
		op.currentTokenID = r.openKnown(ctx, team, reply.str(3), reply.str(4), now)
		answer.Lock = Lock{team, a.Owner, reply.int(1), asked, a.Operation.IdempotencyKey, op}
		answer.Wait = time.Duration(reply.int(2)) * time.Microsecond
		answer.CurrentTokenID, answer.LostTokenID = op.currentTokenID, op.LostTokenID
	case RateLimited:
		answer.Wait = time.Duration(reply.int(1)) * time.Microsecond
	case MustResolve:
		u, ok, err := r.readInDoubt(ctx, team, a.Owner, reply, asked)
		if err != nil {
			return AcquireResult{}, err
		}
		if !ok {
			return AcquireResult{Status: InDoubt, Wait: r.times.Hold}, nil
		}
		answer.InDoubt = u
	case statusBroken:
		r.reject(ctx, sealedChange, team, errForged)
		return AcquireResult{Status: InDoubt, Wait: r.times.Hold}, nil
	case Locked, InDoubt, DuplicateRunning, DuplicateInDoubt:
		answer.Wait = time.Duration(reply.int(1)) * time.Millisecond
	case QuotaExceeded:
	case statusExpired:
		return AcquireResult{}, errExpired
	default:
		return AcquireResult{}, errReply
	}
	return answer, nil
}

// acquireTTL is how long an Ask may be on its way: one that Redis reads later, since
// it hung, is of nobody who still waits.
const acquireTTL = 2 * stepTimeout

// What a script answers that is no AcquireStatus.
const (
	statusRecord AcquireStatus = "record" // there is a record, which the script can't read
	statusBroken AcquireStatus = "broken" // what is kept of the team is nothing that a script writes
)

// statusExpired is what becomes of an Ask that Redis read too statusExpired.
const statusExpired AcquireStatus = "late"

var errExpired = errors.New("state: Redis took too long to begin")

// readInDoubt reads an operation that has to be resolved. One that can't be read is dropped.
func (r *Redis) readInDoubt(ctx context.Context, team, owner string, reply reply, asked time.Time) (InDoubtOperation, bool, error) {
	now := reply.int(4)
	op, why := r.openOperation(reply.str(2), team, reply.str(3), now)
	lock := Lock{team, owner, reply.int(1), asked, "", op}
	if why != nil {
		r.reject(ctx, sealedChange, team, why)
		err := r.runScript(ctx, dropScript, []string{r.teamKey(team), r.inDoubtKey(), r.heldKey()}, team, owner, lock.FencingToken, r.times.Hold.Milliseconds()).Err()
		if err != nil {
			err = fmt.Errorf("state: %w", err)
		}
		return InDoubtOperation{}, false, err
	}
	lock.idempotencyKey = op.Operation.IdempotencyKey
	op.currentTokenID = r.openKnown(ctx, team, reply.str(6), reply.str(7), now)
	if r.withdrawn.has(op.owner) { // an Ask that Redis read when it had been withdrawn
		return InDoubtOperation{}, false, r.Release(ctx, lock, Release{CurrentTokenID: Unchanged, Record: RecordReset})
	}
	since := time.Duration(now-op.At) * time.Millisecond
	return InDoubtOperation{
		Lock: lock, Operation: op.Operation, Age: since, CurrentTokenID: op.currentTokenID,
		HoldLeft: max(time.Duration(reply.int(5)-now)*time.Millisecond, r.times.Hold-since), // whatever the plain one says
	}, true, nil
}

// ListInDoubt is of Store.
func (r *Redis) ListInDoubt(ctx context.Context) ([]string, error) {
	teams, err := r.runScript(ctx, listScript, []string{r.inDoubtKey()}, maxInDoubt).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return teams, nil
}

// AcquireInDoubt is of Store.
func (r *Redis) AcquireInDoubt(ctx context.Context, team, owner string) (InDoubtOperation, bool, error) {
	asked := time.Now()
	reply, err := parseReply(r.runScript(ctx, takeOverScript, []string{r.teamKey(team), r.inDoubtKey(), r.heldKey()},
		team, owner, r.times.leaseTTL().Milliseconds(), r.times.Hold.Milliseconds()))
	switch {
	case err != nil || reply.str(0) == "":
		return InDoubtOperation{}, false, err
	case AcquireStatus(reply.str(0)) == statusBroken:
		r.reject(ctx, sealedChange, team, errForged)
		return InDoubtOperation{}, false, nil
	}
	return r.readInDoubt(ctx, team, owner, reply, asked)
}
