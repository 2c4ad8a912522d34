package state

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"
)

// Store is the state, in memory or in Redis. Every error but ErrFenced says that the
// store could not be asked, and that what was asked for may have been done.
type Store interface {
	// Acquire asks for a team's lock, and for a slot at the rate limit.
	Acquire(ctx context.Context, a AcquireRequest) (AcquireResult, error)
	// Leave says that a request that did not get the lock will not be repeated: it waits
	// no longer in the queue for it.
	Leave(ctx context.Context, a AcquireRequest) error
	// Renew keeps a lock for another lease. ErrFenced says that it has ended.
	Renew(ctx context.Context, l Lock) error
	// Restart says that the operation under a lock begins anew, and which token the team
	// has by now: of what was sent before, nothing is left to be found out.
	Restart(ctx context.Context, l Lock, currentTokenID string) error
	// Release gives a lock back. ErrFenced says that it had ended by itself, and that
	// nothing was written. The same Release may be repeated for a while.
	Release(ctx context.Context, l Lock, r Release) error
	// ListInDoubt lists teams with an operation to resolve, up to 100.
	ListInDoubt(ctx context.Context) ([]string, error)
	// AcquireInDoubt takes the lock of a team to resolve the operation that is in doubt
	// there; ok is false if none is due.
	AcquireInDoubt(ctx context.Context, team, owner string) (d InDoubtOperation, ok bool, err error)
	// ReserveRate asks for a slot at the rate limit alone. It returns how long to wait;
	// more than r.MaxWait says that there is none, and that none was taken.
	ReserveRate(ctx context.Context, r RateRequest) (wait time.Duration, err error)
	// BlockRate keeps the rate of r from being used for a time.
	BlockRate(ctx context.Context, r RateRequest, d time.Duration) error
	// Heartbeat says that a replica lives, and returns what there is to know of all.
	Heartbeat(ctx context.Context, replica string) (ClusterStatus, error)
	// Lease is how long a lock lasts that is not renewed; 0 for ever.
	Lease() time.Duration
	Close() error
}

// ClusterStatus is what is known of all replicas together.
type ClusterStatus struct {
	Replicas int // that live
	InDoubt  int // teams that are held back, since an outcome is unknown
}

// ErrFenced says that a lock has ended, and that another may have it.
var ErrFenced = errors.New("state: the lock is another's by now")

// TTLs are how long things last.
type TTLs struct {
	Hold      time.Duration // how long an unknown outcome keeps others away
	Response  time.Duration // how long an answer is kept
	Tombstone time.Duration // how long it is known that there was one
}

// The times that nobody sets.
const (
	responseTTL   = 10 * time.Minute
	tombstoneTTL  = 24 * time.Hour
	maxLease      = 10 * time.Second
	minLease      = 300 * time.Millisecond
	checkInterval = time.Second
	heartbeatTTL  = 5 * time.Second
)

// NewTTLs are the times for a hold.
func NewTTLs(hold time.Duration) TTLs {
	return TTLs{Hold: hold, Response: responseTTL, Tombstone: tombstoneTTL}
}

// leaseTTL is a third of the hold, so that what a dead replica left is resolved
// before twice the hold is over.
func (t TTLs) leaseTTL() time.Duration { return min(max(t.Hold/3, minLease), maxLease) }

// checkInterval is how often it is looked whether an outcome is known by now.
func (t TTLs) checkInterval() time.Duration { return min(t.Hold/4, checkInterval) }

// Operation is what is about to be done, as it is written down.
type Operation struct {
	Method          string `json:"method"` // the RPC
	Team            string `json:"team"`
	TokenID         string `json:"token,omitempty"`    // by its id, where the change names it
	ExpectedTokenID string `json:"expected,omitempty"` // the id of the token that it replaces
	Description     string `json:"description,omitempty"`
	RateKey         string `json:"bucket"`           // whose credential it is made with
	Caller          string `json:"caller,omitempty"` // whose record it has, of whose there may be so many
	IdempotencyKey  string `json:"record,omitempty"` // of its request id; empty if it has none
	// AuditRecord is a snapshot of its call's audit trail, which whoever resolves it goes on
	// with.
	AuditRecord json.RawMessage `json:"journal,omitempty"`
}

