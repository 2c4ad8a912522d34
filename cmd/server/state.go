package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alecthomas/kong"

	"github.com/teamtoken/teamtoken/internal/ciphers"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// state is what replicas agree on, and the keys that seal what lies there.
func (f follower) state(cfg *config.Config) (state.Store, func() *seal.Keys, error) {
	times := state.NewTTLs(cfg.UnknownHold)
	if !cfg.SharedState() {
		keys, err := seal.Ephemeral()
		return state.NewMemory(times), func() *seal.Keys { return keys }, err
	}
	f.private("TEAMTOKEN_STATE_KEY_FILE", cfg.StateKeyFile)
	keys, err := follow(f, "TEAMTOKEN_STATE_KEY_FILE", []string{cfg.StateKeyFile}, func(contents [][]byte) (*seal.Keys, error) {
		return seal.Parse(contents[0])
	})
	if err != nil {
		return nil, nil, fmt.Errorf("TEAMTOKEN_STATE_KEY_FILE (--state-key-file): %w", err)
	}
	o := state.RedisOptions{
		URL: cfg.State, Prefix: cfg.StatePrefix, Times: times, Observe: f.metrics.Step, Keys: keys.Get, Rejected: f.rejected(),
	}
	if cfg.StatePasswordFile != "" {
		f.private("TEAMTOKEN_STATE_PASSWORD_FILE", cfg.StatePasswordFile)
		password, err := follow(f, "TEAMTOKEN_STATE_PASSWORD_FILE", []string{cfg.StatePasswordFile}, func(contents [][]byte) (*secret.Text, error) {
			word, err := config.Bearer(string(contents[0]))
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
func (f follower) stateTLS(cfg *config.Config) (func() *tls.Config, error) {
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
		f.private("TEAMTOKEN_STATE_TLS_KEY_FILE", cfg.StateTLSKeyFile)
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
func (f follower) warnOfState(cfg *config.Config) {
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
func (f follower) rejected() func(ctx context.Context, kind, team string, why error) {
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

// learn asks the upstream what it takes, before anybody waits for that.
func (f follower) learn(client *upstream.Client) {
	ctx, cancel := context.WithTimeout(f.ctx, 10*time.Second)
	defer cancel()
	if err := client.Ping(ctx); err != nil && f.ctx.Err() == nil {
		f.log.Warn("the upstream does not answer yet", telemetry.KeyError, err)
	}
}

// stateKeyLine is the command line of `teamtoken-server state-key`.
type stateKeyLine struct {
	New     newKeyCommand     `cmd:"" help:"Write a file with one new key."`
	Add     addKeyCommand     `cmd:"" help:"Add a new key, which opens and does not seal yet: give the file to all replicas, then promote it."`
	Promote promoteKeyCommand `cmd:"" help:"Have the newest key seal from now on; older ones still open."`
	Drop    dropKeysCommand   `cmd:"" help:"Drop all keys but the one that seals. Values that the others sealed within the last day are rejected from then on."`
}

type (
	newKeyCommand struct {
		File string `arg:"" help:"The file to write, which must not exist."`
	}
	addKeyCommand struct {
		File string `arg:"" help:"The file."`
	}
	promoteKeyCommand struct {
		File string `arg:"" help:"The file."`
	}
	dropKeysCommand struct {
		File string `arg:"" help:"The file."`
	}
)

func (c newKeyCommand) Run() error {
	keyset, err := seal.NewKeyset()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(keyset)
	return errors.Join(err, f.Close())
}

func (c addKeyCommand) Run() error     { return rewrite(c.File, seal.AddKey) }
func (c promoteKeyCommand) Run() error { return rewrite(c.File, seal.PromoteKey) }
func (c dropKeysCommand) Run() error   { return rewrite(c.File, seal.DropKeys) }

// rewrite puts a changed file in the place of the old one, whole.
func rewrite(file string, how func([]byte) ([]byte, error)) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	keyset, err := how(old)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	next, err := os.CreateTemp(filepath.Dir(file), ".state-key") // of mode 0600
	if err != nil {
		return err
	}
	_, err = next.Write(keyset)
	err = errors.Join(err, next.Close())
	if err == nil {
		err = os.Rename(next.Name(), file)
	}
	if err != nil {
		_ = os.Remove(next.Name())
	}
	return err
}

// stateKeyCommand is the program as `teamtoken-server state-key`: 0 if it did what
// was asked for, 2 if not.
func stateKeyCommand(args []string, stdout, stderr io.Writer) int {
	var line stateKeyLine
	return subcommand("state-key", "The keys that seal what replicas keep in Redis: TEAMTOKEN_STATE_KEY_FILE.", &line, args, stdout, stderr)
}

// subcommand runs a command that serves nothing.
func subcommand(name, description string, line any, args []string, stdout, stderr io.Writer) int {
	shown := false
	parser, err := kong.New(line, kong.Name("teamtoken-server "+name), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { shown = true }), kong.BindTo(stdout, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		return 2
	}
	ctx, err := parser.Parse(args)
	if shown {
		return 0
	}
	if err == nil {
		err = ctx.Run()
	}
	switch {
	case errors.Is(err, errDenied):
		return 1
	case err != nil:
		fmt.Fprintf(stderr, "teamtoken-server: %v\n", err)
		return 2
	}
	return 0
}
