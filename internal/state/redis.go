package state

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/sony/gobreaker/v2"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// Redis is the state of any number of replicas, in one slot of a Redis or Valkey:
// that is what lets a step touch a team, a record and the budget at once, and it
// is enough for an upstream that takes thirty requests a second.
type Redis struct {
	client  redis.UniversalClient
	circuit *gobreaker.TwoStepCircuitBreaker[any]
	times   Times
	prefix  string
	observe func(ctx context.Context, step, failure string, d time.Duration)
	ahead   atomic.Int64 // how far Redis's clock is ahead of ours, in milliseconds; 0 if it was not asked
}

// The circuit spares callers the wait for a Redis that is not there.
const (
	circuitFailures = 3
	circuitProbe    = 500 * time.Millisecond
)

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
	cmd := s.script.Run(ctx, r.client, keys, args...)
	if tell != nil {
		var said redis.Error
		if err := cmd.Err(); err == nil || errors.As(err, &said) || ctx.Err() != nil {
			tell(nil)
		} else {
			tell(err)
		}
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

var errAway = errors.New("state: Redis did not answer lately, so it was not asked")

// RedisOptions say which Redis, and how to reach it.
type RedisOptions struct {
	// URL is redis:// or rediss://, with `master_name` among its parameters for
	// Sentinel, or `cluster=true` for Cluster, and `addr` for each further node. It may
	// hold a password.
	URL secret.Text
	// Password, if set, is asked for at each connection, and goes before the URL's.
	Password func() secret.Text
	// TLS is used for rediss://; nil trusts the system's CAs.
	TLS *tls.Config
	// Prefix keeps several services in one Redis apart.
	Prefix string
	Times  Times
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
	if u.TLSConfig != nil && o.TLS != nil {
		name := u.TLSConfig.ServerName
		u.TLSConfig = o.TLS.Clone()
		u.TLSConfig.ServerName = cmp.Or(u.TLSConfig.ServerName, name)
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
		client: redis.NewUniversalClient(u), circuit: circuit, times: o.Times, prefix: "{" + o.Prefix + "}:", observe: o.Observe,
	}, nil
}

// silent keeps the library from writing to standard error: what it has to say is
// in the errors of the steps.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var errURL = errors.New("must be redis://HOST:PORT or rediss://HOST:PORT, with master_name=NAME for Sentinel or cluster=true for Cluster, and addr=HOST:PORT for each further node")

// options reads the URL of a single Redis, of Sentinels, or of a Cluster.
func options(text secret.Text) (*redis.UniversalOptions, error) {
	parsed, err := url.Parse(text.Reveal())
	if err != nil {
		return nil, errURL // the parser's own error quotes the password
	}
	query := parsed.Query()
	kind := query.Get("cluster")
	query.Del("cluster")
	parsed.RawQuery = query.Encode()
	u := &redis.UniversalOptions{}
	switch {
	case query.Has("master_name"):
		o, err := redis.ParseFailoverURL(parsed.String())
		if err != nil {
			return nil, errURL
		}
		u.Addrs, u.MasterName, u.Username, u.Password, u.DB = o.SentinelAddrs, o.MasterName, o.Username, o.Password, o.DB
		u.SentinelUsername, u.SentinelPassword, u.TLSConfig = o.SentinelUsername, o.SentinelPassword, o.TLSConfig
	case kind == "true":
		o, err := redis.ParseClusterURL(parsed.String())
		if err != nil {
			return nil, errURL
		}
		u.Addrs, u.Username, u.Password, u.TLSConfig, u.IsClusterMode = o.Addrs, o.Username, o.Password, o.TLSConfig, true
	case kind != "" || query.Has("addr"):
		return nil, errURL
	default:
		o, err := redis.ParseURL(parsed.String())
		if err != nil || parsed.Scheme == "unix" {
			return nil, errURL
		}
		u.Addrs, u.Username, u.Password, u.DB, u.TLSConfig = []string{o.Addr}, o.Username, o.Password, o.DB, o.TLSConfig
	}
	return u, nil
}

// CheckURL is an error if OpenRedis would not take the URL.
func CheckURL(text secret.Text) error {
	_, err := options(text)
	return err
}

//go:embed lua/clock.lua
var clock string

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
	begin   = step{"begin", redis.NewScript(clock + queueText + beginText), false}
	end     = step{"end", redis.NewScript(clock + endText), true}
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
func (r *Redis) held() string               { return r.prefix + "held" }
func (r *Redis) replicas() string           { return r.prefix + "replicas" }

// Lease is of Store.
func (r *Redis) Lease() time.Duration { return r.times.lease() }

// Close ends the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Begin is of Store.
func (r *Redis) Begin(ctx context.Context, a Ask) (Answer, error) {
	asked := time.Now()
	change, err := json.Marshal(a.Change)
	if err != nil {
		return Answer{}, err
	}
	key := a.Change.Record
	params := ""
	if key != "" {
		params = a.Params
	}
	reply, err := words(r.run(ctx, begin,
		[]string{r.team(a.Change.Team), r.record(key), r.answer(key), r.unsettled(), r.bucket(a.Slot.Bucket), r.queue(a.Change.Team)},
		append([]any{
			a.Change.Team, a.Holder, r.times.lease().Milliseconds(), r.times.Hold.Milliseconds(), change, params,
			r.times.Tombstone.Milliseconds(), a.Slot.Interval.Microseconds(), a.Slot.Burst.Microseconds(), a.Slot.MaxWait.Microseconds(),
			r.until(beginLife),
		}, a.Waiter.args()...)...,
	))
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Verdict: Verdict(reply.word(0))}
	switch answer.Verdict {
	case Granted:
		answer.Turn = Turn{a.Change.Team, a.Holder, reply.number(1), asked, key}
		answer.Wait = time.Duration(reply.number(2)) * time.Microsecond
		answer.Known, answer.Lost = reply.word(3), reply.word(4)
	case Done:
		answer.Recorded = Recorded{Answer: []byte(reply.word(1)), Token: reply.word(2), Failure: reply.word(3)}
	case Over:
		answer.Wait = time.Duration(reply.number(1)) * time.Microsecond
	case Unsettle:
		answer.Unsettled, err = reply.unsettled(a.Holder, asked)
	case Busy, Held, Running, Unknown:
		answer.Wait = time.Duration(reply.number(1)) * time.Millisecond
	case Reused:
	case late:
		err = errLate
	default:
		err = errReply
	}
	return answer, err
}

