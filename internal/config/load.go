package config

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// ErrShown is returned by Load when --help or --version was asked for and shown.
var ErrShown = errors.New("shown")

const description = `A gRPC service, with a REST surface, in front of the Team Token API of HCP Terraform and Terraform Enterprise.

Each setting is a flag, an environment variable, or a key of the YAML file, in this order of precedence. The manual is docs/configuration.md; to try it out: --simulator.`

// Load reads and checks the settings. env looks up a variable; --help and
// --version are written to stdout, and give ErrShown.
func Load(args []string, env func(string) (string, bool), stdout io.Writer, version string) (*Config, error) {
	var cfg struct {
		Config  `embed:""`
		Version kong.VersionFlag `name:"version" group:"Settings" help:"Show the version."`
	}
	file, fileErr := readFile(path(args, env))
	shown := false
	parser, err := kong.New(&cfg,
		kong.Name("teamtoken"),
		kong.Description(description),
		kong.Vars{"version": "teamtoken " + version},
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { shown = true; panic(ErrShown) }), // kong must not go on, and Load must not exit
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(describe),
		kong.UsageOnError(),
		// The last resolver that knows a flag wins, and flags that are given are not asked for.
		kong.Resolvers(fileResolver(file), envResolver(env)),
	)
	if err != nil {
		return nil, err
	}
	err = parse(parser, args)
	switch {
	case shown:
		return nil, ErrShown
	case fileErr != nil:
		return nil, fmt.Errorf("TEAMTOKEN_CONFIG (--config): %w", fileErr)
	case err != nil:
		return nil, err
	}
	if token, ok := env(field("TFEToken").Tag.Get("var")); ok {
		cfg.TFEToken = secret.New(strings.TrimSpace(token))
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &cfg.Config, nil
}

// parse is parser.Parse up to where kong would have exited.
func parse(parser *kong.Kong, args []string) (err error) {
	defer func() {
		if p := recover(); p != nil && p != any(ErrShown) {
			panic(p)
		}
	}()
	_, err = parser.Parse(args)
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

// envResolver reads the environment. kong's own reading of it would go behind
// the caller's back to the process's, and lose against the file.
func envResolver(env func(string) (string, bool)) kong.ResolverFunc {
	return func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("var")
		if name == "" {
			return nil, nil //nolint:nilnil // kong's way to say that it is not set
		}
		if value, ok := env(name); ok && value != "" {
			return value, nil
		}
		return nil, nil //nolint:nilnil // as above
	}
}

// fileResolver gives kong what the file says.
func fileResolver(values map[string]any) kong.ResolverFunc {
	return func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if value, ok := values[flag.Name]; ok {
			return fmt.Sprint(value), nil
		}
		return nil, nil //nolint:nilnil // as above
	}
}

// path is the file that --config or its variable names. It is needed before
// kong has looked at any flag.
func path(args []string, env func(string) (string, bool)) string {
	path, _ := env(field("File").Tag.Get("var"))
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--config="); ok {
			path = value
		} else if arg == "--config" && i+1 < len(args) {
			path = args[i+1]
		}
	}
	return path
}

// readFile reads settings, and refuses a key that is none of them.
func readFile(path string) (map[string]any, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no file, and nothing wrong with that
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if yaml.Unmarshal(content, &values) != nil {
		return nil, fmt.Errorf("%s is not a YAML mapping of settings", path)
	}
	known := keys()
	for key, value := range values {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("%s: unknown key %q; the keys are %s", path, key, strings.Join(known, ", "))
		}
		switch value.(type) {
		case string, bool, int:
		default:
			return nil, fmt.Errorf("%s: the value of %q must be a single one", path, key)
		}
	}
	return values, nil
}

func field(name string) reflect.StructField {
	f, _ := reflect.TypeFor[Config]().FieldByName(name)
	return f
}

// keys lists what the file may hold: every flag but the one that names the file.
func keys() []string {
	var names []string
	for f := range fields() {
		if name := f.Tag.Get("name"); name != "" && name != "config" {
			names = append(names, name)
		}
	}
	return names
}

func fields() iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		t := reflect.TypeFor[Config]()
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
