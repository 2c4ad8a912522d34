// Command teamtoken makes, shows and deletes team tokens, by the teamtoken service: for
// people, and for jobs.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// What the program exits with.
const (
	exitOK          = 0
	exitNotApplied  = 1 // nothing was changed
	exitUsage       = 2 // nothing was tried
	exitUnknown     = 3 // nobody can tell whether anything was changed
	exitUndelivered = 4 // it was changed, and the result can't be had
)

const description = `Make, show and delete API tokens of HCP Terraform and Terraform Enterprise teams, by the teamtoken service.

A secret goes to standard output, or to the file that --out names, and nowhere else. All else that is told goes to standard error.

Exit codes: 0 done; 1 failed, and nothing was changed; 2 wrong usage; 3 failed, and nobody can tell yet whether anything was changed; 4 it was carried out, and its result can't be had.`

// errShown is of what only shows something.
var errShown = errors.New("shown")

// run is the program.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	var line commandLine
	parser, err := kong.New(&line,
		kong.Name("teamtoken"), kong.Description(description), kong.Writers(stdout, stdout), kong.NoDefaultHelp(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Resolvers(variables(env)), kong.ValueFormatter(withVariable),
		kong.ShortUsageOnError(),
	)
	if err != nil {
		return said(stderr, err)
	}
	c := &command{line: &line.globals, env: env, stdout: stdout, stderr: stderr, model: parser.Model}
	chosen, err := parser.Parse(args)
	switch {
	case errors.Is(err, errShown):
		return exitOK
	case err != nil:
		return c.failed(usage{err})
	}
	chosen.BindTo(ctx, (*context.Context)(nil))
	if err := chosen.Run(c); err != nil {
		return c.failed(err)
	}
	return exitOK
}

// variables resolves a flag that was not given by its variable.
type variables func(string) (string, bool)

func (variables) Validate(*kong.Application) error { return nil }

func (v variables) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if name := flag.Tag.Get("var"); name != "" {
		if value, ok := v(name); ok && value != "" {
			return value, nil
		}
	}
	return nil, nil
}

// withVariable adds the variable and the default to a flag's help.
func withVariable(v *kong.Value) string {
	help := v.Help
	if name := v.Tag.Get("var"); name != "" {
		help += " [" + name + "]"
	}
	if v.HasDefault && v.Default != "" && v.Default != "false" {
		help += " (" + v.Default + ")"
	}
	return help
}
