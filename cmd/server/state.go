package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	times := state.NewTimes(cfg.UnknownHold)
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
	o := state.RedisOptions{URL: cfg.State, Prefix: cfg.StatePrefix, Times: times, Observe: f.metrics.Step}
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
	if cfg.StateCAFile != "" {
		pem, err := os.ReadFile(cfg.StateCAFile) //nolint:gosec // which files are read is what settings are for
		if err != nil {
			return nil, nil, fmt.Errorf("TEAMTOKEN_STATE_CA_FILE (--state-ca-file): %w", err)
		}
		pool, err := certificates(pem)
		if err != nil {
			return nil, nil, fmt.Errorf("TEAMTOKEN_STATE_CA_FILE (--state-ca-file): %w", err)
		}
		o.TLS = ciphers.Client(pool)
	}
	store, err := state.OpenRedis(o)
	if err != nil {
		return nil, nil, fmt.Errorf("TEAMTOKEN_STATE: %w", err)
	}
	return store, keys.Get, nil
}

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
	Drop    dropKeysCommand   `cmd:"" help:"Leave out all keys but the one that seals. What the others sealed within the last ten minutes can't be given again."`
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
