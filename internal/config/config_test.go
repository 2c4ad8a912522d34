package config_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
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

// anybody is the environment that says whether any caller is let in.
func anybody(yes bool) map[string]string {
	return map[string]string{"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": strconv.FormatBool(yes)}
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

// Every error names the setting as it is written, and none shows a secret.
func TestRefused(t *testing.T) {
	const password = "hunter2"
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want string
	}{
		{"no credential", nil, map[string]string{"TFE_TOKEN": ""}, "no credential for the upstream"},
		{"two credentials", nil, map[string]string{"TFE_TOKEN_FILE": "f"}, "TFE_TOKEN and TFE_TOKEN_FILE"},
		{"a credential of two words", nil, map[string]string{"TFE_TOKEN": canary + " " + canary}, "TFE_TOKEN: it must be one word"},
		{"a credential of two lines", nil, map[string]string{"TFE_TOKEN": canary + "\n" + canary}, "TFE_TOKEN: it must be one word"},
		{"nobody said who may call", nil, map[string]string{"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": "false"}, "who may use the service's credential"},
		{"a credential that is not used", []string{"--credentials=caller"}, nil, "would never be used"},
		{"another kind of credentials", []string{"--credentials=both"}, nil, `TEAMTOKEN_CREDENTIALS (--credentials) is "both"`},
		{"a simulator and an upstream", []string{"--simulator"}, nil, "TEAMTOKEN_SIMULATOR"},
		{"a simulator and its callers' tokens", []string{"--simulator", "--credentials=caller"}, map[string]string{"TFE_TOKEN": ""}, "no caller knows"},
		{"plain http to elsewhere", nil, map[string]string{"TFE_ADDRESS": "http://tfe.example.com"}, "TFE_ADDRESS (--tfe-address)"},
		{"plain http to what only looks like loopback", nil, map[string]string{"TFE_ADDRESS": "http://127.0.0.1.example.com"}, "TFE_ADDRESS"},
		{"an address with a path", nil, map[string]string{"TFE_ADDRESS": "https://tfe.example.com/api/v2"}, "TFE_ADDRESS"},
		{"an address with a query", nil, map[string]string{"TFE_ADDRESS": "https://tfe.example.com?a=b"}, "TFE_ADDRESS"},
		{"an address with a password", nil, map[string]string{"TFE_ADDRESS": "https://u:" + password + "@tfe.example.com"}, "TFE_ADDRESS"},
		{"half an address with a password", nil, map[string]string{"TFE_ADDRESS": "https://u:" + password}, "TFE_ADDRESS"},
		{"an address with a port that is none", nil, map[string]string{"TFE_ADDRESS": "https://tfe.example.com:99999"}, "TFE_ADDRESS"},
		{"an address without a scheme", nil, map[string]string{"TFE_ADDRESS": "tfe.example.com"}, "TFE_ADDRESS"},
		{"a port that is none", []string{"--grpc-address=:99999"}, nil, "TEAMTOKEN_GRPC_ADDRESS (--grpc-address)"},
		{"a port by its name", []string{"--grpc-address=:http"}, nil, "TEAMTOKEN_GRPC_ADDRESS"},
		{"no port", []string{"--http-address=localhost"}, nil, "TEAMTOKEN_HTTP_ADDRESS (--http-address)"},
		{"one port twice", []string{"--http-address=:9090"}, nil, "are both on port 9090"},
		{"one port of all interfaces and of one", []string{"--admin-address=127.0.0.1:9090"}, nil, "are both on port 9090"},
		{"a certificate without key", []string{"--tls-cert-file=c"}, nil, "TEAMTOKEN_TLS_KEY_FILE"},
		{"client CAs without certificate", []string{"--tls-client-ca-file=c"}, nil, "TEAMTOKEN_TLS_CLIENT_CA_FILE"},
		{"a policy and no need of one", []string{"--policy-file=p", "--tls-cert-file=c", "--tls-key-file=k", "--tls-client-ca-file=c"}, nil, "say opposite things"},
		{"a policy for callers whom nobody knows", []string{"--policy-file=p"}, anybody(false), "TEAMTOKEN_POLICY_FILE (--policy-file) needs to know who calls"},
		{"an audience without issuer", []string{"--jwt-audience=a"}, nil, "TEAMTOKEN_JWT_AUDIENCE (--jwt-audience) needs TEAMTOKEN_JWT_ISSUER"},
		{"an issuer without audience", []string{"--jwt-issuer=https://issuer.example.com"}, nil, "needs TEAMTOKEN_JWT_AUDIENCE (--jwt-audience)"},
		{"an issuer in the clear", []string{"--jwt-issuer=http://issuer.example.com", "--jwt-audience=a"}, nil, "TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be https"},
		{"an issuer that ends in #", []string{"--jwt-issuer=https://issuer.example.com#", "--jwt-audience=a"}, nil, "TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be https"},
		{"an issuer with a blank", []string{"--jwt-issuer=https://issuer.example.com/a b", "--jwt-audience=a"}, nil, "TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be https"},
		{"an issuer with a #, and its keys", []string{"--jwt-issuer=a#b", "--jwt-audience=a", "--jwt-keys-file=f"}, nil, "must be printable ASCII"},
		{"an issuer with a blank, and its keys", []string{"--jwt-issuer=a b", "--jwt-audience=a", "--jwt-keys-file=f"}, nil, "must be printable ASCII"},
		{"an issuer's CAs, and its keys", []string{"--jwt-issuer=i", "--jwt-audience=a", "--jwt-keys-file=f", "--jwt-issuer-ca-file=c"}, nil, "the issuer is not asked"},
		{"JWTs where Authorization is for the upstream", []string{"--jwt-issuer=https://issuer.example.com", "--jwt-audience=a", "--credentials=caller"}, map[string]string{"TFE_TOKEN": "", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": ""}, "can't be a JWT too"},
		{"JWTs that whoever checks them can make", []string{"--jwt-algorithms=HS256"}, nil, `TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) has "HS256"`},
		{"JWTs that nobody signed", []string{"--jwt-algorithms=RS256,none"}, nil, `TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) has "none"`},
		{"a clock that is far off", []string{"--jwt-leeway=61s"}, nil, "TEAMTOKEN_JWT_LEEWAY (--jwt-leeway) is 1m1s"},
		{"another mesh", []string{"--mesh=consul"}, nil, `TEAMTOKEN_MESH (--mesh) is "consul"`},
		{"a mesh's proxy anywhere", []string{"--mesh-peers=0.0.0.0/0"}, nil, `TEAMTOKEN_MESH_PEERS (--mesh-peers) has "0.0.0.0/0"`},
		{"a proxy anywhere", []string{"--trusted-proxies=::/0"}, nil, `TEAMTOKEN_TRUSTED_PROXIES (--trusted-proxies) has "::/0"`},
		{"a proxy that is no network", []string{"--trusted-proxies=10.0.0.0/8,10.0.0.1"}, nil, `TEAMTOKEN_TRUSTED_PROXIES (--trusted-proxies) has "10.0.0.1"`},
		{"a public address without a scheme", []string{"--public-url=tokens.example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is "tokens.example.com"`},
		{"a public address with a query", []string{"--public-url=https://tokens.example.com/?a"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a fragment", []string{"--public-url=https://tokens.example.com#"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a user", []string{"--public-url=https://a@tokens.example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address of another scheme", []string{"--public-url=ftp://tokens.example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a bad port", []string{"--public-url=https://tokens.example.com:99999"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with an empty port", []string{"--public-url=https://tokens.example.com:"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address that goes up", []string{"--public-url=https://tokens.example.com/a/../b"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address without a host", []string{"--public-url=https:///a"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a host of a pattern", []string{"--public-url=https://*.example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a quote", []string{"--public-url=https://a\"b"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with letters that no host has", []string{"--public-url=https://tökens.example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address of port 0", []string{"--public-url=https://tokens.example.com:0"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with an empty part", []string{"--public-url=https://tokens.example.com//a"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with a blank", []string{"--public-url=https://tokens.example.com/a b"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with an escape", []string{"--public-url=https://tokens.example.com/a%2fb"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a public address with two dots", []string{"--public-url=https://tokens..example.com"}, nil, `TEAMTOKEN_PUBLIC_URL (--public-url) is`},
		{"a mesh's proxy that is no network", []string{"--mesh-peers=127.0.0.1"}, nil, `TEAMTOKEN_MESH_PEERS (--mesh-peers) has "127.0.0.1"`},
		{"a mesh's listener that is none", []string{"--mesh-listeners=admin"}, nil, `TEAMTOKEN_MESH_LISTENERS (--mesh-listeners) is "admin"`},
		{"optional certificates without mutual TLS", []string{"--tls-client-auth=optional"}, nil, "TEAMTOKEN_TLS_CLIENT_AUTH (--tls-client-auth) needs"},
		{"another way of asking for certificates", []string{"--tls-client-auth=maybe"}, nil, `TEAMTOKEN_TLS_CLIENT_AUTH (--tls-client-auth) is "maybe"`},
		{"certificates from two places", []string{"--spiffe-socket=unix:///s", "--tls-cert-file=c", "--tls-key-file=k"}, nil, "TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket) brings"},
		{"a socket that is none", []string{"--spiffe-socket=/run/agent.sock"}, nil, `TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket) is "/run/agent.sock"`},
		{"a Workload API elsewhere", []string{"--spiffe-socket=tcp://10.0.0.1:1"}, nil, "TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket)"},
		{"a state that is none", nil, map[string]string{"TEAMTOKEN_STATE": "http://u:" + password + "@h"}, "TEAMTOKEN_STATE must be memory, redis://"},
		{"Redis without keys", nil, map[string]string{"TEAMTOKEN_STATE": "redis://u:" + password + "@h"}, "set TEAMTOKEN_STATE_KEY_FILE (--state-key-file)"},
		{"keys without Redis", []string{"--state-key-file=f"}, nil, "TEAMTOKEN_STATE_KEY_FILE (--state-key-file) is for Redis"},
		{"a prefix that is none", []string{"--state-prefix={a}"}, nil, `TEAMTOKEN_STATE_PREFIX (--state-prefix) is "{a}"`},
		{"no hold", []string{"--unknown-hold=0s"}, nil, "TEAMTOKEN_UNKNOWN_HOLD (--unknown-hold) is 0s"},
		{"a rate that is none", []string{"--upstream-rate=-1"}, nil, "TEAMTOKEN_UPSTREAM_RATE (--upstream-rate) is -1"},
		{"an organization that is none", []string{"--organizations=a,b/c"}, nil, `TEAMTOKEN_ORGANIZATIONS (--organizations) has "b/c"`},
		{"no connections", []string{"--max-connections=0"}, nil, "TEAMTOKEN_MAX_CONNECTIONS (--max-connections) is 0"},
		{"no calls", []string{"--max-calls-per-caller=0"}, nil, "TEAMTOKEN_MAX_CALLS_PER_CALLER (--max-calls-per-caller) is 0"},
		{"no streams", []string{"--max-streams=-1"}, nil, "TEAMTOKEN_MAX_STREAMS (--max-streams) is -1"},
		{"headers too short for any call", []string{"--max-header-bytes=100"}, nil, "TEAMTOKEN_MAX_HEADER_BYTES (--max-header-bytes) is 100"},
		{"messages of any size", []string{"--max-message-bytes=100000000"}, nil, "TEAMTOKEN_MAX_MESSAGE_BYTES (--max-message-bytes) is 100000000"},
		{"no time for handshakes", []string{"--handshake-timeout=0s"}, nil, "TEAMTOKEN_HANDSHAKE_TIMEOUT (--handshake-timeout) is 0s"},
		{"no time", []string{"--upstream-timeout=0s"}, nil, "TEAMTOKEN_UPSTREAM_TIMEOUT (--upstream-timeout) is 0s"},
		{"too much time", []string{"--request-timeout=1h"}, nil, "TEAMTOKEN_REQUEST_TIMEOUT (--request-timeout) is 1h0m0s"},
		{"not a time", nil, map[string]string{"TEAMTOKEN_REQUEST_TIMEOUT": "soon"}, `TEAMTOKEN_REQUEST_TIMEOUT (--request-timeout): it must be a duration`},
		{"not a bool", nil, map[string]string{"TEAMTOKEN_PPROF": "maybe"}, "TEAMTOKEN_PPROF (--pprof): bool value must be true"},
		{"not a level", []string{"--log-level=loud"}, nil, "TEAMTOKEN_LOG_LEVEL (--log-level): "},
		{"a level without a name", []string{"--log-level=warn+1"}, nil, "TEAMTOKEN_LOG_LEVEL (--log-level) is WARN+1"},
		{"not a format", []string{"--log-format=xml"}, nil, `TEAMTOKEN_LOG_FORMAT (--log-format) is "xml"`},
		{"an unknown flag", []string{"--grpc-adress=:1"}, nil, `unknown flag --grpc-adress, did you mean "--grpc-address"?`},
		{"a secret as a flag", []string{"--tfe-token=" + canary}, nil, "unknown flag --tfe-token"},
		{"an argument", []string{"serve"}, nil, "unexpected argument serve"},
		{"a flag without its value", []string{"--tls-cert-file", "--config", "x"}, nil, "TEAMTOKEN_TLS_CERT_FILE (--tls-cert-file): "},
		{"no such file", []string{"--config=/does/not/exist"}, nil, "TEAMTOKEN_CONFIG (--config): open /does/not/exist"},
		{"no such file by variable", nil, map[string]string{"TEAMTOKEN_CONFIG": "/does/not/exist"}, "TEAMTOKEN_CONFIG (--config): open /does/not/exist"},
	} {
		_, out, err := load(c.args, with(c.env))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error about %s, got %v", c.name, c.want, err)
			continue
		}
		for _, secret := range []string{canary, password} {
			if strings.Contains(err.Error()+out, secret) {
				t.Errorf("%s: the secret is shown: %v", c.name, err)
			}
		}
	}
}

func TestFileRefused(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"an unknown key", "\nrate-limit: 3\n", `line 2: unknown setting "rate-limit"; those that there are: teamtoken-server --help`},
		{"a key with a slip", "grpc-adress: :1\n", `line 1: unknown setting "grpc-adress", did you mean "grpc-address"?`},
		{"a key spelled as a variable", "TEAMTOKEN_GRPC_ADDRESS: :1\n", `unknown setting "TEAMTOKEN_GRPC_ADDRESS", did you mean "grpc-address"?`},
		{"a secret", "tfe-token: " + canary + "\n", `"tfe-token" is a secret and has no place in this file: set TFE_TOKEN, or tfe-token-file here`},
		{"the file itself", "config: b.yaml\n", `unknown setting "config"`},
		{"all that is wrong", "a: 1\npprof: true\nb: 2\n", "line 1: unknown setting \"a\"; those that there are: teamtoken-server --help\nline 3: unknown setting \"b\""},
		{"a key twice", "pprof: true\npprof: false\n", `line 2: "pprof" is set a second time`},
		{"no value", "pprof:\n", `"pprof" needs a single value`},
		{"a list", "grpc-address: [a]\n", `"grpc-address" needs a single value`},
		{"an alias", "tfe-ca-file: &f x\ntls-cert-file: *f\n", `"tls-cert-file" needs a single value`},
		{"not a mapping", "- a\n- b\n", "line 1: this is not a mapping of settings to values"},
		{"not YAML", "pprof: true\nhttp-address: [\n", "yaml: line"},
		{"two documents", "pprof: true\n---\nbogus: 1\n", "there is more than one document in it"},
		{"a value that is none", "request-timeout: 1.5\n", `TEAMTOKEN_REQUEST_TIMEOUT (--request-timeout): it must be a duration`},
		{"too much", "# " + strings.Repeat("x", 1<<20), "is larger than 1048576 bytes"},
	} {
		path := file(t, c.content)
		_, _, err := load([]string{"--config", path}, set)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error about %s, got %v", c.name, c.want, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the secret is shown: %v", c.name, err)
		}
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "{}\n"} {
		if _, _, err := load([]string{"--config", file(t, empty)}, set); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("grpc-address: :1\nreflection: false\n")
	f.Add("tfe-address: &a [*a]\n---\n? {}\n")
	path := filepath.Join(f.TempDir(), "config.yaml")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if cfg, _, err := load([]string{"--config", path}, set); (cfg == nil) != (err != nil) {
			t.Errorf("%v, %v", cfg, err)
		} else if err != nil && !strings.Contains(err.Error(), "--") && !strings.Contains(err.Error(), "TFE_TOKEN") {
			t.Errorf("names no setting: %v", err)
		}
	})
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	args := []string{"--grpc-address=x", "--tls-key-file=k", "--upstream-timeout=-1s", "--log-format=xml"}
	_, _, err := load(args, nil)
	for _, want := range []string{
		"TEAMTOKEN_GRPC_ADDRESS", "TEAMTOKEN_TLS_CERT_FILE", "TEAMTOKEN_UPSTREAM_TIMEOUT", "TEAMTOKEN_LOG_FORMAT",
		"no credential", "who may use",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in: %v", want, err)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	_, help, err := load([]string{"--help", "--config=/does/not/exist"}, set)
	if !errors.Is(err, config.ErrShown) {
		t.Fatal(err)
	}
	for f := range reflect.TypeFor[config.Config]().Fields() {
		for _, tag := range []string{"name", "var", "default", "group"} {
			if want := f.Tag.Get(tag); !strings.Contains(help, want) {
				t.Errorf("the help does not show %s:\n%s", want, help)
			}
		}
	}
	if strings.Contains(help, canary) {
		t.Error("the help shows a secret")
	}
	if _, out, err := load([]string{"--version"}, nil); !errors.Is(err, config.ErrShown) || out != "teamtoken-server v1.2.3\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestManual(t *testing.T) {
	const manual = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(manual, []byte(manualText()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(manual)
	if err != nil || string(have) != manualText() {
		t.Errorf("docs/configuration.md is not what the settings are: run go test ./internal/config -update (%v)", err)
	}
	path, env := file(t, example), map[string]string{}
	byFile, _, err := load([]string{"--config", path}, nil)
	if err != nil || byFile.RequestTimeout != 20*time.Second {
		t.Fatalf("the manual's example: %+v, %v", byFile, err)
	}
	for line := range strings.Lines(environment) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	byEnv, _, err := load(nil, env)
	if err != nil {
		t.Fatalf("the manual's example: %v", err)
	}
	if byEnv.File = path; !reflect.DeepEqual(byEnv, byFile) {
		t.Errorf("the manual's examples differ: %+v, %+v", byFile, byEnv)
	}
}