// beginLife is how long an Ask may be on its way: one that Redis reads later, since
// it hung, is of nobody who still waits.
const beginLife = 2 * stepTimeout

// until is the time in d by Redis's clock, in milliseconds; 0 if that is not known.
func (r *Redis) until(d time.Duration) int64 {
	ahead := r.ahead.Load()
	if ahead == 0 {
		return 0
	}
	return time.Now().Add(d).UnixMilli() + ahead
}

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

func (r reply) unsettled(holder string, asked time.Time) (Unsettled, error) {
	u := Unsettled{
		Since: time.Duration(r.number(3)) * time.Millisecond,
		Hold:  time.Duration(r.number(4)) * time.Millisecond,
		Known: r.word(5),
	}
	if err := json.Unmarshal([]byte(r.word(2)), &u.Change); err != nil {
		return Unsettled{}, fmt.Errorf("state: a change that was written down cannot be read: %w", err)
	}
	u.Turn = Turn{u.Change.Team, holder, r.number(1), asked, u.Change.Record}
	return u, nil
}

// Renew is of Store.
func (r *Redis) Renew(ctx context.Context, t Turn) error { return r.renew(ctx, t, "") }

// Redo is of Store.
func (r *Redis) Redo(ctx context.Context, t Turn, known string) error { return r.renew(ctx, t, known) }

func (r *Redis) renew(ctx context.Context, t Turn, known string) error {
	return fenced(r.run(ctx, renew, []string{r.team(t.Team), r.unsettled()},
		t.Team, t.Holder, t.Epoch, r.times.lease().Milliseconds(), known))
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
	fate, unknown := e.Fate, "0"
	if t.record == "" {
		fate = ""
	}
	if e.Unknown {
		unknown = "1"
	}
	return fenced(r.run(ctx, end,
		[]string{r.team(t.Team), r.record(t.record), r.answer(t.record), r.unsettled(), r.ended(t.Holder), r.held()},
		t.Team, t.Holder, t.Epoch, unknown, r.times.Hold.Milliseconds(), r.times.check().Milliseconds(), e.Known, string(fate),
		e.Recorded.Answer, r.times.Answer.Milliseconds(), e.Recorded.Token, e.Recorded.Failure, r.times.Tombstone.Milliseconds(),
	))
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
	reply, err := words(r.run(ctx, claim, []string{r.team(team), r.unsettled()},
		team, holder, r.times.lease().Milliseconds(), r.times.Hold.Milliseconds()))
	if err != nil || reply.word(0) == "" {
		return Unsettled{}, false, err
	}
	u, err := reply.unsettled(holder, asked)
	return u, err == nil, err
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
