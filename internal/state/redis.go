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
// that is what lets a step touch a team, a record and the budget at once, and it
// is enough for an upstream that takes thirty requests a second.
type Redis struct {
	client   redis.UniversalClient
	circuit  *gobreaker.TwoStepCircuitBreaker[any]
	times    Times
	prefix   string
	observe  func(ctx context.Context, step, failure string, d time.Duration)
	keys     func() *seal.Keys
	rejected func(ctx context.Context, kind, team string, why error)
	over     recent       // by the holders that they were begun with, changes that ended here
	void     recent       // and those of which nothing was done
	ahead    atomic.Int64 // how far Redis's clock is ahead of ours, in milliseconds; 0 if it was not asked
}

// The circuit spares callers the wait for a Redis that is not there.
const (
	circuitFailures = 3
	circuitProbe    = 500 * time.Millisecond
)

// maxOver is how many changes that ended here are remembered, at least: five minutes'
// worth, at the rate that HCP Terraform takes.
const maxOver = 8192

// run asks Redis for a step.
func (r *Redis) run(ctx context.Context, s step, keys []string, args ...any) *redis.Cmd {
	asked := time.Now()
	cmd := r.ask(ctx, s, keys, args...)
	if r.observe != nil {
		r.observe(ctx, s.name, failureOf(cmd.Err()), time.Since(asked))
	}
	return cmd
}

func (r *Redis) ask(ctx context.Context, s step, keys []string, args ...any) *redis.Cmd {
	tell, err := r.circuit.Allow()
	if err != nil && !s.ends {
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(errAway)
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
	case errors.Is(err, errAway):
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
	errAway  = errors.New("state: Redis did not answer lately, so it was not asked")
	errPanic = errors.New("state: the request to Redis panicked")
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
	Times  Times
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
	redis.SetLogger(silent{})
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
		keys: o.Keys, rejected: o.Rejected, over: recent{size: maxOver}, void: recent{size: maxOver},
	}, nil
}

// silent keeps the library from writing to standard error: what it has to say is
// in the errors of the steps.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

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

// step is what Redis does at once. What ends something is tried whatever happened to
// others before; the rest is not while Redis is known to be away.
type step struct {
	name   string
	script *redis.Script
	ends   bool
}

var (
	begin   = step{"begin", redis.NewScript(clock + queueText + keptText + beginText), false}
	end     = step{"end", redis.NewScript(clock + keptText + endText), true}
	drop    = step{"drop", redis.NewScript(clock + dropText), true}
	tick    = step{"tick", redis.NewScript(clock + "return n(now)"), false}
	renew   = step{"renew", redis.NewScript(clock + renewText), true}
	claim   = step{"claim", redis.NewScript(clock + claimText), false}
	due     = step{"due", redis.NewScript(clock + dueText), false}
	reserve = step{"reserve", redis.NewScript(clock + reserveText), false}
	pause   = step{"pause", redis.NewScript(clock + pauseText), false}
	beat    = step{"beat", redis.NewScript(clock + beatText), false}
)

func (r *Redis) team(name string) string    { return r.prefix + "team:" + name }
func (r *Redis) record(key string) string   { return r.prefix + "record:" + key }
func (r *Redis) answer(key string) string   { return r.prefix + "answer:" + key }
func (r *Redis) bucket(name string) string  { return r.prefix + "budget:" + name }
func (r *Redis) ended(holder string) string { return r.prefix + "ended:" + holder }
func (r *Redis) unsettled() string          { return r.prefix + "unsettled" }
func (r *Redis) kept(caller string) string  { return r.prefix + "kept:" + caller }
func (r *Redis) held() string               { return r.prefix + "held" }
func (r *Redis) replicas() string           { return r.prefix + "replicas" }

// Lease is of Store.
func (r *Redis) Lease() time.Duration { return r.times.lease() }

