package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configuration is one team's token, with these arguments, and nothing else.
func configuration(arguments string) string {
	return `terraform {
  required_providers {
    tfe = { source = "hashicorp/tfe" }
  }
}

resource "tfe_team_token" "this" {
  team_id = "` + team + `"
` + arguments + `}
`
}

// kinds are the tokens that a team can have, as arguments of the resource.
var kinds = map[string]string{
	"the team's token": "",
	"a named token":    "  description = \"ci\"\n  expired_at  = \"2198-01-02T03:04:05Z\"\n",
}

// The Terraform provider makes, keeps, replaces and deletes a team's token through
// the program, however it finds it. It is not to be had everywhere: the test needs
// Terraform on the PATH, and the provider's program in TFE_PROVIDER_BIN. It was
// written where there was no provider: so far Terraform has been seen to accept
// what it is given here, up to starting the provider, and nothing after that.
func TestProvider(t *testing.T) {
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("terraform is not on the PATH: nothing is said of the provider")
	}
	provider := os.Getenv("TFE_PROVIDER_BIN")
	if provider == "" {
		t.Skip("TFE_PROVIDER_BIN does not name a terraform-provider-tfe: nothing is said of it")
	}
	if provider, err = filepath.Abs(provider); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		open func(*testing.T, server) (s server, host, cli string, env []string)
	}{
		{"a host block, in the clear", func(t *testing.T, s server) (server, string, string, []string) {
			s = withCallers.open(t, s)
			const host = "tfe.example.test"
			return s, host, fmt.Sprintf("host %q {\n  services = { \"tfe.v2.2\" = %q }\n}\n", host, s.url+api+"/"), nil
		}},
		{"discovery, over TLS", func(t *testing.T, s server) (server, string, string, []string) {
			cert, key := certificate(t)
			s.url = start(t, "TFE_ADDRESS="+s.upstream, "TEAMTOKEN_CREDENTIALS=caller",
				"TEAMTOKEN_TLS_CERT_FILE="+cert, "TEAMTOKEN_TLS_KEY_FILE="+key)
			port := s.url[strings.LastIndex(s.url, ":")+1:]
			return s, "localhost:" + port, "", []string{"SSL_CERT_FILE=" + cert}
		}},
	} {
		for kind, arguments := range kinds {
			t.Run(row.name+"/"+kind, func(t *testing.T) {
				// The row opens the surface, so what onEach opens is only the upstream.
				onEach(t, []surface{direct}, func(t *testing.T, s server) {
					s, host, cli, env := row.open(t, s)
					tf := newTerraform(t, terraform, provider, cli, configuration(arguments),
						append(env, "TFE_HOSTNAME="+host, "TFE_TOKEN="+s.token))

					tf.run(t, 0, "apply", "-auto-approve")
					s.wantLive(t, true)
					tf.run(t, 0, "plan", "-detailed-exitcode") // nothing is to be changed: what it reads is what it made
					tf.run(t, 0, "apply", "-auto-approve", "-replace=tfe_team_token.this")
					s.wantLive(t, false, true)
					tf.run(t, 0, "destroy", "-auto-approve")
					s.wantLive(t, false, false)
				})
			})
		}
	}
}

// wantLive says of every token that was ever made whether it should be live.
func (s server) wantLive(t *testing.T, want ...bool) {
	t.Helper()
	minted := s.sim.Minted()
	if len(minted) != len(want) {
		t.Fatalf("%d tokens were made, want %d", len(minted), len(want))
	}
	for i, m := range minted {
		if m.Live != want[i] {
			t.Errorf("token %d is live: %v, want %v", i+1, m.Live, want[i])
		}
	}
}

// terraform is a directory that it runs in, with nothing of the machine's own
// configuration, and without a look at any registry.
type terraform struct {
	program, dir string
	env          []string
}

func newTerraform(t *testing.T, program, provider, cli, configuration string, env []string) terraform {
	t.Helper()
	tf := terraform{program: program, dir: t.TempDir()}
	plugins := t.TempDir()
	// An override is a directory, and the program in it has to have this name.
	if err := os.Symlink(provider, filepath.Join(plugins, "terraform-provider-tfe")); err != nil {
		t.Fatal(err)
	}
	// Without `direct`, nothing else can be installed either.
	cli += fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"hashicorp/tfe\" = %q\n  }\n}\n", plugins)
	file := filepath.Join(t.TempDir(), "cli.tfrc")
	for name, text := range map[string]string{file: cli, filepath.Join(tf.dir, "main.tf"): configuration} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tf.env = append(env, "TF_CLI_CONFIG_FILE="+file, "HOME="+t.TempDir(), "PATH="+os.Getenv("PATH"),
		"CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1")
	return tf
}

// run ends the test unless Terraform exits with this code. An override needs no
// init, and allows none.
func (tf terraform) run(t *testing.T, code int, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), tf.program, append([]string{args[0], "-input=false", "-no-color"}, args[1:]...)...)
	c.Dir, c.Env, c.WaitDelay = tf.dir, tf.env, patience
	out, err := c.CombinedOutput()
	if c.ProcessState == nil || c.ProcessState.ExitCode() != code {
		t.Fatalf("terraform %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// certificate makes the certificate of localhost, which is its own authority, and
// its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
