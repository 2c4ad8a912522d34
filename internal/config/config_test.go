package config_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/config"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

const canary = "Canary0123456789"

// set is the environment that a service needs at the least.
var set = map[string]string{"TFE_TOKEN": canary, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": "true"}

func load(args []string, env map[string]string) (*config.Config, string, error) {
	var out bytes.Buffer
	cfg, err := config.Load(args, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, &out, "v1.2.3")
	return cfg, out.String(), err
}

func with(more map[string]string) map[string]string {
	env := map[string]string{}
	for _, m := range []map[string]string{set, more} {
		for k, v := range m {
			env[k] = v
		}
	}
	return env
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	cfg, _, err := load(nil, set)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TFEAddress != "https://app.terraform.io" || cfg.GRPCAddress != ":9090" || cfg.HTTPAddress != ":8080" ||
		cfg.AdminAddress != "127.0.0.1:9464" || cfg.Credentials != "service" || cfg.UpstreamTimeout != 30*time.Second ||
		cfg.RequestTimeout != time.Minute || !cfg.Reflection || cfg.Pprof || cfg.Simulator ||
		cfg.LogLevel.String() != "INFO" || cfg.LogFormat != "json" || cfg.TFEToken.Reveal() != canary {
		t.Errorf("%+v", cfg)
	}
}

func TestPrecedence(t *testing.T) {
	path := file(t, "request-timeout: 1s\nreflection: false\n")
	flagged := []string{"--config", path, "--request-timeout=3s"}
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want time.Duration
	}{
		{"the default", nil, nil, time.Minute},
		{"the file before the default", []string{"--config=" + path}, nil, time.Second},
		{"the file by its variable", nil, map[string]string{"TEAMTOKEN_CONFIG": path}, time.Second},
		{"the environment before the file", []string{"--config", path}, map[string]string{"TEAMTOKEN_REQUEST_TIMEOUT": "2s"}, 2 * time.Second},
		{"the flag before both", flagged, map[string]string{"TEAMTOKEN_REQUEST_TIMEOUT": "2s"}, 3 * time.Second},
		{"an empty variable is not set", nil, map[string]string{"TEAMTOKEN_REQUEST_TIMEOUT": ""}, time.Minute},
	} {
		cfg, _, err := load(c.args, with(c.env))
		if err != nil || cfg.RequestTimeout != c.want {
			t.Errorf("%s: %+v, %v", c.name, cfg, err)
		}
	}
	if cfg, _, err := load(flagged, set); err != nil || cfg.Reflection {
		t.Errorf("the file switches reflection off: %v", err)
	}
	if cfg, _, err := load(nil, with(map[string]string{"TEAMTOKEN_REFLECTION": "false"})); err != nil || cfg.Reflection {
		t.Errorf("the environment switches reflection off: %v", err)
	}
}

