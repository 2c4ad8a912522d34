package state

import (
	"context"
	"crypto/rand"
	"errors"
	"time"
)

// Store is the state, in memory or in Redis. Every error but ErrFenced says that
// the store could not be asked, and that what was asked for may have been done.
type Store interface {
	// Begin asks for a team's turn, and for room in the budget.
	Begin(ctx context.Context, a Ask) (Answer, error)
	// Leave says that an Ask that was not granted will not be repeated: it waits no
	// longer in the queue for the lock.
	Leave(ctx context.Context, a Ask) error
	// Renew keeps a turn for another lease. ErrFenced says that it has ended.
	Renew(ctx context.Context, t Turn) error
	// Redo says that the change of a turn is begun anew, and that the team's token is
	// known by now: of what was sent before, nothing is left to be found out.
	Redo(ctx context.Context, t Turn, known string) error
	// End gives a turn back. ErrFenced says that it had ended by itself, and that
	// nothing was written. The same End may be repeated for a while.
	End(ctx context.Context, t Turn, e End) error
	// Due lists teams with something to settle, up to 100.
	Due(ctx context.Context) ([]string, error)
	// Claim takes the turn of a team to settle what is due there; ok is false if
	// nothing is.
	Claim(ctx context.Context, team, holder string) (u Unsettled, ok bool, err error)
	// Reserve asks for room in the budget alone. It returns how long to wait; more
	// than s.MaxWait says that there is none, and that none was taken.
	Reserve(ctx context.Context, s Slot) (wait time.Duration, err error)
	// Pause keeps the budget of s from being used for a time.
	Pause(ctx context.Context, s Slot, d time.Duration) error
	// Beat says that a replica lives, and returns what there is to know of all.
	Beat(ctx context.Context, replica string) (Pulse, error)
	// Lease is how long a turn lasts that is not renewed; 0 for ever.
	Lease() time.Duration
	Close() error
}

// Pulse is what is known of all replicas together.
type Pulse struct {
	Replicas int // that live
	Held     int // teams that are held back, since an outcome is unknown
}

// ErrFenced says that a turn has ended, and that another may have begun.
var ErrFenced = errors.New("state: the turn is another's by now")

// Times are how long things last.
type Times struct {
	Hold      time.Duration // how long an unknown outcome keeps others away
	Answer    time.Duration // how long an answer is kept
	Tombstone time.Duration // how long it is known that there was one
}

// The times that nobody sets.
const (
	answerLife    = 10 * time.Minute
	tombstoneLife = 24 * time.Hour
	maxLease      = 10 * time.Second
	minLease      = 300 * time.Millisecond
	checkInterval = time.Second
	beatLife      = 5 * time.Second
)

// NewTimes are the times for a hold.
func NewTimes(hold time.Duration) Times {
	return Times{Hold: hold, Answer: answerLife, Tombstone: tombstoneLife}
}

// lease is a third of the hold, so that what a dead replica left is settled
// before twice the hold is over.
func (t Times) lease() time.Duration { return min(max(t.Hold/3, minLease), maxLease) }

// check is how often it is looked whether an outcome is known by now.
func (t Times) check() time.Duration { return min(t.Hold/4, checkInterval) }

// Change is what is about to be done, as it is written down.
type Change struct {
	Method      string `json:"method"` // the RPC
	Team        string `json:"team"`
	Token       string `json:"token,omitempty"`    // by its id, where the change names it
	Expected    string `json:"expected,omitempty"` // the id of the token that it replaces
	Description string `json:"description,omitempty"`
	Bucket      string `json:"bucket"`           // whose credential it is made with
	Caller      string `json:"caller,omitempty"` // whose record it has, of whose there may be so many
	Record      string `json:"record,omitempty"` // of its request id; empty if it has none
	// Journal is what else has to be known to settle it. Another process gets it as
	// JSON decodes it.
	Journal any `json:"journal,omitempty"`
}

// Slot is a request for room in a budget, which lets a request pass at every
// Interval, and after a pause up to Burst's worth at once. Without an Interval
// there is always room.
type Slot struct {
	Bucket                   string
	Interval, Burst, MaxWait time.Duration
}

// Ask is a request for a team's turn.
type Ask struct {
	Change Change
	// Holder is who asks, in words that nobody else has: NewHolder's. The same
	// Ask may be repeated.
	Holder string
	Params string // a hash of what is asked for, which a request id stands for
	Slot   Slot
	Waiter Waiter
	// MaxRecords is how many records may be kept of the caller; 0 is no limit.
	MaxRecords int
}

// NewHolder is a name for one who asks.
func NewHolder() string { return rand.Text() }

// Turn is the right to change a team's token.
type Turn struct {
	Team, Holder string
	Epoch        int64
	Asked        time.Time // for it, by this process's clock: the lease is no shorter from then on
	record       string    // of the change that it is about
	op           *begun    // what was written down of that, in Redis
}

// Verdict is what became of an Ask.
type Verdict string

// The verdicts, and what else of an Answer goes with each.
const (
	Granted Verdict = "granted" // Turn, Wait, Known, Lost
	Busy    Verdict = "busy"    // Wait: another change is under way, for so long at most unless it is renewed
	Held    Verdict = "held"    // Wait: another change's outcome is unknown, for so long at most
	Running Verdict = "running" // the same request is under way
	Unknown Verdict = "unknown" // Wait: the same request's outcome is unknown, for so long at most
	Done    Verdict = "done"    // Recorded: the same request ended
	Reused  Verdict = "reused"  // the request id stands for something else
	Full    Verdict = "full"    // too many records of the caller are kept for one more
	// Unreadable is of a record that was not written by who has the key: nobody knows what
	// became of the same request before.
	Unreadable Verdict = "unreadable"
	Over       Verdict = "over"     // Wait: the budget is used up, for so long
	Unsettle   Verdict = "unsettle" // Unsettled: this has to be settled first, and the turn is given for that
)

// None is the id of a team's token when there is none.
const None = "-"

// Answer is what became of an Ask.
type Answer struct {
	Verdict   Verdict
	Turn      Turn
	Wait      time.Duration // of Granted: until the upstream may be asked
	Known     string        // the id of the team's token, None, or empty if it is not known
	Lost      string        // the id of a token that the same request made, and whose secret was lost
	Recorded  Recorded
	Unsettled Unsettled
}

// Recorded is what a request's record has.
type Recorded struct {
	Answer  []byte // sealed; empty once its time is over
	Token   string // the id of the token that was made
	Failure string // what the caller is told instead of an answer
}

// Unsettled is a change of which nobody knows what became.
type Unsettled struct {
	Turn   Turn // to settle it
	Change Change
	Since  time.Duration // since it was begun
	Hold   time.Duration // for which it may still land; 0 or less when that is over
	Known  string        // the id of the team's token before
}

// Fate is what a record says after the end of a turn.
type Fate string

// The fates of a record. An unknown outcome leaves it open.
const (
	Forget Fate = "forget" // nothing was done: the request may begin anew, or is Lost again if it was before
	Keep   Fate = "done"   // Recorded is what it is answered from now on
	Lost   Fate = "lost"   // it was done, and the secret of Recorded.Token is lost: it may be done again
)

// End is how a turn ends.
type End struct {
	// Unknown says that nobody knows what became of the change: it stays there to
	// be settled. It is held for the hold from the first time on that this is said.
	Unknown bool
	// Known is the id of the team's token now, or None; empty if it is not known, and
	// Same if it is what it was.
	Known    string
	Fate     Fate // of the record, if there is one
	Recorded Recorded
}

// Same stands for an id that did not change.
const Same = "="