// Close ends the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Begin is of Store.
func (r *Redis) Begin(ctx context.Context, a Ask) (Answer, error) {
	asked := time.Now()
	now, err := r.now(ctx)
	if err != nil {
		return Answer{}, err
	}
	key := a.Change.Record
	op := &begun{Change: a.Change, At: now, by: a.Holder}
	if key != "" {
		op.Params = a.Params
	}
	seen := ""
	for range maxSeen {
		reply, err := r.begin(ctx, a, op, seen, now)
		if err != nil {
			return Answer{}, err
		}
		if Verdict(reply.word(0)) != recorded {
			return r.begun(ctx, a, op, reply, asked, now)
		}
		seen = reply.word(1)
		k, ok := r.openRecord(ctx, a.Change.Team, key, seen, now)
		switch {
		case !ok:
			return Answer{Verdict: Unreadable}, nil
		case k.Params != a.Params:
			return Answer{Verdict: Reused}, nil
		case k.Fate == Keep:
			what := Recorded{Token: k.Token, Failure: k.Failure}
			if young(k.At, now, r.times.Answer) {
				what.Answer = []byte(reply.word(2))
			}
			return Answer{Verdict: Done, Recorded: what}, nil
		}
		op.Lost = k.Token // and the lock is asked for on the strength of this record
	}
	return Answer{}, errReply
}

// maxSeen is how often a record may change while a lock is asked for.
const maxSeen = 4

func (r *Redis) begin(ctx context.Context, a Ask, op *begun, seen string, now int64) (reply, error) {
	team, key := a.Change.Team, a.Change.Record
	change, err := r.seal(sealedChange, op, team, op.by)
	if err != nil {
		return nil, err
	}
	var record []byte
	if key != "" {
		if record, err = r.seal(sealedRecord, kept{Params: op.Params, Token: op.Lost, At: now}, key); err != nil {
			return nil, err
		}
	}
	quota := int64(math.MaxInt64)
	if a.MaxRecords > 0 {
		quota = int64(a.MaxRecords)
	}
	return words(r.run(ctx, begin,
		[]string{r.team(team), r.record(key), r.answer(key), r.unsettled(), r.bucket(a.Slot.Bucket), r.held(), r.kept(a.Change.Caller), r.queue(team)},
		append([]any{
			team, a.Holder, r.times.lease().Milliseconds(), r.times.Hold.Milliseconds(), change, record, seen,
			r.times.Tombstone.Milliseconds(), a.Slot.Interval.Microseconds(), a.Slot.Burst.Microseconds(), a.Slot.MaxWait.Microseconds(),
			now + beginLife.Milliseconds(), quota,
		}, a.Waiter.args()...)...,
	))
}

// begun reads what became of an Ask.
func (r *Redis) begun(ctx context.Context, a Ask, op *begun, reply reply, asked time.Time, now int64) (Answer, error) {
	team := a.Change.Team
	answer := Answer{Verdict: Verdict(reply.word(0))}
	switch answer.Verdict {
	case Granted:
		if old := reply.word(5); old != "" { // the same Ask, again
			k, ok := r.openRecord(ctx, team, a.Change.Record, old, now)
			if !ok {
				return Answer{Verdict: Unreadable}, nil
			}
			op.Lost = k.Token
		}
		op.known = r.openKnown(ctx, team, reply.word(3), reply.word(4), now)
		answer.Turn = Turn{team, a.Holder, reply.number(1), asked, a.Change.Record, op}
		answer.Wait = time.Duration(reply.number(2)) * time.Microsecond
		answer.Known, answer.Lost = op.known, op.Lost
	case Over:
		answer.Wait = time.Duration(reply.number(1)) * time.Microsecond
	case Unsettle:
		u, ok, err := r.unsettle(ctx, team, a.Holder, reply, asked)
		if err != nil {
			return Answer{}, err
		}
		if !ok {
			return Answer{Verdict: Held, Wait: r.times.Hold}, nil
		}
		answer.Unsettled = u
	case broken:
		r.reject(ctx, sealedChange, team, errForged)
		return Answer{Verdict: Held, Wait: r.times.Hold}, nil
	case Busy, Held, Running, Unknown:
		answer.Wait = time.Duration(reply.number(1)) * time.Millisecond
	case Full:
	case late:
		return Answer{}, errLate
	default:
		return Answer{}, errReply
	}
	return answer, nil
}

// beginLife is how long an Ask may be on its way: one that Redis reads later, since
// it hung, is of nobody who still waits.
const beginLife = 2 * stepTimeout