// Every error names the setting, and none shows a secret.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want string
	}{
		{"no credential", nil, map[string]string{"TFE_TOKEN": ""}, "no credential for the upstream"},
		{"two credentials", nil, map[string]string{"TFE_TOKEN_FILE": "f"}, "TFE_TOKEN and TFE_TOKEN_FILE"},
		{"nobody said who may call", nil, map[string]string{"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": "false"}, "who may use the service's credential"},
		{"a credential that is not used", []string{"--credentials=caller"}, nil, "would never be used"},
		{"another kind of credentials", []string{"--credentials=both"}, nil, "--credentials"},
		{"a simulator and an upstream", []string{"--simulator"}, nil, "TEAMTOKEN_SIMULATOR"},
		{"a simulator and its callers' tokens", []string{"--simulator", "--credentials=caller"}, map[string]string{"TFE_TOKEN": ""}, "no caller knows"},
		{"plain http to elsewhere", nil, map[string]string{"TFE_ADDRESS": "http://tfe.example.com"}, "TFE_ADDRESS"},
		{"an address with a path", nil, map[string]string{"TFE_ADDRESS": "https://tfe.example.com/api/v2"}, "TFE_ADDRESS"},
		{"an address with a user", nil, map[string]string{"TFE_ADDRESS": "https://u:p@tfe.example.com"}, "TFE_ADDRESS"},
		{"an address without a scheme", nil, map[string]string{"TFE_ADDRESS": "tfe.example.com"}, "TFE_ADDRESS"},
		{"a port that is none", []string{"--grpc-address=:99999"}, nil, "TEAMTOKEN_GRPC_ADDRESS"},
		{"no port", []string{"--http-address=localhost"}, nil, "TEAMTOKEN_HTTP_ADDRESS"},
		{"one port twice", []string{"--http-address=:9090"}, nil, "both"},
		{"a certificate without key", []string{"--tls-cert-file=c"}, nil, "TEAMTOKEN_TLS_KEY_FILE"},
		{"client CAs without certificate", []string{"--tls-client-ca-file=c"}, nil, "TEAMTOKEN_TLS_CLIENT_CA_FILE"},
		{"no time", []string{"--upstream-timeout=0s"}, nil, "TEAMTOKEN_UPSTREAM_TIMEOUT"},
		{"too much time", []string{"--request-timeout=1h"}, nil, "TEAMTOKEN_REQUEST_TIMEOUT"},
		{"not a time", nil, map[string]string{"TEAMTOKEN_REQUEST_TIMEOUT": "soon"}, "request-timeout"},
		{"not a level", []string{"--log-level=loud"}, nil, "log-level"},
		{"an unknown flag", []string{"--grpc-adress=:1"}, nil, "--grpc-adress"},
		{"a secret as a flag", []string{"--tfe-token=" + canary}, nil, "--tfe-token"},
		{"an argument", []string{"serve"}, nil, "serve"},
		{"no such file", []string{"--config=/does/not/exist"}, nil, "TEAMTOKEN_CONFIG"},
		{"an unknown key", []string{"--config=" + file(t, "grpc-adress: :1\n")}, nil, `"grpc-adress"`},
		{"a secret as a key", []string{"--config=" + file(t, "tfe-token: "+canary+"\n")}, nil, `"tfe-token"`},
		{"a file that is none", []string{"--config=" + file(t, "- a\n- b\n")}, nil, "not a YAML mapping"},
		{"a file of lists", []string{"--config=" + file(t, "grpc-address: [a]\n")}, nil, `"grpc-address"`},
	} {
		_, out, err := load(c.args, with(c.env))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error about %s, got %v", c.name, c.want, err)
			continue
		}
		if strings.Contains(err.Error()+out, canary) && !strings.Contains(strings.Join(c.args, " "), canary) {
			t.Errorf("%s: the secret is shown", c.name)
		}
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	_, _, err := load([]string{"--grpc-address=x", "--tls-key-file=k", "--upstream-timeout=-1s"}, nil)
	for _, want := range []string{"TEAMTOKEN_GRPC_ADDRESS", "TEAMTOKEN_TLS_CERT_FILE", "TEAMTOKEN_UPSTREAM_TIMEOUT", "no credential"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in: %v", want, err)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	_, help, err := load([]string{"--help"}, set)
	if err != config.ErrShown { //nolint:errorlint // as returned
		t.Fatal(err)
	}
	for _, want := range []string{"--grpc-address", "TEAMTOKEN_GRPC_ADDRESS", ":9090", "Listeners", "--simulator"} {
		if !strings.Contains(help, want) {
			t.Errorf("the help does not show %s:\n%s", want, help)
		}
	}
	if strings.Contains(help, canary) {
		t.Error("the help shows a secret")
	}
	if _, out, err := load([]string{"--version"}, nil); err != config.ErrShown || out != "teamtoken v1.2.3\n" { //nolint:errorlint // as returned
		t.Errorf("%q, %v", out, err)
	}
}

func TestManual(t *testing.T) {
	const path = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(config.Manual()), 0o644); err != nil { //nolint:gosec // for everybody to read
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != config.Manual() {
		t.Errorf("docs/configuration.md is not what the settings are: run go test ./internal/config -update (%v)", err)
	}
	cfg, _, err := load([]string{"--config", file(t, config.Example)}, nil)
	if err != nil || cfg.RequestTimeout != 20*time.Second {
		t.Errorf("the manual's example: %+v, %v", cfg, err)
	}
}
