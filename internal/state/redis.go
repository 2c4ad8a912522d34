package state

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
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
