package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (s *completionCommand) Run(c *command) error {
	write := map[string]func(io.Writer, []completed){"bash": bash, "zsh": zsh, "fish": fish}[s.Shell]
	write(c.stdout, completions(c.model))
	return nil
}

// completed is a command, or what all commands have, under the empty name.
type completed struct {
	name, help string
	flags      []*kong.Flag
}

func completions(app *kong.Application) []completed {
	all := []completed{{flags: app.Flags}}
	for _, node := range app.Children {
		all = append(all, completed{node.Name, node.Help, node.Flags})
	}
	return all
}

// values are those that a flag can have, if they are few.
func values(f *kong.Flag) string { return strings.ReplaceAll(f.Enum, ",", " ") }

func isFile(f *kong.Flag) bool { return f.PlaceHolder == "FILE" }

func bash(w io.Writer, all []completed) {
	var names, files, cases []string
	for _, c := range all {
		var flags []string
		for _, f := range c.flags {
			flags = append(flags, "--"+f.Name)
			switch {
			case isFile(f):
				files = append(files, "--"+f.Name)
			case f.Enum != "":
				cases = append(cases, fmt.Sprintf("    --%s) COMPREPLY=($(compgen -W %q -- \"$word\")); return ;;", f.Name, values(f)))
			}
		}
		if c.name == "" {
			fmt.Fprintf(w, "_teamtoken() {\n  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= flags=%q w\n", strings.Join(flags, " "))
			continue
		}
		names = append(names, c.name)
		cases = append(cases, "@"+fmt.Sprintf("    %s) flags+=%q ;;", c.name, " "+strings.Join(flags, " ")))
	}
	fmt.Fprintf(w, "  case $before in\n    %s) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", strings.Join(files, "|"))
	for _, c := range cases {
		if !strings.HasPrefix(c, "@") {
			fmt.Fprintln(w, c)
		}
	}
	fmt.Fprintf(w, "  esac\n  for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case $w in %s) command=$w; break ;; esac\n  done\n", strings.Join(names, "|"))
	fmt.Fprintln(w, "  case $command in")
	for _, c := range cases {
		if line, ok := strings.CutPrefix(c, "@"); ok {
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintf(w, "    *) flags+=%q ;;\n  esac\n", " "+strings.Join(names, " "))
	fmt.Fprintln(w, "  [[ $command == completion ]] && flags+=\" bash zsh fish\"")
	fmt.Fprintln(w, "  COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n}\ncomplete -F _teamtoken teamtoken")
}

func zsh(w io.Writer, all []completed) {
	quote := func(s string) string {
		return strings.NewReplacer("'", "'\\''", "[", "\\[", "]", "\\]", ":", "\\:").Replace(s)
	}
	spec := func(f *kong.Flag) string {
		of := ""
		switch {
		case f.IsBool():
		case isFile(f):
			of = ":file:_files"
		case f.Enum != "":
			of = ":value:(" + values(f) + ")"
		default:
			of = ":value: "
		}
		return fmt.Sprintf("'--%s[%s]%s'", f.Name, quote(f.Help), of)
	}
	fmt.Fprintln(w, "#compdef teamtoken\n_teamtoken() {\n  local -a commands\n  commands=(")
	for _, c := range all[1:] {
		fmt.Fprintf(w, "    '%s:%s'\n", c.name, quote(c.help))
	}
	fmt.Fprintln(w, "  )\n  _arguments -C \\")
	for _, f := range all[0].flags {
		fmt.Fprintf(w, "    %s \\\n", spec(f))
	}
	fmt.Fprintln(w, "    '1: :->command' '*:: :->rest'\n  case $state in\n    command) _describe command commands ;;\n    rest)\n      case $words[1] in")
	for _, c := range all[1:] {
		fmt.Fprintf(w, "        %s) _arguments", c.name)
		for _, f := range c.flags {
			fmt.Fprintf(w, " %s", spec(f))
		}
		if c.name == "completion" {
			fmt.Fprint(w, " '1:shell:(bash zsh fish)'")
		}
		fmt.Fprintln(w, " ;;")
	}
	fmt.Fprintln(w, "      esac ;;\n  esac\n}\ncompdef _teamtoken teamtoken")
}

func fish(w io.Writer, all []completed) {
	quote := func(s string) string { return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'" }
	fmt.Fprintln(w, "complete -c teamtoken -f")
	for _, c := range all {
		condition := ""
		if c.name != "" {
			fmt.Fprintf(w, "complete -c teamtoken -n __fish_use_subcommand -a %s -d %s\n", c.name, quote(c.help))
			condition = fmt.Sprintf(" -n '__fish_seen_subcommand_from %s'", c.name)
		}
		for _, f := range c.flags {
			of := ""
			switch {
			case f.IsBool():
			case isFile(f):
				of = " -r -F"
			case f.Enum != "":
				of = " -x -a " + quote(values(f))
			default:
				of = " -x"
			}
			fmt.Fprintf(w, "complete -c teamtoken%s -l %s%s -d %s\n", condition, f.Name, of, quote(f.Help))
		}
		if c.name == "completion" {
			fmt.Fprintf(w, "complete -c teamtoken%s -a 'bash zsh fish'\n", condition)
		}
	}
}
