package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// certified makes a client's certificate that differs as change says.
func certified(t *testing.T, a *harness.Authority, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	certFile, keyFile := a.Issue(t, func(leaf *x509.Certificate) {
		leaf.DNSNames = []string{"caller.teamtoken.test"}
		change(leaf)
	})
	return harness.Must(tls.LoadX509KeyPair(certFile, keyFile))
}

// Both listeners speak TLS 1.2 and 1.3 with AEAD alone, and let in nobody whose
// certificate is not good now.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	s := harness.WithService(sim, url)
	s.TLS = a
	s.Env = append(s.Env, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+a.CAFile)
	f := harness.Start(t, s)
	good := certified(t, a, func(*x509.Certificate) {})
	of := func(change func(*x509.Certificate)) func(*tls.Config) {
		return func(c *tls.Config) { c.Certificates = []tls.Certificate{certified(t, a, change)} }
	}
	for _, row := range []struct {
		name   string
		change func(*tls.Config)
		want   bool
	}{
		{"TLS 1.3", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, true},
		{"TLS 1.2, AEAD", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
		}, true},
		{"TLS 1.2, CBC", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}
		}, false},
		{"TLS 1.2, a key for all times", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}, false},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"TLS 1.0", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		{"an expired certificate", of(func(l *x509.Certificate) { l.NotAfter = time.Now().Add(-time.Minute) }), false},
		{"a certificate of tomorrow", of(func(l *x509.Certificate) { l.NotBefore = time.Now().Add(time.Minute) }), false},
		{"a certificate for servers", of(func(l *x509.Certificate) { l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), false},
	} {
		for name, address := range map[string]string{"gRPC": f.GRPC, "REST": strings.TrimPrefix(f.REST, "https://")} {
			t.Run(row.name+"/"+name, func(t *testing.T) {
				config := a.Client()
				config.Certificates, config.NextProtos, config.ServerName = []tls.Certificate{good}, []string{"h2"}, "localhost"
				row.change(config)
				if got := shakesHands(t, address, config); got != row.want {
					t.Errorf("let in: %v", got)
				}
			})
		}
	}
	if _, err := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, nil)).
		GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC in the clear: %v", err)
	}
	resp, err := f.NewHTTPClient(t, nil).Get("http://" + strings.TrimPrefix(f.REST, "https://") + "/api/v2/ping")
	if err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("REST in the clear: %s", resp.Status)
	}
	if n := len(sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}

// shakesHands reports whether the server takes the client. Over TLS 1.3 it says no
// only after the client's handshake is over.
func shakesHands(t *testing.T, address string, config *tls.Config) bool {
	t.Helper()
	raw := harness.Must(net.Dial("tcp", address))
	defer raw.Close()
	conn := tls.Client(raw, config)
	_ = conn.SetDeadline(time.Now().Add(harness.Patience))
	if conn.Handshake() != nil {
		return false
	}
	_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	_, err := conn.Read(make([]byte, 1))
	return err == nil
}

// An upstream that is not for certain the right one gets no request.
func TestUpstreamDowngrade(t *testing.T) {
	t.Parallel()
	a, other := harness.NewAuthority(t), harness.NewAuthority(t)
	of := func(by *harness.Authority, change func(*x509.Certificate)) func(*tls.Config) {
		return func(c *tls.Config) {
			certFile, keyFile := by.Issue(t, func(l *x509.Certificate) {
				l.DNSNames = []string{"localhost"}
				change(l)
			})
			c.Certificates = []tls.Certificate{harness.Must(tls.LoadX509KeyPair(certFile, keyFile))}
		}
	}
	same := func(*x509.Certificate) {}
	for _, row := range []struct {
		name   string
		change func(*tls.Config) // nil serves in the clear
		want   bool
	}{
		{"a good one", of(a, same), true},
		{"in the clear", nil, false},
		{"TLS 1.1", func(c *tls.Config) { of(a, same)(c); c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"expired", of(a, func(l *x509.Certificate) { l.NotAfter = time.Now().Add(-time.Minute) }), false},
		{"of tomorrow", of(a, func(l *x509.Certificate) { l.NotBefore = time.Now().Add(time.Minute) }), false},
		{"of another name", of(a, func(l *x509.Certificate) { l.DNSNames = []string{"localhost.example.com"} }), false},
		{"of another CA", of(other, same), false},
		{"for clients", of(a, func(l *x509.Certificate) { l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			sim := simulator.New(simulator.Options{Rate: -1})
			t.Cleanup(func() { _ = sim.Close() })
			var arrived atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				arrived.Add(1)
				sim.ServeHTTP(w, r)
			}))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			if row.change == nil {
				server.Start()
			} else {
				server.TLS = &tls.Config{}
				row.change(server.TLS)
				server.StartTLS()
			}
			t.Cleanup(server.Close)
			s := harness.WithService(sim, "https://localhost"+server.URL[strings.LastIndex(server.URL, ":"):])
			s.Env = append(s.Env, "TFE_CA_FILE="+a.CAFile)
			f := harness.Start(t, s)
			_, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			d := apierror.FromStatus(status.Convert(err))
			if row.want != (err == nil) || !row.want && (status.Code(err) != codes.Unavailable || d.Reason != "UPSTREAM_UNREACHABLE" || d.Outcome != "not_applied") {
				t.Error(err)
			}
			if n := arrived.Load(); (n > 0) != row.want {
				t.Errorf("%d requests arrived", n)
			}
		})
	}
}

// TestSSLScan has a scanner that knows of more than Go does look at both listeners.
func TestSSLScan(t *testing.T) {
	t.Parallel()
	scanner := harness.Tool(t, "sslscan", "TEAMTOKEN_SSLSCAN", "apt-get install sslscan")
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.TLS = harness.NewAuthority(t)
	f := harness.Start(t, s)
	for name, address := range map[string]string{"gRPC": f.GRPC, "REST": strings.TrimPrefix(f.REST, "https://")} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), scanner, "--no-colour", "--iana-names", address).CombinedOutput()
			report := string(out)
			if err != nil {
				t.Fatalf("%v\n%s", err, report)
			}
			for _, version := range []string{"SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"} {
				if !regexp.MustCompile(fmt.Sprintf(`(?m)^%s\s+disabled`, regexp.QuoteMeta(version))).MatchString(report) {
					t.Errorf("%s is not disabled", version)
				}
			}
			ciphers := regexp.MustCompile(`(?m)^(?:Preferred|Accepted)\s+(TLSv1\.\d)\s+\d+ bits\s+(?:0x\S+\s+)?(\S+)`).FindAllStringSubmatch(report, -1)
			versions := map[string]bool{}
			for _, c := range ciphers {
				versions[c[1]] = true
				if !regexp.MustCompile(`GCM|CHACHA20|CCM`).MatchString(c[2]) {
					t.Errorf("%s is accepted", c[2])
				}
			}
			if !versions["TLSv1.2"] || !versions["TLSv1.3"] {
				t.Errorf("ciphers of %v were found", versions)
			}
			if !strings.Contains(report, "Session renegotiation not supported") {
				t.Error("a session may be renegotiated")
			}
			if strings.Contains(report, "Compression enabled") {
				t.Error("TLS compresses")
			}
			if t.Failed() {
				t.Log(report)
			}
		})
	}
}
