package replicas_test

import (
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// Redis asks for a certificate. The files of certificate, key and CA are read again
// when they change, so that what was wrong is mended without a restart.
func TestRedisAsksForACertificate(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	ca, other := harness.NewAuthority(t), harness.NewAuthority(t)
	r := statetest.Start(t, "tls-port auto", "tls-auth-clients yes",
		"tls-cert-file "+ca.CertFile, "tls-key-file "+ca.KeyFile, "tls-ca-cert-file "+ca.CAFile)
	good := [2]string{}
	good[0], good[1] = ca.Issue(t, func(leaf *x509.Certificate) { leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	goodCA := ca.CAFile
	dir := t.TempDir()
	put := func(name, from string) {
		next := dir + "/next"
		if err := errors.Join(os.WriteFile(next, harness.Must(os.ReadFile(from)), 0o600), os.Rename(next, dir+"/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	put("ca.pem", other.CAFile)
	put("tls.crt", other.CertFile)
	put("tls.key", other.KeyFile)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_STATE=rediss://"+r.TLSAddress(), "TEAMTOKEN_STATE_KEY_FILE="+harness.StateKey(t),
		"TEAMTOKEN_STATE_CA_FILE="+dir+"/ca.pem", "TEAMTOKEN_STATE_TLS_CERT_FILE="+dir+"/tls.crt", "TEAMTOKEN_STATE_TLS_KEY_FILE="+dir+"/tls.key")
	f := harness.Start(t, s)
	refused := func(what string) {
		t.Helper()
		_, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
		if d := harness.Details(err); status.Code(err) != codes.Unavailable || d.Reason != "STATE_STORE_UNAVAILABLE" || d.Outcome != "not_applied" {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("neither believes the other")
	put("ca.pem", goodCA)
	harness.Eventually(t, "the CA is read again", func() bool {
		return strings.Contains(f.Metrics(), `teamtoken_reloads_total{result="ok",setting="TEAMTOKEN_STATE_CA_FILE"} 1`)
	})
	refused("Redis does not believe the service")
	put("tls.key", good[1])
	put("tls.crt", good[0])
	harness.Eventually(t, "changes are made", func() bool {
		_, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
		return err == nil
	})
	if !strings.Contains(f.Metrics(), `teamtoken_certificate_remaining_seconds{setting="TEAMTOKEN_STATE_TLS_CERT_FILE"}`) {
		t.Error("it is not told for how long the certificate is valid")
	}
}

// A Redis on another host that can be read or used by others is warned of at start, what is
// missing by its name; a parameter that weakens the connection ends the program.
func TestRedisThatOthersCanUse(t *testing.T) {
	t.Parallel()
	const noTLS, noPassword = "used without TLS", "used without a password"
	password := t.TempDir() + "/password"
	if err := os.WriteFile(password, []byte("a-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		url   string
		env   []string
		warns []string
	}{
		{"redis://redis.invalid:6379", nil, []string{noTLS, noPassword}},
		{"redis://u:p@redis.invalid:6379", nil, []string{noTLS}},
		{"rediss://redis.invalid:6379", nil, []string{noPassword}},
		{"redis://redis.invalid:6379", []string{"TEAMTOKEN_STATE_PASSWORD_FILE=" + password}, []string{noTLS}},
		{"rediss://redis.invalid:6379?cluster=true", []string{"TEAMTOKEN_STATE_PASSWORD_FILE=" + password}, nil},
		{"redis://127.0.0.1:1", nil, nil},
		{"redis://localhost:1?cluster=true&addr=redis.invalid:6379", nil, []string{noTLS, noPassword}},
	} {
		sim, url := harness.NewSimulator(t)
		s := harness.WithService(sim, url)
		s.Env = append(append(s.Env, "TEAMTOKEN_STATE="+row.url, "TEAMTOKEN_STATE_KEY_FILE="+harness.StateKey(t)), row.env...)
		f := harness.Start(t, s)
		for _, warning := range []string{noTLS, noPassword} {
			want := false
			for _, w := range row.warns {
				want = want || w == warning
			}
			if strings.Contains(f.Stderr.String(), warning) != want {
				t.Errorf("%s %v: %q, want %v", row.url, row.env, warning, want)
			}
		}
	}
}
