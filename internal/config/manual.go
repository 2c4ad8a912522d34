package config

import (
	"fmt"
	"strings"
)

// Manual is docs/configuration.md, made of the tags of Config.
func Manual() string {
	var b strings.Builder
	b.WriteString(`<!-- Made of internal/config/config.go by: go test ./internal/config -update -->

# Configuration

A setting is a flag, else an environment variable, else a key of the YAML file that ` + "`--config`" + ` names, else its
default. An unknown flag or key is refused, and so is a value that cannot be right: the program then says which
settings to change, and exits with 2. A secret has neither a flag nor a key, since command lines and files of
settings are read by many.

The key of the YAML file is the flag without the dashes in front:

` + "```yaml\n" + Example + "```\n")
	group := ""
	for f := range fields() {
		if g := f.Tag.Get("group"); g != group {
			group = g
			fmt.Fprintf(&b, "\n## %s\n\n| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n", group)
		}
		flag, def := "", f.Tag.Get("default")
		if name := f.Tag.Get("name"); name != "" {
			flag = "`--" + name + "`"
		}
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Tag.Get("var"), flag, def, f.Tag.Get("help"))
	}
	return b.String()
}

// Example is a file of settings that the manual shows.
const Example = `tfe-address: https://tfe.example.com
tfe-token-file: /run/secrets/tfe-token
insecure-allow-any-caller: true
http-address: 127.0.0.1:8080
request-timeout: 20s
`