// now is the time by Redis's clock, in milliseconds, or a little earlier.
func (r *Redis) now(ctx context.Context) (int64, error) {
	if r.ahead.Load() == 0 {
		now, err := r.run(ctx, tick, []string{r.unsettled()}).Int64()
		if err != nil {
			return 0, fmt.Errorf("state: %w", err)
		}
		r.ahead.Store(cmp.Or(now-time.Now().UnixMilli(), 1))
	}
	return time.Now().UnixMilli() + r.ahead.Load(), nil
}

// What a script answers that is no Verdict of Begin.
const (
	recorded Verdict = "record" // there is a record, which the script can't read
	broken   Verdict = "broken" // what is kept of the team is nothing that a script writes
)

// late is what becomes of an Ask that Redis read too late.
const late Verdict = "late"

var errLate = errors.New("state: Redis took too long to begin")

var errReply = errors.New("state: Redis gave an answer that no script of this version gives")

// reply is what a script returned: strings.
type reply []any

func words(cmd *redis.Cmd) (reply, error) {
	s, err := cmd.Slice()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

func (r reply) word(i int) string {
	if i >= len(r) {
		return ""
	}
	s, _ := r[i].(string)
	return s
}

func (r reply) number(i int) int64 {
	n, _ := strconv.ParseInt(r.word(i), 10, 64)
	return n
}

// unsettle reads a change that has to be settled. One that can't be read is dropped.
func (r *Redis) unsettle(ctx context.Context, team, holder string, reply reply, asked time.Time) (Unsettled, bool, error) {
	now := reply.number(4)
	op, why := r.openBegun(reply.word(2), team, reply.word(3), now)
	turn := Turn{team, holder, reply.number(1), asked, "", op}
	if why != nil {
		r.reject(ctx, sealedChange, team, why)
		err := r.run(ctx, drop, []string{r.team(team), r.unsettled(), r.held()}, team, holder, turn.Epoch, r.times.Hold.Milliseconds()).Err()
		if err != nil {
			err = fmt.Errorf("state: %w", err)
		}
		return Unsettled{}, false, err
	}
	turn.record = op.Change.Record
	op.known = r.openKnown(ctx, team, reply.word(6), reply.word(7), now)
	if r.void.has(op.by) { // an Ask that Redis read when it had been withdrawn
		return Unsettled{}, false, r.End(ctx, turn, End{Known: Same, Fate: Forget})
	}
	since := time.Duration(now-op.At) * time.Millisecond
	return Unsettled{
		Turn: turn, Change: op.Change, Since: since, Known: op.known,
		Hold: max(time.Duration(reply.number(5)-now)*time.Millisecond, r.times.Hold-since), // whatever the plain one says
	}, true, nil
}

// Renew is of Store.
func (r *Redis) Renew(ctx context.Context, t Turn) error { return r.renew(ctx, t, nil, nil) }

// Redo is of Store.
func (r *Redis) Redo(ctx context.Context, t Turn, known string) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if t.op == nil {
		return ErrFenced
	}
	again := *t.op
	again.At, again.known = now, known
	change, err := r.seal(sealedChange, again, t.Team, again.by)
	if err != nil {
		return err
	}
	sealed, err := r.sealKnown(t.Team, known, again.by, now)
	if err != nil {
		return err
	}
	if err := r.renew(ctx, t, change, sealed); err != nil {
		return err
	}
	t.op.At, t.op.known = again.At, again.known // its other fields are read by renewals, at any time
	return nil
}

func (r *Redis) renew(ctx context.Context, t Turn, change, known []byte) error {
	by := ""
	if t.op != nil {
		by = t.op.by
	}
	return fenced(r.run(ctx, renew, []string{r.team(t.Team), r.unsettled()},
		t.Team, t.Holder, t.Epoch, r.times.lease().Milliseconds(), change, known, by))
}

// fenced is the error of a step that a turn is needed for.
func fenced(cmd *redis.Cmd) error {
	switch done, err := cmd.Int(); {
	case err != nil:
		return fmt.Errorf("state: %w", err)
	case done == 0:
		return ErrFenced
	}
	return nil
}

