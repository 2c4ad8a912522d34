package state

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/sony/gobreaker/v2"

	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// Redis is the state of any number of replicas, in one slot of a Redis or Valkey:
// that is what lets a step touch a team, a record and the rate limit at once, and it
// is enough for an upstream that takes thirty requests a second.
type Redis struct {
	client      redis.UniversalClient
	circuit     *gobreaker.TwoStepCircuitBreaker[any]
	times       TTLs
	prefix      string
	observe     func(ctx context.Context, step, failure string, d time.Duration)
	keys        func() *seal.Keys
	rejected    func(ctx context.Context, kind, team string, why error)
	ended       recentSet    // by the owners that they were begun with, operations that ended here
	withdrawn   recentSet    // and those of which nothing was done
	clockOffset atomic.Int64 // how far Redis's clock is ahead of ours, in milliseconds; 0 if it was not asked
}

// The circuit spares callers the wait for a Redis that is not there.
const (
	circuitFailures = 3
	circuitProbe    = 500 * time.Millisecond
)

// maxEnded is how many changes that ended here are remembered, at least: five minutes'
// worth, at the rate that HCP Terraform takes.
const maxEnded = 8192

// runScript asks Redis for a step.
func (r *Redis) runScript(ctx context.Context, s script, keys []string, args ...any) *redis.Cmd {
	asked := time.Now()
	cmd := r.callThroughBreaker(ctx, s, keys, args...)
	if r.observe != nil {
		r.observe(ctx, s.name, failureOf(cmd.Err()), time.Since(asked))
	}
	return cmd
}

func (r *Redis) callThroughBreaker(ctx context.Context, s script, keys []string, args ...any) *redis.Cmd {
	tell, err := r.circuit.Allow()
	if err != nil && !s.always {
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(errCircuitOpen)
		return cmd
	}
	news := errPanic
	if tell != nil {
		defer func() { tell(news) }() // also of a panic: a half-open circuit would wait for this result for ever
	}
	answered := r.suspect(ctx)
	cmd := s.script.Run(ctx, r.client, keys, args...)
	answered(cmd.Err())
	var said redis.Error
	if news = cmd.Err(); errors.As(news, &said) || ctx.Err() != nil {
		news = nil
	}
	return cmd
}

// failureOf is a name for what went wrong.
func failureOf(err error) string {
	var said redis.Error
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errCircuitOpen):
		return "circuit_open"
	case errors.As(err, &said):
		return "refused"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	default:
		return "unreachable"
	}
}

var (
	errCircuitOpen = errors.New("state: Redis did not answer lately, so it was not asked")
	errPanic       = errors.New("state: the request to Redis panicked")
)

// RedisOptions say which Redis, and how to reach it.
type RedisOptions struct {
	// URL is redis:// or rediss://, with `master_name` among its parameters for
	// Sentinel, or `cluster=true` for Cluster, and `addr` for each further node. It may
	// hold a password.
	URL secret.Text
	// Password, if set, is asked for at each connection, and goes before the URL's.
	Password func() secret.Text
	// TLS, if set, is asked for at each connection by rediss://, which trusts the
	// system's CAs without it.
	TLS func() *tls.Config
	// Prefix keeps several services in one Redis apart.
	Prefix string
	Times  TTLs
	// Keys seal what leads to an action or an answer. They must be set.
	Keys func() *seal.Keys
	// Rejected, if set, is called for each value in Redis that was rejected, with its kind,
	// its team (as whoever wrote it says) and the reason.
	Rejected func(ctx context.Context, kind, team string, why error)
	// Observe, if set, is told of every step that ended: its name, that of what went
	// wrong, if anything, and how long it took.
	Observe func(ctx context.Context, step, failure string, d time.Duration)
}

// Time-outs of one step. A call that has to wait longer than this for Redis is
// refused, and it is better that it is soon.
const (
	dialTimeout = time.Second
	stepTimeout = time.Second
	// idleConnections are kept; more are made when many ask at once.
	idleConnections = 4
	// connectionLife is how long one is used: certificates, CAs and passwords change.
	connectionLife = 5 * time.Minute
)

// OpenRedis returns the state in Redis, which need not be there yet. An error says
// what is wrong with the URL, and never shows it.
func OpenRedis(o RedisOptions) (*Redis, error) {
	redis.SetLogger(discardLogger{})
	u, err := options(o.URL)
	if err != nil {
		return nil, err
	}
	u.DialTimeout, u.ReadTimeout, u.WriteTimeout, u.ContextTimeoutEnabled = dialTimeout, stepTimeout, stepTimeout, true
	u.MaxRetries, u.DialerRetries = 1, 1
	u.PoolTimeout, u.MaxIdleConns = stepTimeout, idleConnections
	u.DisableIdentity = true
	u.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	u.ConnMaxLifetime = connectionLife
	if u.TLSConfig != nil {
		u.Dialer, u.TLSConfig = dialer(u.TLSConfig.ServerName, o.TLS), nil
	}
	if o.Password != nil {
		user := u.Username
		u.CredentialsProvider = func() (string, string) { return user, o.Password().Reveal() }
	}
	circuit := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Timeout:     circuitProbe,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= circuitFailures },
	})
	return &Redis{
		client: connect(u), circuit: circuit, times: o.Times, prefix: "{" + o.Prefix + "}:", observe: o.Observe,
		keys: o.Keys, rejected: o.Rejected, ended: recentSet{size: maxEnded}, withdrawn: recentSet{size: maxEnded},
	}, nil
}

