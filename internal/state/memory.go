package state

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is the state of one replica, which is gone when the process is.
type Memory struct {
	times Times

	mu      sync.Mutex
	epoch   int64 // of the last lock, whatever team it was of
	teams   map[string]*team
	records map[string]*record
	kept    map[string]int       // by caller, of how many requests the record is kept
	tat     map[string]time.Time // by bucket, when its next regular slot is
	tatMax  int                  // how many of these there may be before some are dropped
	swept   time.Time
}

type team struct {
	holder string // empty if nobody has the turn
	epoch  int64
	known  string
	change *Change   // begun, and not ended
	begun  time.Time // and what follows is of it
	hold   time.Time // zero until its outcome is said to be unknown
	due    time.Time
}

type record struct {
	caller  string
	params  string
	fate    Fate // empty while it is open
	what    Recorded
	answer  time.Time // when the answer goes
	expires time.Time
}

// NewMemory returns an empty state.
func NewMemory(t Times) *Memory {
	return &Memory{
		times: t, teams: make(map[string]*team), records: make(map[string]*record), kept: make(map[string]int), tat: make(map[string]time.Time), swept: time.Now(),
	}
}

// Lease is 0: who has a turn is there to end it.
func (m *Memory) Lease() time.Duration { return 0 }

// Close does nothing.
func (m *Memory) Close() error { return nil }

// Begin is of Store.
func (m *Memory) Begin(_ context.Context, a Ask) (Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	r := m.record(a.Change.Record, now)
	if r != nil && r.params != a.Params {
		return Answer{Verdict: Reused}, nil
	}
	if r != nil && r.fate == Keep {
		return Answer{Verdict: Done, Recorded: r.what}, nil
	}
	if r == nil && a.Change.Record != "" && a.MaxRecords > 0 && m.kept[a.Change.Caller] >= a.MaxRecords {
		return Answer{Verdict: Full}, nil
	}
	t := m.teams[a.Change.Team]
	if t != nil && t.change != nil {
		same := r != nil && t.change.Record == a.Change.Record
		return m.occupied(t, a, same, now), nil
	}
	wait := m.reserve(a.Slot, now)
	if wait > a.Slot.MaxWait {
		return Answer{Verdict: Over, Wait: wait}, nil
	}
	if t == nil {
		t = &team{}
		m.teams[a.Change.Team] = t
	}
	m.epoch++
	t.epoch = m.epoch
	t.holder, t.begun = a.Holder, now
	t.change = &a.Change
	lost := ""
	if a.Change.Record != "" {
		if r != nil {
			lost = r.what.Token
		}
		m.forget(a.Change.Record)
		m.records[a.Change.Record] = &record{
			caller: a.Change.Caller, params: a.Params, what: Recorded{Token: lost}, expires: now.Add(m.times.Tombstone),
		}
		m.kept[a.Change.Caller]++
	}
	return Answer{
		Verdict: Granted, Turn: Turn{a.Change.Team, a.Holder, t.epoch, now, a.Change.Record, nil}, Wait: wait, Known: t.known, Lost: lost,
	}, nil
}

// occupied is the answer to who asks for a team of which something is not ended.
func (m *Memory) occupied(t *team, a Ask, same bool, now time.Time) Answer {
	switch {
	case t.holder != "" && same && t.hold.IsZero():
		return Answer{Verdict: Running}
	case t.holder != "" && t.hold.IsZero():
		return Answer{Verdict: Busy}
	case t.holder == "" && !t.due.After(now):
		return Answer{Verdict: Unsettle, Unsettled: m.claim(t, a.Holder, now)}
	case same:
		return Answer{Verdict: Unknown, Wait: t.hold.Sub(now)}
	default:
		return Answer{Verdict: Held, Wait: t.hold.Sub(now)}
	}
}

func (m *Memory) claim(t *team, holder string, now time.Time) Unsettled {
	m.epoch++
	t.epoch, t.holder = m.epoch, holder
	return Unsettled{
		Turn: Turn{t.change.Team, holder, t.epoch, now, t.change.Record, nil}, Change: *t.change,
		Since: now.Sub(t.begun), Hold: t.hold.Sub(now), Known: t.known,
	}
}

// forget takes the record of a key away, if there is one.
func (m *Memory) forget(key string) {
	r := m.records[key]
	if r == nil {
		return
	}
	delete(m.records, key)
	if m.kept[r.caller]--; m.kept[r.caller] == 0 {
		delete(m.kept, r.caller)
	}
}

