package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// ErrShown is returned by Load when --help or --version was asked for and shown.
var ErrShown = errors.New("shown")

const description = `A gRPC service, with a REST surface, in front of the Team Token API of HCP Terraform and Terraform Enterprise.

Each setting is a flag, an environment variable, or a key of the YAML file, in this order of precedence. The manual is docs/configuration.md; to try it out: --simulator. What a policy file says: teamtoken-server policy --help.`

// commandLine is what kong parses: the settings, and what only shows something.
type commandLine struct {
	Config  `embed:""`
	Help    helpFlag    `name:"help" short:"h" group:"Settings" help:"Show this help."`
	Version versionFlag `name:"version" group:"Settings" help:"Show the version."`

	env func(string) (string, bool)
}

// Load reads and checks the settings. env looks up a variable; --help and
// --version are written to stdout, and give ErrShown. An error names what is
// wrong, on several lines if it is more than one thing, and never shows a secret.
func Load(args []string, env func(string) (string, bool), stdout io.Writer, version string) (*Config, error) {
	line := commandLine{env: env}
	parser, err := kong.New(&line,
		kong.Name("teamtoken-server"),
		kong.Description(description),
		kong.Vars{"version": "teamtoken-server " + version},
		kong.Writers(stdout, stdout),
		kong.NoDefaultHelp(), // it would go on parsing after the help, or exit
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(describe),
	)
	if err != nil {
		return nil, err
	}
	if _, err := parser.Parse(args); errors.Is(err, ErrShown) {
		return nil, ErrShown
	} else if err != nil {
		return nil, withVariable(err)
	}
	if token, ok := env(field("TFEToken").Tag.Get("var")); ok && strings.TrimSpace(token) != "" {
		if line.TFEToken, err = ParseCredential(token); err != nil {
			return nil, fmt.Errorf("TFE_TOKEN: %w", err)
		}
	}
	if state, ok := env(field("State").Tag.Get("var")); ok {
		line.State = secret.New(strings.TrimSpace(state))
	}
	if err := line.check(); err != nil {
		return nil, err
	}
	return &line.Config, nil
}

// ParseCredential reads a credential as TFE_TOKEN and its file hold it: one word, around
// which there may be white space. Its error says nothing of the input.
func ParseCredential(text string) (secret.Text, error) {
	word := strings.TrimSpace(text)
	if word == "" {
		return secret.Text{}, errors.New("it is empty")
	}
	if !secret.IsWord(word) {
		return secret.Text{}, errors.New(`it must be one word of printable ASCII, the token alone: no "Bearer", no line break inside`)
	}
	return secret.New(word), nil
}

// BeforeResolve reads the file that --config or its variable names, at the
// moment when kong has split the flags from their values and applied none.
func (l *commandLine) BeforeResolve(ctx *kong.Context) error {
	var file map[string]string
	for _, flag := range ctx.Model.Flags {
		if flag.Name != fileFlag {
			continue
		}
		path, _ := ctx.FlagValue(flag).(string)
		if path == "" {
			path, _ = l.env(flag.Tag.Get("var"))
		}
		var err error
		if file, err = readFile(path); err != nil {
			return fmt.Errorf("--%s: %w", fileFlag, err)
		}
	}
	ctx.AddResolver(settings{l.env, file})
	return nil
}

// settings answers kong for each flag that was not given. kong's own reading of
// the environment would go behind the caller's back to the process's, and lose
// against the file.
type settings struct {
	env  func(string) (string, bool)
	file map[string]string
}

func (settings) Validate(*kong.Application) error { return nil }

func (s settings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if name := flag.Tag.Get("var"); name != "" {
		if value, ok := s.env(name); ok && value != "" {
			return value, nil
		}
	}
	if value, ok := s.file[flag.Name]; ok {
		return value, nil
	}
	return nil, nil
}

// withVariable adds the variable to an error of kong's about a value: it names
// the flag alone, and the value may have come from the environment.
func withVariable(err error) error {
	name, text, ok := strings.Cut(strings.TrimPrefix(err.Error(), "--"), ": ")
	for f := range reflect.TypeFor[Config]().Fields() {
		if !ok || f.Tag.Get("name") != name {
			continue
		}
		switch f.Type { // Go's own words for these are for programmers
		case reflect.TypeFor[time.Duration]():
			text = "it must be a duration such as 90s, 20m or 720h"
		case reflect.TypeFor[slog.Level]():
			text = "it must be debug, info, warn or error"
		}
		return fmt.Errorf("%s (--%s): %s", f.Tag.Get("var"), name, text)
	}
	return err
}

// describe adds the variable and the default to a flag's help.
func describe(v *kong.Value) string {
	help := v.Help
	if name := v.Tag.Get("var"); name != "" {
		help += " [" + name
		if v.HasDefault {
			help += ", default " + v.Default
		}
		help += "]"
	}
	return help
}

type helpFlag bool

// BeforeReset shows the help before anything else can be wrong.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	return errors.Join(ctx.PrintUsage(false), ErrShown)
}

type versionFlag bool

// BeforeReset shows the version before anything else can be wrong.
func (versionFlag) BeforeReset(ctx *kong.Context, vars kong.Vars) error {
	_, err := fmt.Fprintln(ctx.Stdout, vars["version"])
	return errors.Join(err, ErrShown)
}
