package config_test

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/teamtoken/teamtoken/internal/config"
)

// manualText is docs/configuration.md, made of the tags of Config.
func manualText() string {
	var b strings.Builder
	b.WriteString(`<!-- Made of internal/config/config.go by: go test ./internal/config -update -->

# Configuration

A setting is a flag, else an environment variable, else a key of the YAML file that ` + "`--config`" + ` names, else its
default. An unknown flag or key is refused, and so is a value that cannot be right: the program then says which
settings to change, and exits with 2. A secret has neither a flag nor a key, since command lines and files of
settings are read by many.

A file of a secret or a key that others may read is named in a warning at start.

A duration is a number and a unit, s, m or h: 20s, 1h30m, 720h for 30 days. There is no unit for days.

The key of the YAML file is the flag without the dashes in front:

` + "```yaml\n" + example + "```" + `

The same by environment variables:

` + "```sh\n" + environment + "```" + `

An empty variable is not set. One that begins with ` + "`TEAMTOKEN_`" + ` and is no setting is named in a warning at start, with the
setting that it is nearly. It is not refused, as a key is: Kubernetes adds variables of its own, such as
` + "`TEAMTOKEN_SERVICE_HOST`" + `, to every container beside a Service of that name.
`)
	group := ""
	for f := range reflect.TypeFor[config.Config]().Fields() {
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

// example is a file of settings that the manual shows.
const example = `tfe-address: https://tfe.example.com
tfe-token-file: /run/secrets/tfe-token
policy-file: /etc/teamtoken/policy.yaml
tls-cert-file: /run/tls/tls.crt
tls-key-file: /run/tls/tls.key
tls-client-ca-file: /run/tls/clients.crt
request-timeout: 20s
`

// environment is the same settings as variables.
const environment = `TFE_ADDRESS=https://tfe.example.com
TFE_TOKEN_FILE=/run/secrets/tfe-token
TEAMTOKEN_POLICY_FILE=/etc/teamtoken/policy.yaml
TEAMTOKEN_TLS_CERT_FILE=/run/tls/tls.crt
TEAMTOKEN_TLS_KEY_FILE=/run/tls/tls.key
TEAMTOKEN_TLS_CLIENT_CA_FILE=/run/tls/clients.crt
TEAMTOKEN_REQUEST_TIMEOUT=20s
`
