package audit

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// Trail writes the lines of one call, which share a record. It goes with the call in
// its context, to all that is done for it, also after its caller has left, and as a
// snapshot to another replica. A nil Trail writes nothing. It is safe for concurrent use.
type Trail struct {
	log *Log

	mu              sync.Mutex
	record          Record
	attemptMade     bool
	attemptWritten  bool
	outcomeWritten  bool
	refusalUnlogged bool
	late            *Ending // came before the outcome was written
}

// Ending is how a call, or a change that went on without it, ended.
type Ending struct {
	Code, Reason, Outcome string
	TokenID               string // that was made; empty leaves the one that the call named
	RefusedOutcome        string // stands for an empty Outcome if the call was refused
	Duration              time.Duration
}

// What the policy decided, as Record.Decision has it.
const (
	DecisionAllow   = "allow"
	DecisionDeny    = "deny"
	DecisionPending = "pending" // the team of a token has to be known first
)

type trailKey struct{}

// NewTrail returns the trail of a call that r describes so far.
func (l *Log) NewTrail(r Record) *Trail { return &Trail{log: l, record: r} }

// Restore returns the trail that a snapshot is of. What can't be read of it is left out
// of the lines.
func (l *Log) Restore(snapshot json.RawMessage) *Trail {
	t := &Trail{log: l, attemptMade: true, attemptWritten: true, outcomeWritten: true}
	_ = json.Unmarshal(snapshot, &t.record)
	return t
}

// WithTrail returns a context of the call that t is the trail of.
func WithTrail(ctx context.Context, t *Trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// TrailFrom is the trail of ctx's call, or nil.
func TrailFrom(ctx context.Context) *Trail {
	t, _ := ctx.Value(trailKey{}).(*Trail)
	return t
}

// Update changes what the lines from now on say of the call.
func (t *Trail) Update(change func(*Record)) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.record)
}

// Record is what the lines say of the call by now.
func (t *Trail) Record() Record {
	if t == nil {
		return Record{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.record
}

// Snapshot is the record as another replica can restore it.
func (t *Trail) Snapshot() json.RawMessage {
	if t == nil {
		return nil
	}
	r := t.Record()
	text, err := r.MarshalJSON()
	if err != nil { // of no Record
		return nil
	}
	return text
}

// Attempt writes that the call is about to be carried out. After an error it must not
// be.
func (t *Trail) Attempt(ctx context.Context) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record.Event, t.record.Time = EventAttempt, time.Now()
	t.attemptMade = true
	if err := t.log.Attempt(ctx, &t.record); err != nil {
		return err
	}
	t.attemptWritten = true
	return nil
}

// Outcome writes what the caller is about to be told: as a refusal if no attempt was
// written, or the policy denied it.
func (t *Trail) Outcome(e Ending) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	event := EventOutcome
	if !t.attemptWritten || t.record.Decision == DecisionDeny {
		event = EventRefusal
	}
	if event == EventRefusal && e.Outcome == "" {
		e.Outcome = e.RefusedOutcome
	}
	t.end(event, e)
	if t.attemptMade {
		t.log.Outcome(&t.record)
	} else {
		t.refusalUnlogged = t.log.Refusal(&t.record)
	}
	t.outcomeWritten = true
	if t.late != nil {
		t.writeLate(*t.late)
	}
}

// Late writes how a change ended whose caller was answered before; after the line of
// that answer, if it is still to come.
func (t *Trail) Late(e Ending) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.outcomeWritten {
		t.late = &e
		return
	}
	t.writeLate(e)
}

func (t *Trail) writeLate(e Ending) {
	t.end(EventLate, e)
	t.log.Outcome(&t.record)
}

func (t *Trail) end(event string, e Ending) {
	r := &t.record
	r.Event, r.Time, r.Duration = event, time.Now(), e.Duration
	r.Code, r.Reason, r.Outcome = e.Code, e.Reason, e.Outcome
	if e.TokenID != "" {
		r.TokenID = e.TokenID
	}
}

// Retry writes that one more request that changes something is about to be sent for the
// call: by which method, and about which token. After an error it must not be.
func (t *Trail) Retry(ctx context.Context, method, tokenID string) error {
	if t == nil {
		return nil
	}
	r := t.aside(EventRedrive, Ending{TokenID: tokenID})
	r.Redrives = method
	return t.log.Attempt(context.WithoutCancel(ctx), &r)
}

// Resolved writes what became of the call, whose outcome was unknown, and which token
// it made.
func (t *Trail) Resolved(tokenID, outcome string) {
	if t == nil {
		return
	}
	r := t.aside(EventSettled, Ending{TokenID: tokenID, Outcome: outcome})
	t.log.Outcome(&r)
}

// aside is the record of a line that changes nothing of those after it.
func (t *Trail) aside(event string, e Ending) Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	aside := Trail{record: t.record}
	aside.end(event, e)
	return aside.record
}

// RefusalUnlogged reports whether refusals like this one come too fast for a line each.
func (t *Trail) RefusalUnlogged() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refusalUnlogged
}
