package identity_test

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// copyFile overwrites one file with another, as a rotation does.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, harness.Must(os.ReadFile(from)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Who has no certificate of the right CA is let in nowhere; and the CA, the
// certificate and the key are all followed.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	old, next := harness.NewAuthority(t), harness.NewAuthority(t)
	s := harness.WithService(sim, url)
	s.TLS = old
	s.Env = append(s.Env, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+old.CAFile)
	f := harness.Start(t, s)

	// try makes a call on connections of its own, as a client that trusts server
	// and presents client's certificate.
	try := func(server, client *harness.Authority, max uint16) (grpc, rest bool) {
		config := server.Client()
		config.MaxVersion = max
		if max != 0 {
			config.MinVersion = max
		}
		if client != nil {
			config.Certificates = []tls.Certificate{client.Pair}
		}
		with := &harness.Server{GRPC: f.GRPC, TLS: config}
		conn := with.Dial(t)
		defer conn.Close()
		_, err := teamtokenv1.NewTeamTokenServiceClient(conn).
			GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		transport := &http.Transport{TLSClientConfig: config}
		defer transport.CloseIdleConnections()
		resp, restErr := (&http.Client{Transport: transport}).Get(f.REST + "/api/v2/ping")
		if restErr == nil {
			_ = resp.Body.Close()
		}
		return status.Code(err) == codes.NotFound, restErr == nil
	}
	for _, c := range []struct {
		name   string
		client *harness.Authority
		max    uint16
		want   bool
	}{
		{"a certificate of the CA", old, 0, true},
		{"TLS 1.2", old, tls.VersionTLS12, true},
		{"TLS 1.1", old, tls.VersionTLS11, false},
		{"no certificate", nil, 0, false},
		{"a certificate of another CA", next, 0, false},
	} {
		if grpc, rest := try(old, c.client, c.max); grpc != c.want || rest != c.want {
			t.Errorf("%s: gRPC %v, REST %v, want %v", c.name, grpc, rest, c.want)
		}
	}

	copyFile(t, next.CertFile, old.CertFile)
	copyFile(t, next.KeyFile, old.KeyFile)
	harness.Eventually(t, "the new certificate is served", func() bool { grpc, rest := try(next, old, 0); return grpc && rest })
	copyFile(t, next.CAFile, old.CAFile)
	harness.Eventually(t, "the new CA is asked for", func() bool { grpc, rest := try(next, next, 0); return grpc && rest })
	if grpc, rest := try(next, old, 0); grpc || rest {
		t.Error("the old CA is trusted still")
	}
}

// The upstream is read over HTTP/2 where it offers that, and changed over
// HTTP/1.1, with CAs and a credential that are followed.
func TestUpstreamOverTLS(t *testing.T) {
	t.Parallel()
	sim := simulator.New(simulator.Options{Rate: -1})
	t.Cleanup(func() { _ = sim.Close() })
	var protocols sync.Map // of the method to the protocol that it came over
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols.Store(r.Method, r.Proto)
		sim.ServeHTTP(w, r)
	}))
	upstream.EnableHTTP2 = true
	upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	upstream.StartTLS()
	t.Cleanup(upstream.Close)

	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	write := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, string(harness.Must(os.ReadFile(harness.NewAuthority(t).CAFile))))
	write(token, "not-yet\n")
	f := harness.Start(t, harness.Settings{Sim: sim, Upstream: upstream.URL, Env: []string{
		"TFE_CA_FILE=" + ca, "TFE_TOKEN_FILE=" + token, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
	}})
	code := func() codes.Code {
		_, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
		return status.Code(err)
	}
	if got := code(); got != codes.Unavailable {
		t.Errorf("a CA that is not the upstream's: %v", got)
	}
	write(ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw})))
	harness.Eventually(t, "the right CA is in use", func() bool { return code() == codes.Internal })

	write(token, sim.UserToken().Reveal()+"\n")
	if got := code(); got != codes.OK {
		t.Errorf("a credential that was rotated a moment ago: %v", got)
	}
	if _, err := f.Client.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Error(err)
	}
	for method, want := range map[string]string{"GET": "HTTP/2.0", "POST": "HTTP/1.1"} {
		if got, _ := protocols.Load(method); got != want {
			t.Errorf("%s over %v, want %s", method, got, want)
		}
	}
}
