package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// What leads to an action or an answer is sealed before Redis is given it, and
// bound to where it belongs: to the service's prefix, and
//
//   - an operation to its team, and to the owner of the lock that it was begun with, which
//     is a random name of that lock alone;
//   - the team's current token to the team, and to the owner who wrote it down;
//   - a record to the caller's request.
//
// What does not open there, is too old, or is of a lock that this process saw the
// end of, leads to nothing. What Redis decides by itself (who holds a lock, until
// when, what is left of the rate) is plain: docs/security.md says what somebody
// who changes that can do.
const (
	sealedChange = "change"
	sealedKnown  = "known"
	sealedRecord = "record"
	// SealedAnswer is sealed by the package service, and not here.
	SealedAnswer = "answer"
)

// storedOperation is a change that was storedOperation, as it is written down.
type storedOperation struct {
	Operation   Operation `json:"change"`
	Fingerprint string    `json:"params,omitempty"`
	LostTokenID string    `json:"lost,omitempty"` // of Answer
	// At is when, by the store's clock, in milliseconds, or a little earlier; never later.
	At int64 `json:"at"`

	owner          string // the owner of the lock that it was begun with
	currentTokenID string // the id of the team's token, as of Answer
}

// knownToken is what is known of a team.
type knownToken struct {
	ID string `json:"id"`
	At int64  `json:"at"`
}

// storedRecord is a record.
type storedRecord struct {
	Fingerprint string      `json:"params"`
	State       RecordState `json:"fate,omitempty"` // empty while it is open
	TokenID     string      `json:"token,omitempty"`
	Failure     string      `json:"failure,omitempty"`
	At          int64       `json:"at"`
}

// resolveWithin is how long after it was begun an operation is resolved. A copy of an older
// one, put back, leads to nothing.
const resolveWithin = time.Hour

// clockSlack allows for clocks that differ and for delays before a value is written.
const clockSlack = time.Minute

// Why something was rejected.
var (
	errForged   = errors.New("it can't be opened: sealed by no key of TEAMTOKEN_STATE_KEY_FILE, altered, or moved from another place")
	errOld      = errors.New("it is too old")
	errReplayed = errors.New("it was ended by this process before")
)

func (r *Redis) seal(kind string, value any, where ...string) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return r.keys().Seal(secret.New(string(text)), r.associatedData(kind, where))
}

// open reads what was sealed for the same place.
func (r *Redis) open(kind, sealed string, value any, where ...string) error {
	text, err := r.keys().Open([]byte(sealed), r.associatedData(kind, where))
	if err != nil || json.Unmarshal([]byte(text.Reveal()), value) != nil {
		return errForged
	}
	return nil
}

func (r *Redis) associatedData(kind string, where []string) string {
	return fmt.Sprintf("%s %q %q", kind, r.prefix, where)
}

// isRecent reports whether something was written at most life before now.
func isRecent(at, now int64, life time.Duration) bool {
	return time.Duration(now-at)*time.Millisecond <= life+clockSlack && time.Duration(at-now)*time.Millisecond <= clockSlack
}

// openKnown is the id of a team's token, or empty if that is not known.
func (r *Redis) openKnown(ctx context.Context, team, sealed, by string, now int64) string {
	if sealed == "" {
		return ""
	}
	var k knownToken
	err := r.open(sealedKnown, sealed, &k, team, by)
	if err == nil && !isRecent(k.At, now, r.times.Tombstone) {
		err = errOld
	}
	if err != nil {
		r.reject(ctx, sealedKnown, team, err)
		return ""
	}
	return k.ID
}

func (r *Redis) sealKnown(team, id, by string, now int64) ([]byte, error) {
	if id == "" {
		return nil, nil
	}
	return r.seal(sealedKnown, knownToken{id, now}, team, by)
}

// openRecord is the record of a request.
func (r *Redis) openRecord(ctx context.Context, team, key, sealed string, now int64) (k storedRecord, ok bool) {
	err := r.open(sealedRecord, sealed, &k, key)
	if err == nil && !isRecent(k.At, now, r.times.Tombstone) {
		err = errOld
	}
	if err != nil {
		r.reject(ctx, sealedRecord, team, err)
	}
	return k, err == nil
}

// openOperation is an operation that is to be resolved.
func (r *Redis) openOperation(sealed, team, by string, now int64) (*storedOperation, error) {
	b := &storedOperation{owner: by}
	err := r.open(sealedChange, sealed, b, team, by)
	switch {
	case err != nil:
		return nil, err
	case b.Operation.Team != team:
		return nil, errForged
	case !isRecent(b.At, now, max(resolveWithin, 2*r.times.Hold)):
		return nil, errOld
	case r.ended.has(by):
		return nil, errReplayed
	}
	return b, nil
}

func (r *Redis) reject(ctx context.Context, kind, team string, why error) {
	if r.rejected != nil {
		r.rejected(ctx, kind, team, why)
	}
}

// recentSet are the newest of many names, at least size and at most twice as many.
type recentSet struct {
	mu       sync.Mutex
	size     int
	new, old map[string]struct{}
}

func (r *recentSet) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.new == nil || len(r.new) >= r.size {
		r.old, r.new = r.new, make(map[string]struct{})
	}
	r.new[name] = struct{}{}
}

func (r *recentSet) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, newer := r.new[name]
	_, older := r.old[name]
	return newer || older
}
