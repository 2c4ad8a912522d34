package state

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/teamtoken/teamtoken/internal/ciphers"
	"github.com/teamtoken/teamtoken/internal/secret"
)

var errURL = errors.New("must be redis://HOST:PORT or rediss://HOST:PORT, with master_name=NAME for Sentinel or cluster=true for Cluster, and addr=HOST:PORT for each further node")

// parameters are what the URL of each kind may say, and no more: go-redis knows many
// others, which weaken the connection (skip_verify), read from replicas, or have no effect here.
var parameters = map[string][]string{
	"single":   {"db"},
	"sentinel": {"master_name", "addr", "db", "username", "password"},
	"cluster":  {"cluster", "addr"},
}

// foreign are go-redis's other parameters. An error may name these; any other text in
// the URL may be a part of a password.
var foreign = strings.Fields(`skip_verify read_only replica_only route_by_latency route_by_latency_tolerance route_randomly
	use_disconnected_replicas protocol client_name max_retries min_retry_backoff max_retry_backoff max_redirects dial_timeout
	dialer_retries dialer_retry_timeout read_timeout write_timeout context_timeout_enabled pool_fifo pool_size pool_timeout
	min_idle_conns max_idle_conns max_active_conns max_concurrent_dials pipeline_pool_size pipeline_read_buffer_size
	pipeline_write_buffer_size conn_max_idle_time idle_timeout conn_max_lifetime max_conn_age conn_max_lifetime_jitter
	failing_timeout_seconds disableIdentity identitySuffix unstable_resp3 username password db master_name addr cluster`)

// options reads the URL of a single Redis, of Sentinels, or of a Cluster.
func options(text secret.Text) (*redis.UniversalOptions, error) {
	parsed, err := url.Parse(text.Reveal())
	if err != nil || parsed.Scheme != "redis" && parsed.Scheme != "rediss" || parsed.Opaque != "" || parsed.Fragment != "" {
		return nil, errURL // the parser's own error quotes the password
	}
	query, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return nil, errURL
	}
	kind := "single"
	switch {
	case query.Has("master_name"):
		kind = "sentinel"
	case query.Get("cluster") == "true":
		kind = "cluster"
	}
	for name, values := range query {
		switch {
		case name == "skip_verify":
			return nil, errors.New("has skip_verify, but certificates are always verified: name the CA of Redis in TEAMTOKEN_STATE_CA_FILE (--state-ca-file)")
		case !slices.Contains(parameters[kind], name) && slices.Contains(foreign, name):
			return nil, fmt.Errorf("has the parameter %s, which is not supported here: %w", name, errURL)
		case !slices.Contains(parameters[kind], name), len(values) > 1 && name != "addr":
			return nil, errURL
		}
	}
	query.Del("cluster")
	parsed.RawQuery = query.Encode()
	u := &redis.UniversalOptions{}
	switch kind {
	case "sentinel":
		o, err := redis.ParseFailoverURL(parsed.String())
		if err != nil || o.MasterName == "" {
			return nil, errURL
		}
		u.Addrs, u.MasterName, u.Username, u.Password, u.DB = o.SentinelAddrs, o.MasterName, o.Username, o.Password, o.DB
		u.SentinelUsername, u.SentinelPassword, u.TLSConfig = o.SentinelUsername, o.SentinelPassword, o.TLSConfig
	case "cluster":
		o, err := redis.ParseClusterURL(parsed.String())
		if err != nil {
			return nil, errURL
		}
		u.Addrs, u.Username, u.Password, u.TLSConfig, u.IsClusterMode = o.Addrs, o.Username, o.Password, o.TLSConfig, true
	default:
		o, err := redis.ParseURL(parsed.String())
		if err != nil {
			return nil, errURL
		}
		u.Addrs, u.Username, u.Password, u.DB, u.TLSConfig = []string{o.Addr}, o.Username, o.Password, o.DB, o.TLSConfig
	}
	return u, nil
}

// Weakness says what lets others on the network read or change what is in Redis.
type Weakness struct{ NoTLS, NoPassword bool }

// Weaknesses returns those of a URL; none if Redis is on this host.
func Weaknesses(text secret.Text) Weakness {
	u, err := options(text)
	if err != nil || !slices.ContainsFunc(u.Addrs, remote) {
		return Weakness{}
	}
	return Weakness{NoTLS: u.TLSConfig == nil, NoPassword: u.Password == ""}
}

func remote(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// dialer connects by TLS, with what current says at that time. Every node's certificate
// has to be for the URL's host, or for the name that current has.
func dialer(name string, current func() *tls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		config := ciphers.Client(nil)
		if current != nil {
			config = current().Clone()
		}
		if config.ServerName == "" {
			config.ServerName = name
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return (&tls.Dialer{NetDialer: plain, Config: config}).DialContext(ctx, network, address)
	}
}

// reloadInterval is how old what is known of a Cluster's nodes may be, as long as none
// of them fails.
const reloadInterval = 10 * time.Second

func connect(u *redis.UniversalOptions) redis.UniversalClient {
	if !u.IsClusterMode {
		return redis.NewUniversalClient(u)
	}
	o := u.Cluster()
	o.ClusterStateReloadInterval = reloadInterval
	o.MaxRetries = -1 // a step goes to up to four nodes as it is
	return redis.NewClusterClient(o)
}

// suspicion is how long a node of a Cluster may take for a step until it is asked
// whether another has its slots by now.
const suspicion = 300 * time.Millisecond

// suspect has a Cluster asked anew who has which slot, in the background, if a step
// fails or takes long: the library does so when a node says that another has the slot,
// and not when the node is gone.
func (r *Redis) suspect(ctx context.Context) (answered func(error)) {
	c, ok := r.client.(*redis.ClusterClient)
	if !ok {
		return func(error) {}
	}
	timer := time.AfterFunc(suspicion, func() { c.ReloadState(ctx) })
	return func(err error) {
		timer.Stop()
		if err != nil {
			c.ReloadState(ctx)
		}
	}
}
