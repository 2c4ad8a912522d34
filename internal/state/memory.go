package state

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is the state of one replica, which is gone when the process is.
type Memory struct {
	times TTLs

	mu               sync.Mutex
	lastFencingToken int64 // of the last lock, whatever team it was of
	teams            map[string]*lockState
	records          map[string]*record
	recordsPerCaller map[string]int       // by caller, of how many requests the record is kept
	tat              map[string]time.Time // by bucket, when its next regular slot is
	tatMax           int                  // how many of these there may be before some are dropped
	expiredAt        time.Time
}

type lockState struct {
	owner          string // empty if nobody has the lock
	fencingToken   int64
	currentTokenID string
	operation      *Operation // begun, and not ended
	startedAt      time.Time  // and what follows is of it
	holdUntil      time.Time  // zero until its outcome is said to be unknown
	dueAt          time.Time
}

type record struct {
	caller      string
	fingerprint string
	state       RecordState // empty while it is open
	response    Response
	sealedUntil time.Time // when the answer goes
	expiresAt   time.Time
}

// NewMemory returns an empty state.
func NewMemory(t TTLs) *Memory {
	return &Memory{
		times: t, teams: make(map[string]*lockState), records: make(map[string]*record), recordsPerCaller: make(map[string]int), tat: make(map[string]time.Time), expiredAt: time.Now(),
	}
}

// Lease is 0: who has a lock is there to release it.
func (m *Memory) Lease() time.Duration { return 0 }

// Close does nothing.
func (m *Memory) Close() error { return nil }

// Acquire is of Store.
func (m *Memory) Acquire(_ context.Context, a AcquireRequest) (AcquireResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	r := m.record(a.Operation.IdempotencyKey, now)
	if r != nil && r.fingerprint != a.Fingerprint {
		return AcquireResult{Status: KeyReused}, nil
	}
	if r != nil && r.state == RecordCompleted {
		return AcquireResult{Status: Completed, Response: r.response}, nil
	}
	if r == nil && a.Operation.IdempotencyKey != "" && a.MaxRecords > 0 && m.recordsPerCaller[a.Operation.Caller] >= a.MaxRecords {
		return AcquireResult{Status: QuotaExceeded}, nil
	}
	t := m.teams[a.Operation.Team]
	if t != nil && t.operation != nil {
		same := r != nil && t.operation.IdempotencyKey == a.Operation.IdempotencyKey
		return m.conflict(t, a, same, now), nil
	}
	wait := m.reserve(a.Rate, now)
	if wait > a.Rate.MaxWait {
		return AcquireResult{Status: RateLimited, Wait: wait}, nil
	}
	if t == nil {
		t = &lockState{}
		m.teams[a.Operation.Team] = t
	}
	m.lastFencingToken++
	t.fencingToken = m.lastFencingToken
	t.owner, t.startedAt = a.Owner, now
	t.operation = &a.Operation
	lost := ""
	if a.Operation.IdempotencyKey != "" {
		if r != nil {
			lost = r.response.TokenID
		}
		m.deleteRecord(a.Operation.IdempotencyKey)
		m.records[a.Operation.IdempotencyKey] = &record{
			caller: a.Operation.Caller, fingerprint: a.Fingerprint, response: Response{TokenID: lost}, expiresAt: now.Add(m.times.Tombstone),
		}
		m.recordsPerCaller[a.Operation.Caller]++
	}
	return AcquireResult{
		Status: Acquired, Lock: Lock{a.Operation.Team, a.Owner, t.fencingToken, now, a.Operation.IdempotencyKey, nil}, Wait: wait, CurrentTokenID: t.currentTokenID, LostTokenID: lost,
	}, nil
}

// conflict is the answer to who asks for a team of which something is not ended.
func (m *Memory) conflict(t *lockState, a AcquireRequest, same bool, now time.Time) AcquireResult {
	switch {
	case t.owner != "" && same && t.holdUntil.IsZero():
		return AcquireResult{Status: DuplicateRunning}
	case t.owner != "" && t.holdUntil.IsZero():
		return AcquireResult{Status: Locked}
	case t.owner == "" && !t.dueAt.After(now):
		return AcquireResult{Status: MustResolve, InDoubt: m.takeOver(t, a.Owner, now)}
	case same:
		return AcquireResult{Status: DuplicateInDoubt, Wait: t.holdUntil.Sub(now)}
	default:
		return AcquireResult{Status: InDoubt, Wait: t.holdUntil.Sub(now)}
	}
}

func (m *Memory) takeOver(t *lockState, owner string, now time.Time) InDoubtOperation {
	m.lastFencingToken++
	t.fencingToken, t.owner = m.lastFencingToken, owner
	return InDoubtOperation{
		Lock: Lock{t.operation.Team, owner, t.fencingToken, now, t.operation.IdempotencyKey, nil}, Operation: *t.operation,
		Age: now.Sub(t.startedAt), HoldLeft: t.holdUntil.Sub(now), CurrentTokenID: t.currentTokenID,
	}
}