// End is of Store.
func (r *Redis) End(ctx context.Context, t Turn, e End) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if t.op == nil {
		return ErrFenced
	}
	op, unknown := t.op, "0"
	if e.Unknown {
		unknown = "1"
	}
	if e.Known == Same {
		e.Known = op.known
	}
	known, err := r.sealKnown(t.Team, e.Known, op.by, now)
	if err != nil {
		return err
	}
	what, more, err := r.recordAfter(op, e, now)
	if err != nil {
		return err
	}
	cmd := r.run(ctx, end,
		[]string{r.team(t.Team), r.record(t.record), r.answer(t.record), r.unsettled(), r.ended(t.Holder), r.held(), r.kept(op.Change.Caller)},
		t.Team, t.Holder, t.Epoch, unknown, r.times.Hold.Milliseconds(), r.times.check().Milliseconds(), known, op.by,
		what, more, e.Recorded.Answer, r.times.Answer.Milliseconds(), r.times.Tombstone.Milliseconds(),
	)
	if done, err := cmd.Int(); err == nil && done != 0 && !e.Unknown {
		if e.Fate == Forget && t.Holder == op.by {
			r.void.add(op.by)
		} else {
			r.over.add(op.by)
		}
	}
	return fenced(cmd)
}

// recordAfter is what a record says after the end of a turn, in the words of the
// script, and whether it is one more of those that are kept.
func (r *Redis) recordAfter(op *begun, e End, now int64) (what []byte, more string, err error) {
	k := kept{Params: op.Params, Fate: e.Fate, Token: e.Recorded.Token, Failure: e.Recorded.Failure, At: now}
	switch {
	case e.Unknown || e.Fate == "":
		return nil, "0", nil
	case e.Fate == Forget && op.Lost == "":
		return []byte(Forget), "0", nil
	case op.Change.Record == "":
		return nil, "0", nil
	case e.Fate == Forget:
		k.Fate, k.Token = Lost, op.Lost
	}
	what, err = r.seal(sealedRecord, k, op.Change.Record)
	if op.Lost == "" {
		return what, "1", err
	}
	return what, "0", err
}

// Due is of Store.
func (r *Redis) Due(ctx context.Context) ([]string, error) {
	teams, err := r.run(ctx, due, []string{r.unsettled()}, maxDue).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return teams, nil
}

// Claim is of Store.
func (r *Redis) Claim(ctx context.Context, team, holder string) (Unsettled, bool, error) {
	asked := time.Now()
	reply, err := words(r.run(ctx, claim, []string{r.team(team), r.unsettled(), r.held()},
		team, holder, r.times.lease().Milliseconds(), r.times.Hold.Milliseconds()))
	switch {
	case err != nil || reply.word(0) == "":
		return Unsettled{}, false, err
	case Verdict(reply.word(0)) == broken:
		r.reject(ctx, sealedChange, team, errForged)
		return Unsettled{}, false, nil
	}
	return r.unsettle(ctx, team, holder, reply, asked)
}

// Reserve is of Store.
func (r *Redis) Reserve(ctx context.Context, s Slot) (time.Duration, error) {
	if s.Interval == 0 {
		return 0, nil
	}
	wait, err := r.run(ctx, reserve, []string{r.bucket(s.Bucket)},
		s.Interval.Microseconds(), s.Burst.Microseconds(), s.MaxWait.Microseconds()).Int64()
	if err != nil {
		return 0, fmt.Errorf("state: %w", err)
	}
	return time.Duration(wait) * time.Microsecond, nil
}

// Pause is of Store.
func (r *Redis) Pause(ctx context.Context, s Slot, d time.Duration) error {
	if err := r.run(ctx, pause, []string{r.bucket(s.Bucket)}, (d + s.Burst).Microseconds()).Err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Beat is of Store.
func (r *Redis) Beat(ctx context.Context, replica string) (Pulse, error) {
	reply, err := words(r.run(ctx, beat, []string{r.replicas(), r.held()}, replica, beatLife.Milliseconds()))
	if err != nil {
		return Pulse{}, err
	}
	r.ahead.Store(cmp.Or(reply.number(1)-time.Now().UnixMilli(), 1))
	return Pulse{Replicas: int(reply.number(0)), Held: int(reply.number(2))}, nil
}
