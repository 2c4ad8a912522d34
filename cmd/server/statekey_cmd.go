package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/teamtoken/teamtoken/internal/seal"
)

// stateKeyCLI is the command line of `teamtoken-server state-key`.
type stateKeyCLI struct {
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

func (c addKeyCommand) Run() error     { return replaceFile(c.File, seal.AddKey) }
func (c promoteKeyCommand) Run() error { return replaceFile(c.File, seal.PromoteKey) }
func (c dropKeysCommand) Run() error   { return replaceFile(c.File, seal.DropKeys) }

// replaceFile puts a changed file in the place of the old one, whole.
func replaceFile(file string, edit func([]byte) ([]byte, error)) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	keyset, err := edit(old)
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
	var line stateKeyCLI
	return subcommand("state-key", "The keys that seal what replicas keep in Redis: TEAMTOKEN_STATE_KEY_FILE.", &line, args, stdout, stderr)
}