// deleteRecord takes the record of a key away, if there is one.
func (m *Memory) deleteRecord(key string) {
	r := m.records[key]
	if r == nil {
		return
	}
	delete(m.records, key)
	if m.recordsPerCaller[r.caller]--; m.recordsPerCaller[r.caller] == 0 {
		delete(m.recordsPerCaller, r.caller)
	}
}

// record is the record of a key as it is by now.
func (m *Memory) record(key string, now time.Time) *record {
	r := m.records[key]
	if r == nil || now.After(r.expiresAt) {
		return nil
	}
	if r.state == RecordCompleted && now.After(r.sealedUntil) {
		r.response.Sealed = nil
	}
	return r
}

// Renew is of Store.
func (m *Memory) Renew(_ context.Context, t Lock) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if own := m.teams[t.Team]; own == nil || own.owner != t.Owner || own.fencingToken != t.FencingToken {
		return ErrFenced
	}
	return nil
}

// Restart is of Store.
func (m *Memory) Restart(ctx context.Context, t Lock, known string) error {
	if err := m.Renew(ctx, t); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.teams[t.Team].currentTokenID, m.teams[t.Team].startedAt = known, time.Now()
	return nil
}

// Release is of Store.
func (m *Memory) Release(_ context.Context, t Lock, e Release) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	own := m.teams[t.Team]
	if own == nil || own.owner != t.Owner || own.fencingToken != t.FencingToken {
		return ErrFenced
	}
	own.owner = ""
	if e.InDoubt {
		if own.holdUntil.IsZero() {
			own.holdUntil = now.Add(m.times.Hold)
		}
		own.dueAt = now.Add(m.times.checkInterval())
		return nil
	}
	own.operation, own.holdUntil, own.dueAt = nil, time.Time{}, time.Time{}
	if e.CurrentTokenID != Unchanged {
		own.currentTokenID = e.CurrentTokenID
	}
	if own.currentTokenID == "" {
		delete(m.teams, t.Team)
	}
	if t.idempotencyKey == "" {
		return nil
	}
	switch r := m.records[t.idempotencyKey]; {
	case r == nil:
	case e.Record == RecordReset && r.response.TokenID != "":
		r.state = RecordSecretLost
	case e.Record == RecordReset:
		m.deleteRecord(t.idempotencyKey)
	default:
		r.state, r.response = e.Record, e.Response
		r.sealedUntil, r.expiresAt = now.Add(m.times.Response), now.Add(m.times.Tombstone)
	}
	return nil
}

// ListInDoubt is of Store.
func (m *Memory) ListInDoubt(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	var due []string
	for name, t := range m.teams {
		if t.operation != nil && t.owner == "" && !t.dueAt.After(now) && len(due) < maxInDoubt {
			due = append(due, name)
		}
	}
	slices.Sort(due)
	return due, nil
}

// maxInDoubt is how many teams are resolved in one go.
const maxInDoubt = 100

// expire lets go of what has had its time, once a minute.
func (m *Memory) expire(now time.Time) {
	if now.Sub(m.expiredAt) < time.Minute {
		return
	}
	m.expiredAt = now
	for key := range m.records {
		if m.record(key, now) == nil {
			m.deleteRecord(key)
		}
	}
	for bucket, tat := range m.tat {
		if tat.Before(now) {
			delete(m.tat, bucket)
		}
	}
	for name, t := range m.teams {
		if t.operation == nil && now.Sub(t.startedAt) > m.times.Tombstone {
			delete(m.teams, name)
		}
	}
}

// AcquireInDoubt is of Store.
func (m *Memory) AcquireInDoubt(_ context.Context, name, owner string) (InDoubtOperation, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	t := m.teams[name]
	if t == nil || t.operation == nil || t.owner != "" || t.dueAt.After(now) {
		return InDoubtOperation{}, false, nil
	}
	return m.takeOver(t, owner, now), true, nil
}

// ReserveRate is of Store.
func (m *Memory) ReserveRate(_ context.Context, s RateRequest) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reserve(s, time.Now()), nil
}

func (m *Memory) reserve(s RateRequest, now time.Time) time.Duration {
	if s.Interval == 0 {
		return 0
	}
	tat := m.tat[s.Key]
	wait := max(tat.Add(-s.Burst).Sub(now), 0)
	if wait > s.MaxWait {
		return wait
	}
	if tat.Before(now) {
		tat = now
	}
	m.sweepBuckets(now)
	m.tat[s.Key] = tat.Add(s.Interval)
	return wait
}

// BlockRate is of Store.
func (m *Memory) BlockRate(_ context.Context, s RateRequest, d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweepBuckets(time.Now())
	if until := time.Now().Add(d + s.Burst); until.After(m.tat[s.Key]) {
		m.tat[s.Key] = until
	}
	return nil
}

// Heartbeat is of Store: there is one replica.
func (m *Memory) Heartbeat(context.Context, string) (ClusterStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := ClusterStatus{Replicas: 1}
	for _, t := range m.teams {
		if !t.holdUntil.IsZero() {
			p.InDoubt++
		}
	}
	return p, nil
}