// RateRequest asks for a slot at a rate limit, which lets a request pass at every
// Interval, and after a pause up to Burst's worth at once. Without an Interval
// there is always one.
type RateRequest struct {
	Key                      string
	Interval, Burst, MaxWait time.Duration
}

// AcquireRequest asks for a team's lock.
type AcquireRequest struct {
	Operation Operation
	// Owner is who asks, by a name that nobody else has: NewOwner's. The same
	// request may be repeated.
	Owner       string
	Fingerprint string // a hash of what is asked for, which a request id stands for
	Rate        RateRequest
	Waiter      Waiter
	// MaxRecords is how many records may be kept of the caller; 0 is no limit.
	MaxRecords int
}

// NewOwner is a name for one who asks.
func NewOwner() string { return rand.Text() }

// Lock is the right to change a team's token.
type Lock struct {
	Team, Owner    string
	FencingToken   int64
	RequestedAt    time.Time        // for it, by this process's clock: the lease is no shorter from then on
	idempotencyKey string           // of the change that it is about
	operation      *storedOperation // what was written down of that, in Redis
}

// AcquireStatus is what became of an AcquireRequest.
type AcquireStatus string

// The statuses, and what else of an AcquireResult goes with each.
const (
	Acquired         AcquireStatus = "granted" // Lock, Wait, CurrentTokenID, LostTokenID
	Locked           AcquireStatus = "busy"    // Wait: another change is under way, for so long at most unless it is renewed
	InDoubt          AcquireStatus = "held"    // Wait: another change's outcome is unknown, for so long at most
	DuplicateRunning AcquireStatus = "running" // the same request is under way
	DuplicateInDoubt AcquireStatus = "unknown" // Wait: the same request's outcome is unknown, for so long at most
	Completed        AcquireStatus = "done"    // Response: the same request ended
	KeyReused        AcquireStatus = "reused"  // the request id stands for something else
	QuotaExceeded    AcquireStatus = "full"    // too many records of the caller are kept for one more
	// RecordUnreadable is of a record that was not written by who has the key: nobody knows what
	// became of the same request before.
	RecordUnreadable AcquireStatus = "unreadable"
	RateLimited      AcquireStatus = "over"     // Wait: there is no slot at the rate limit, for so long
	MustResolve      AcquireStatus = "unsettle" // InDoubt: this has to be resolved first, and the lock is given for that
)

// NoToken is the id of a team's token when there is none.
const NoToken = "-"

// AcquireResult is what became of an AcquireRequest.
type AcquireResult struct {
	Status         AcquireStatus
	Lock           Lock
	Wait           time.Duration // of Acquired: until the upstream may be asked
	CurrentTokenID string        // the id of the team's token, NoToken, or empty if it is not known
	LostTokenID    string        // the id of a token that the same request made, and whose secret was lost
	Response       Response
	InDoubt        InDoubtOperation
}

// Response is what a request's record has.
type Response struct {
	Sealed  []byte // sealed; empty once its time is over
	TokenID string // the id of the token that was made
	Failure string // what the caller is told instead of an answer
}

// InDoubtOperation is a change of which nobody knows what became.
type InDoubtOperation struct {
	Lock           Lock // to resolve it
	Operation      Operation
	Age            time.Duration // since it was begun
	HoldLeft       time.Duration // for which it may still be carried out; 0 or less when that is over
	CurrentTokenID string        // the id of the team's token before
}

// RecordState is what a record says after its lock was released.
type RecordState string

// The states of a record. An operation in doubt leaves it open.
const (
	RecordReset      RecordState = "forget" // nothing was done: the request may begin anew, or is RecordSecretLost again if it was before
	RecordCompleted  RecordState = "done"   // Response is what it is answered from now on
	RecordSecretLost RecordState = "lost"   // it was done, and the secret of Response.TokenID is lost: it may be done again
)

// Release is how a lock is released.
type Release struct {
	// InDoubt says that nobody knows what became of the change: it stays there to
	// be resolved. The team is held for the hold from the first time on that this is said.
	InDoubt bool
	// CurrentTokenID is the id of the team's token now, or NoToken; empty if it is not known, and
	// Unchanged if it is what it was.
	CurrentTokenID string
	Record         RecordState // of the record, if there is one
	Response       Response
}

// Unchanged stands for an id that did not change.
const Unchanged = "="