// record is the record of a key as it is by now.
func (m *Memory) record(key string, now time.Time) *record {
	r := m.records[key]
	if r == nil || now.After(r.expires) {
		return nil
	}
	if r.fate == Keep && now.After(r.answer) {
		r.what.Answer = nil
	}
	return r
}

// Renew is of Store.
func (m *Memory) Renew(_ context.Context, t Turn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if own := m.teams[t.Team]; own == nil || own.holder != t.Holder || own.epoch != t.Epoch {
		return ErrFenced
	}
	return nil
}

// Redo is of Store.
func (m *Memory) Redo(ctx context.Context, t Turn, known string) error {
	if err := m.Renew(ctx, t); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.teams[t.Team].known, m.teams[t.Team].begun = known, time.Now()
	return nil
}

// End is of Store.
func (m *Memory) End(_ context.Context, t Turn, e End) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	own := m.teams[t.Team]
	if own == nil || own.holder != t.Holder || own.epoch != t.Epoch {
		return ErrFenced
	}
	own.holder = ""
	if e.Unknown {
		if own.hold.IsZero() {
			own.hold = now.Add(m.times.Hold)
		}
		own.due = now.Add(m.times.check())
		return nil
	}
	own.change, own.hold, own.due = nil, time.Time{}, time.Time{}
	if e.Known != Same {
		own.known = e.Known
	}
	if own.known == "" {
		delete(m.teams, t.Team)
	}
	if t.record == "" {
		return nil
	}
	switch r := m.records[t.record]; {
	case r == nil:
	case e.Fate == Forget && r.what.Token != "":
		r.fate = Lost
	case e.Fate == Forget:
		m.forget(t.record)
	default:
		r.fate, r.what = e.Fate, e.Recorded
		r.answer, r.expires = now.Add(m.times.Answer), now.Add(m.times.Tombstone)
	}
	return nil
}

// Due is of Store.
func (m *Memory) Due(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.sweep(now)
	var due []string
	for name, t := range m.teams {
		if t.change != nil && t.holder == "" && !t.due.After(now) && len(due) < maxDue {
			due = append(due, name)
		}
	}
	slices.Sort(due)
	return due, nil
}

// maxDue is how many teams are settled in one go.
const maxDue = 100

// sweep lets go of what has had its time, once a minute.
func (m *Memory) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Minute {
		return
	}
	m.swept = now
	for key := range m.records {
		if m.record(key, now) == nil {
			m.forget(key)
		}
	}
	for bucket, tat := range m.tat {
		if tat.Before(now) {
			delete(m.tat, bucket)
		}
	}
	for name, t := range m.teams {
		if t.change == nil && now.Sub(t.begun) > m.times.Tombstone {
			delete(m.teams, name)
		}
	}
}

// Claim is of Store.
func (m *Memory) Claim(_ context.Context, name, holder string) (Unsettled, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	t := m.teams[name]
	if t == nil || t.change == nil || t.holder != "" || t.due.After(now) {
		return Unsettled{}, false, nil
	}
	return m.claim(t, holder, now), true, nil
}

// Reserve is of Store.
func (m *Memory) Reserve(_ context.Context, s Slot) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reserve(s, time.Now()), nil
}

func (m *Memory) reserve(s Slot, now time.Time) time.Duration {
	if s.Interval == 0 {
		return 0
	}
	tat := m.tat[s.Bucket]
	wait := max(tat.Add(-s.Burst).Sub(now), 0)
	if wait > s.MaxWait {
		return wait
	}
	if tat.Before(now) {
		tat = now
	}
	m.sweepBuckets(now)
	m.tat[s.Bucket] = tat.Add(s.Interval)
	return wait
}

// Pause is of Store.
func (m *Memory) Pause(_ context.Context, s Slot, d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweepBuckets(time.Now())
	if until := time.Now().Add(d + s.Burst); until.After(m.tat[s.Bucket]) {
		m.tat[s.Bucket] = until
	}
	return nil
}

// Beat is of Store: there is one replica.
func (m *Memory) Beat(context.Context, string) (Pulse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Pulse{Replicas: 1}
	for _, t := range m.teams {
		if !t.hold.IsZero() {
			p.Held++
		}
	}
	return p, nil
}