// discardLogger keeps the library from writing to standard error: what it has to say is
// in the errors of the steps.
type discardLogger struct{}

func (discardLogger) Printf(context.Context, string, ...any) {}

//go:embed lua/clock.lua
var clock string

//go:embed lua/kept.lua
var keptText string

//go:embed lua/drop.lua
var dropText string

//go:embed lua/begin.lua
var beginText string

//go:embed lua/end.lua
var endText string

//go:embed lua/renew.lua
var renewText string

//go:embed lua/claim.lua
var claimText string

//go:embed lua/due.lua
var dueText string

//go:embed lua/reserve.lua
var reserveText string

//go:embed lua/pause.lua
var pauseText string

//go:embed lua/beat.lua
var beatText string

// script is what Redis does at once. What ends something is tried whatever happened to
// others before; the rest is not while Redis is known to be away.
type script struct {
	name   string
	script *redis.Script
	always bool
}

var (
	acquireScript   = script{"begin", redis.NewScript(clock + queueText + keptText + beginText), false}
	releaseScript   = script{"end", redis.NewScript(clock + keptText + endText), true}
	dropScript      = script{"drop", redis.NewScript(clock + dropText), true}
	clockScript     = script{"tick", redis.NewScript(clock + "return n(now)"), false}
	renewScript     = script{"renew", redis.NewScript(clock + renewText), true}
	takeOverScript  = script{"claim", redis.NewScript(clock + claimText), false}
	listScript      = script{"due", redis.NewScript(clock + dueText), false}
	reserveScript   = script{"reserve", redis.NewScript(clock + reserveText), false}
	blockScript     = script{"pause", redis.NewScript(clock + pauseText), false}
	heartbeatScript = script{"beat", redis.NewScript(clock + beatText), false}
)

func (r *Redis) teamKey(name string) string               { return r.prefix + "team:" + name }
func (r *Redis) recordKey(key string) string              { return r.prefix + "record:" + key }
func (r *Redis) responseKey(key string) string            { return r.prefix + "answer:" + key }
func (r *Redis) rateKey(name string) string               { return r.prefix + "budget:" + name }
func (r *Redis) releasedKey(owner string) string          { return r.prefix + "ended:" + owner }
func (r *Redis) inDoubtKey() string                       { return r.prefix + "unsettled" }
func (r *Redis) recordsPerCallerKey(caller string) string { return r.prefix + "kept:" + caller }
func (r *Redis) heldKey() string                          { return r.prefix + "held" }
func (r *Redis) replicasKey() string                      { return r.prefix + "replicas" }

// Lease is of Store.
func (r *Redis) Lease() time.Duration { return r.times.leaseTTL() }

// Close ends the connections.
func (r *Redis) Close() error { return r.client.Close() }

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

// now is the time by Redis's clock, in milliseconds, or a little earlier.
func (r *Redis) now(ctx context.Context) (int64, error) {
	if r.clockOffset.Load() == 0 {
		now, err := r.runScript(ctx, clockScript, []string{r.inDoubtKey()}).Int64()
		if err != nil {
			return 0, fmt.Errorf("state: %w", err)
		}
		r.clockOffset.Store(cmp.Or(now-time.Now().UnixMilli(), 1))
	}
	return time.Now().UnixMilli() + r.clockOffset.Load(), nil
}

// What a script answers that is no AcquireStatus.
const (
	statusRecord AcquireStatus = "record" // there is a record, which the script can't read
	statusBroken AcquireStatus = "broken" // what is kept of the team is nothing that a script writes
)

// statusExpired is what becomes of an Ask that Redis read too statusExpired.
const statusExpired AcquireStatus = "late"

var errExpired = errors.New("state: Redis took too long to begin")

var errReply = errors.New("state: Redis gave an answer that no script of this version gives")

// reply is what a script returned: strings.
type reply []any

func parseReply(cmd *redis.Cmd) (reply, error) {
	s, err := cmd.Slice()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

func (r reply) str(i int) string {
	if i >= len(r) {
		return ""
	}
	s, _ := r[i].(string)
	return s
}

func (r reply) int(i int) int64 {
	n, _ := strconv.ParseInt(r.str(i), 10, 64)
	return n
}

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

// ReserveRate is of Store.
func (r *Redis) ReserveRate(ctx context.Context, s RateRequest) (time.Duration, error) {
	if s.Interval == 0 {
		return 0, nil
	}
	wait, err := r.runScript(ctx, reserveScript, []string{r.rateKey(s.Key)},
		s.Interval.Microseconds(), s.Burst.Microseconds(), s.MaxWait.Microseconds()).Int64()
	if err != nil {
		return 0, fmt.Errorf("state: %w", err)
	}
	return time.Duration(wait) * time.Microsecond, nil
}

// BlockRate is of Store.
func (r *Redis) BlockRate(ctx context.Context, s RateRequest, d time.Duration) error {
	if err := r.runScript(ctx, blockScript, []string{r.rateKey(s.Key)}, (d + s.Burst).Microseconds()).Err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Heartbeat is of Store.
func (r *Redis) Heartbeat(ctx context.Context, replica string) (ClusterStatus, error) {
	reply, err := parseReply(r.runScript(ctx, heartbeatScript, []string{r.replicasKey(), r.heldKey()}, replica, heartbeatTTL.Milliseconds()))
	if err != nil {
		return ClusterStatus{}, err
	}
	r.clockOffset.Store(cmp.Or(reply.int(1)-time.Now().UnixMilli(), 1))
	return ClusterStatus{Replicas: int(reply.int(0)), InDoubt: int(reply.int(2))}, nil
}
