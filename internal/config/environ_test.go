package config_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/config"
)

func TestStrangers(t *testing.T) {
	for name, meant := range map[string]string{ // of variables that are warned of
		"TEAMTOKEN_POLICY_FLIE": "TEAMTOKEN_POLICY_FILE", "TEAMTOKEN_POLICYFILE": "TEAMTOKEN_POLICY_FILE", "TEAMTOKEN_POLICY_FILES": "TEAMTOKEN_POLICY_FILE",
		"TEAMTOKEN_POLICY": "TEAMTOKEN_POLICY_FILE", "TEAMTOKEN_GRPC_ADRESS": "TEAMTOKEN_GRPC_ADDRESS", "TEAMTOKEN_ADDRESS": "", "TEAMTOKEN_GRPC_ADDR": "",
		"TEAMTOKEN_CLIENT_CA_FILE": "TEAMTOKEN_TLS_CLIENT_CA_FILE", "TEAMTOKEN_CERT_FILE": "", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLERS": "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER",
		"TEAMTOKEN_TFE_TOKEN": "TFE_TOKEN", "TEAMTOKEN_TFE_ADRESS": "TFE_ADDRESS", "TEAMTOKEN_WHATEVER": "", "TEAMTOKEN_": "", "TEAMTOKEN_STAT": "TEAMTOKEN_STATE",
		"TEAMTOKEN__STATE": "TEAMTOKEN_STATE", "teamtoken_policy_file": "TEAMTOKEN_POLICY_FILE", "TeamToken_State": "TEAMTOKEN_STATE", "TEAMTOKEN-POLICY-FILE": "TEAMTOKEN_POLICY_FILE",
		"TEAMTOKEN_SERVER_JWT_ISSUER": "TEAMTOKEN_JWT_ISSUER", "TEAM_TOKEN_POLICY_FILE": "TEAMTOKEN_POLICY_FILE", "TEAMTOKN_JWT_ISSUER": "TEAMTOKEN_JWT_ISSUER",
		"TEAMTOKEN_GRPC_PORT": "", "TEAMTOKEN_PORT": "", "TEAMTOKEN_LOGLEVEL": "TEAMTOKEN_LOG_LEVEL", "TEAMTOKEN_JWT_AUDIENCES": "TEAMTOKEN_JWT_AUDIENCE",
		"TFE_TOKN": "TFE_TOKEN", "TFE_TOKEN_FIL": "TFE_TOKEN_FILE", "TFE_ADDRES": "TFE_ADDRESS", "TFE_CAFILE": "TFE_CA_FILE", "tfe_token": "TFE_TOKEN",
	} {
		for _, value := range []string{"", "x", "s3cret"} {
			got := config.UnknownVariables([]string{"PATH=/bin", name + "=" + value})
			if want := []config.Stranger{{Name: name, Meant: meant}}; !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	environ := []string{ // of which none is
		"TEAMTOKEN_SERVICE_HOST=10.0.0.1", "TEAMTOKEN_SERVICE_PORT=9090", "TEAMTOKEN_SERVICE_PORT_GRPC=9090", "TEAMTOKEN_PORT=tcp://10.0.0.1:9090",
		"TEAMTOKEN_PORT_9090_TCP=tcp://10.0.0.1:9090", "TEAMTOKEN_PORT_9090_TCP_ADDR=10.0.0.1", "TEAMTOKEN_PORT_9090_TCP_PORT=9090", "TEAMTOKEN_PORT_9090_TCP_PROTO=tcp",
		"TEAMTOKEN_PORT_53_UDP_ADDR=10.0.0.1", "TEAMTOKEN_ADMIN_SERVICE_HOST=10.0.0.2", "TEAMTOKEN_ADMIN_PORT=tcp://10.0.0.2:9464", "TEAMTOKEN_ADMIN_PORT_9464_TCP_ADDR=10.0.0.2",
		"TEAMTOKEN_TEST_REQUIRE=envoy", "TEAMTOKEN_LONG=1", "PATH=/bin", "HOME=/", "TEAM=a", "TOKEN=b", "TF_TOKEN=x", "TFC_TOKEN=x", "TFE_HOSTNAME=h", "TFE_LICENSE=l", "TFE_SSL_SKIP_VERIFY=1",
		"OTEL_SERVICE_NAME=a", "=C:=C:\\", "", "X",
	}
	for f := range reflect.TypeFor[config.Config]().Fields() {
		environ = append(environ, f.Tag.Get("var")+"=x")
	}
	if got := config.UnknownVariables(environ); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// The program as a whole says nothing of values.
func TestStrangersHaveNoValues(t *testing.T) {
	for _, s := range config.UnknownVariables([]string{"TEAMTOKEN_TFE_TOKEN=" + canary, "TFE_TOKN=" + canary}) {
		if strings.Contains(s.Name+s.Meant, canary) {
			t.Errorf("%+v", s)
		}
	}
}

// No example lets any caller in, but the quick start with the simulator, in README.md
// and the Makefile: whoever copies one would give the secrets of all callers to all.
func TestNoExampleAllowsAnyCaller(t *testing.T) {
	set := regexp.MustCompile(`(?i)(insecure[-_]?allow[-_]?any[-_]?caller|teamtoken_simulator|\bsimulator)["']?\s*[:=]\s*["']?(true|1|yes|on)\b`)
	flag := regexp.MustCompile(`--(insecure-allow-any-caller|simulator)\b`)
	block := regexp.MustCompile("(?s)```.*?```")
	simulated, files := 0, 0
	for _, root := range []string{"../../deploy", "../../docs", "../../clients", "../../README.md", "../../Makefile"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Name() == "node_modules" {
				return fs.SkipDir // what npm has installed is not ours
			}
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			text := string(content)
			if strings.HasSuffix(path, ".md") && strings.Contains(text, "`--insecure-allow-any-caller`") { // the manual says what it is
				text = strings.Join(block.FindAllString(text, -1), "\n")
			}
			quick := root == "../../README.md" || root == "../../Makefile"
			for _, found := range append(set.FindAllString(text, -1), flag.FindAllString(text, -1)...) {
				if quick && strings.Contains(found, "simulator") {
					simulated++
					continue
				}
				t.Errorf("%s has %s", path, found)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if files < 20 || simulated == 0 {
		t.Errorf("%d files were read, and %d times the simulator is started", files, simulated)
	}
}
