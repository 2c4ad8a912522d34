package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// hellos listens for TLS clients, and gives what each offers before it hangs up on it.
func hellos(t *testing.T) (address string, next <-chan *tls.ClientHelloInfo) {
	t.Helper()
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = listener.Close() })
	offered := make(chan *tls.ClientHelloInfo, 100)
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		select {
		case offered <- hello:
		default:
		}
		return nil, errors.New("that is all")
	}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.SetDeadline(time.Now().Add(harness.Patience))
				_ = tls.Server(conn, config).Handshake()
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String(), offered
}

// Whomever the program calls over TLS, it offers TLS 1.2 and 1.3 and AEAD suites alone.
func TestClientHellos(t *testing.T) {
	t.Parallel()
	aead := []uint16{
		tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	ca := harness.NewAuthority(t)
	rules := harness.WriteTemp(t, harness.PolicyFor("*"))
	for _, row := range []struct {
		name string
		env  func(address string) []string
	}{
		{"the upstream", func(at string) []string { return []string{"TFE_ADDRESS=https://" + at} }},
		{"the upstream, by a CA of its own", func(at string) []string {
			return []string{"TFE_ADDRESS=https://" + at, "TFE_CA_FILE=" + ca.CAFile}
		}},
		{"the issuer of JWTs", func(at string) []string {
			return []string{"TEAMTOKEN_JWT_ISSUER=https://" + at, "TEAMTOKEN_JWT_AUDIENCE=teamtoken"}
		}},
		{"the issuer of JWTs, by a CA of its own", func(at string) []string {
			return []string{"TEAMTOKEN_JWT_ISSUER=https://" + at, "TEAMTOKEN_JWT_AUDIENCE=teamtoken", "TEAMTOKEN_JWT_ISSUER_CA_FILE=" + ca.CAFile}
		}},
		{"Redis", func(at string) []string {
			return []string{"TEAMTOKEN_STATE=rediss://" + at, "TEAMTOKEN_STATE_KEY_FILE=" + harness.StateKey(t)}
		}},
		{"Redis, by a CA of its own", func(at string) []string {
			return []string{"TEAMTOKEN_STATE=rediss://" + at, "TEAMTOKEN_STATE_KEY_FILE=" + harness.StateKey(t), "TEAMTOKEN_STATE_CA_FILE=" + ca.CAFile}
		}},
		{"Redis Sentinel", func(at string) []string {
			return []string{"TEAMTOKEN_STATE=rediss://" + at + "?master_name=m", "TEAMTOKEN_STATE_KEY_FILE=" + harness.StateKey(t)}
		}},
		{"Redis Cluster", func(at string) []string {
			return []string{"TEAMTOKEN_STATE=rediss://" + at + "?cluster=true", "TEAMTOKEN_STATE_KEY_FILE=" + harness.StateKey(t)}
		}},
		{"the collector of the audit", func(at string) []string {
			return []string{"TEAMTOKEN_AUDIT_FILE=otlp", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=https://" + at}
		}},
		{"the collector of traces", func(at string) []string {
			return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://" + at, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=50"}
		}},
		{"the collector of metrics", func(at string) []string {
			return []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=https://" + at, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_METRIC_EXPORT_INTERVAL=100"}
		}},
		{"the collector of traces, over HTTP", func(at string) []string {
			return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://" + at, "OTEL_BSP_SCHEDULE_DELAY=50"}
		}},
		{"the collector of metrics, over HTTP", func(at string) []string {
			return []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=https://" + at, "OTEL_METRIC_EXPORT_INTERVAL=100"}
		}},
		{"the collector of both, over HTTP and by a CA of its own", func(at string) []string {
			return []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=https://" + at, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + ca.CAFile, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
				"OTEL_METRIC_EXPORT_INTERVAL=100", "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_EXPORTER_OTLP_TIMEOUT=1000",
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			at, offered := hellos(t)
			port := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
			rest := port.Addr().String()
			_ = port.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := exec.CommandContext(ctx, harness.Binary)
			cmd.Env = append([]string{
				"TFE_TOKEN=x", "TFE_ADDRESS=http://127.0.0.1:1", "TEAMTOKEN_POLICY_FILE=" + rules, "TEAMTOKEN_AUDIT_FILE=/dev/null",
				"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=" + rest, "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
				"TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32",
			}, row.env(at)...)
			var stderr harness.Output
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cancel(); _ = cmd.Wait() }()
			harness.Eventually(t, "it calls: "+stderr.String(), func() bool {
				// A call, for those who are called by one alone.
				if req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+rest+harness.TokenPath, nil); err == nil {
					req.Header.Set("X-Forwarded-Client-Cert", "URI="+harness.HonestCaller)
					if resp, err := http.DefaultClient.Do(req); err == nil {
						_ = resp.Body.Close()
					}
				}
				select {
				case hello := <-offered:
					checkHello(t, hello, aead)
					return true
				default:
					return false
				}
			})
		})
	}
	t.Run("the command line", func(t *testing.T) {
		at, offered := hellos(t)
		cmd := exec.CommandContext(t.Context(), harness.CommandLine(), "--address", at, "get", harness.Team)
		_ = cmd.Run()
		select {
		case hello := <-offered:
			checkHello(t, hello, aead)
		case <-time.After(harness.Patience):
			t.Error("it does not call")
		}
	})
}

func checkHello(t *testing.T, hello *tls.ClientHelloInfo, aead []uint16) {
	t.Helper()
	var others []string
	for _, suite := range hello.CipherSuites {
		if !slices.Contains(aead, suite) {
			others = append(others, tls.CipherSuiteName(suite))
		}
	}
	if len(others) > 0 {
		t.Errorf("it offers %s", strings.Join(others, ", "))
	}
	if !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) || slices.Min(hello.SupportedVersions) < tls.VersionTLS12 {
		t.Errorf("it offers the versions %x", hello.SupportedVersions)
	}
}
