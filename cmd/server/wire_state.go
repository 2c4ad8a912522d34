package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/ciphers"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

func (a *app) buildStore(context.Context) (err error) {
	a.rejected = a.files.rejected()
	a.store, a.keys, err = a.files.store(a.cfg, a.rejected)
	if err == nil {
		a.closing(func() { _ = a.store.Close() })
	}
	return err
}

// rejected is told of a stored value that was not acted on: see state.RedisOptions.
type rejected func(ctx context.Context, kind, team string, why error)

// store is what replicas agree on, and the keys that seal what lies there.
func (f reloader) store(cfg *config.Config, rejected rejected) (state.Store, func() *seal.Keys, error) {
	times := state.NewTTLs(cfg.UnknownHold)
	if !cfg.SharedState() {
		keys, err := seal.Ephemeral()
		return state.NewMemory(times), func() *seal.Keys { return keys }, err
	}
	f.warnIfReadable("TEAMTOKEN_STATE_KEY_FILE", cfg.StateKeyFile)
	keys, err := follow(f, "TEAMTOKEN_STATE_KEY_FILE", []string{cfg.StateKeyFile}, func(contents [][]byte) (*seal.Keys, error) {
		return seal.Parse(contents[0])
	})
	if err != nil {
		return nil, nil, fmt.Errorf("TEAMTOKEN_STATE_KEY_FILE (--state-key-file): %w", err)
	}
	o := state.RedisOptions{
		URL: cfg.State, Prefix: cfg.StatePrefix, Times: times, Observe: f.metrics.StoreOperation, Keys: keys.Get, Rejected: rejected,
	}
	if cfg.StatePasswordFile != "" {
		f.warnIfReadable("TEAMTOKEN_STATE_PASSWORD_FILE", cfg.StatePasswordFile)
		password, err := follow(f, "TEAMTOKEN_STATE_PASSWORD_FILE", []string{cfg.StatePasswordFile}, func(contents [][]byte) (*secret.Text, error) {
			word, err := config.ParseCredential(string(contents[0]))
			return &word, err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("TEAMTOKEN_STATE_PASSWORD_FILE (--state-password-file): %w", err)
		}
		o.Password = func() secret.Text { return *password.Get() }
	}
	if o.TLS, err = f.stateTLS(cfg); err != nil {
		return nil, nil, err
	}
	f.warnOfState(cfg)
	store, err := state.OpenRedis(o)
	if err != nil {
		return nil, nil, fmt.Errorf("TEAMTOKEN_STATE: %w", err)
	}
	return store, keys.Get, nil
}

// stateTLS is what connections to Redis by TLS are made with, as it is at the time.
func (f reloader) stateTLS(cfg *config.Config) (func() *tls.Config, error) {
	roots := func() *x509.CertPool { return nil }
	if cfg.StateCAFile != "" {
		cas, err := follow(f, "TEAMTOKEN_STATE_CA_FILE", []string{cfg.StateCAFile}, func(contents [][]byte) (*x509.CertPool, error) {
			return certificates(contents[0])
		})
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_STATE_CA_FILE (--state-ca-file): %w", err)
		}
		roots = cas.Get
	}
	var own func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	if cfg.StateTLSCertFile != "" {
		const settings = "TEAMTOKEN_STATE_TLS_CERT_FILE, TEAMTOKEN_STATE_TLS_KEY_FILE"
		f.warnIfReadable("TEAMTOKEN_STATE_TLS_KEY_FILE", cfg.StateTLSKeyFile)
		pair, err := follow(f, settings, []string{cfg.StateTLSCertFile, cfg.StateTLSKeyFile}, func(contents [][]byte) (*tls.Certificate, error) {
			certificate, err := tls.X509KeyPair(contents[0], contents[1])
			return &certificate, err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", settings, err)
		}
		f.metrics.Certificate("TEAMTOKEN_STATE_TLS_CERT_FILE", func() time.Time { return pair.Get().Leaf.NotAfter })
		own = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Get(), nil }
	}
	return func() *tls.Config {
		c := ciphers.Client(roots())
		c.GetClientCertificate = own
		return c
	}, nil
}

// warnOfState warns of a Redis on another host that is used without TLS or password.
func (f reloader) warnOfState(cfg *config.Config) {
	weak := state.Weaknesses(cfg.State)
	if weak.NoTLS {
		f.log.Warn("Redis is on another host and is used without TLS: others on the network can read the password and change the shared state; use rediss://",
			telemetry.KeySetting, "TEAMTOKEN_STATE")
	}
	if weak.NoPassword && cfg.StatePasswordFile == "" && cfg.StateTLSCertFile == "" {
		f.log.Warn("Redis is on another host and is used without a password or client certificate: anyone who can connect to it can change the shared state; set TEAMTOKEN_STATE_PASSWORD_FILE",
			telemetry.KeySetting, "TEAMTOKEN_STATE")
	}
}

// rejectedInterval is how often a value in the state store that led to nothing is
// logged, at most: there may be any number. All are counted.
const rejectedInterval = 10 * time.Second

// rejected counts and logs a value in the state store that was not acted on.
func (f reloader) rejected() rejected {
	var mu sync.Mutex
	var next time.Time
	return func(ctx context.Context, kind, team string, why error) {
		f.metrics.StateRejected(ctx, kind)
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if now.Before(next) {
			return
		}
		next = now.Add(rejectedInterval)
		f.log.ErrorContext(ctx, "a value in the state store was rejected and not acted on: somebody else writes there, or replicas have different keys",
			"kind", kind, telemetry.KeySubject, team[:min(len(team), maxLogged)], telemetry.KeyError, why)
	}
}

// maxLogged is how much of a name is logged that somebody else may have written.
const maxLogged = 64
