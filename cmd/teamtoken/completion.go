package main

import (
	"embed"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run writes the script of a shell, of what kong knows of the command line.
func (s *completionCommand) Run(c *command) error {
	t, err := template.New(s.Shell+".tmpl").Funcs(completing).ParseFS(scripts, "completion/"+s.Shell+".tmpl")
	if err != nil {
		return err
	}
	return t.Execute(c.stdout, c.model.Node)
}

//go:embed completion
var scripts embed.FS

// completing is what the scripts call.
var completing = template.FuncMap{
	"isFile": isFile,
	"every":  every,
	"values": func(f *kong.Flag) string { return strings.ReplaceAll(f.Enum, ",", " ") },
	"flags":  func(n *kong.Node) string { return options(n.Flags, " ", nil) },
	"files":  func(n *kong.Node) string { return options(every(n), "|", isFile) },
	"names": func(n *kong.Node, separator string) string {
		var all []string
		for _, command := range n.Children {
			all = append(all, command.Name)
		}
		return strings.Join(all, separator)
	},
	"zsh":  strings.NewReplacer("'", "'\\''", "[", "\\[", "]", "\\]", ":", "\\:").Replace,
	"fish": func(s string) string { return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'" },
}

func isFile(f *kong.Flag) bool { return f.PlaceHolder == "FILE" }

// every is each flag, of all commands and of one.
func every(app *kong.Node) []*kong.Flag {
	all := append([]*kong.Flag(nil), app.Flags...)
	for _, command := range app.Children {
		all = append(all, command.Flags...)
	}
	return all
}

func options(flags []*kong.Flag, separator string, which func(*kong.Flag) bool) string {
	var all []string
	for _, f := range flags {
		if which == nil || which(f) {
			all = append(all, "--"+f.Name)
		}
	}
	return strings.Join(all, separator)
}
