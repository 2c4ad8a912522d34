package operations_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

func TestHealthAndAdmin(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	health := grpc_health_v1.NewHealthClient(f.Conn)
	for _, service := range []string{"", "teamtoken.v1.TeamTokenService"} {
		resp, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, resp, err)
		}
	}
	if _, err := f.Client.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/livez":  "ok",
		"/readyz": "ok",
		"/metrics": `rpc_server_call_duration_seconds_count{error_type="NOT_FOUND",rpc_method="teamtoken.v1.TeamTokenService/GetToken",rpc_response_status_code="NOT_FOUND",rpc_system_name="grpc"} 1
http_client_request_duration_seconds_count{error_type="not_found",http_request_method="GET",http_response_status_code="404"
go_goroutine_count
process_cpu_seconds_total
target_info{service_instance_id=`,
	} {
		code, body := f.Get(t, path)
		for part := range strings.Lines(want) {
			if code != http.StatusOK || !strings.Contains(body, strings.TrimSpace(part)) {
				t.Errorf("%s: %d without %q", path, code, part)
			}
		}
	}
	if code, _ := f.Get(t, "/debug/pprof/"); code != http.StatusNotFound {
		t.Error("profiles are served although nobody asked for them")
	}
}

// What stops the program from starting is said in one line, and by its exit code.
func TestStartFails(t *testing.T) {
	t.Parallel()
	taken := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = taken.Close() })
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	free := []string{
		"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
		"TEAMTOKEN_CREDENTIALS=caller",
	}
	own := []string{"TEAMTOKEN_CREDENTIALS=service", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true"}
	for _, c := range []struct {
		name string
		env  []string
		code int
		want []string
	}{
		{
			"a gRPC port that is taken",
			[]string{"TEAMTOKEN_GRPC_ADDRESS=" + taken.Addr().String()},
			1,
			[]string{"TEAMTOKEN_GRPC_ADDRESS", "address already in use"},
		},
		{
			"a REST port that is taken",
			[]string{"TEAMTOKEN_HTTP_ADDRESS=" + taken.Addr().String()},
			1,
			[]string{"TEAMTOKEN_HTTP_ADDRESS", "address already in use"},
		},
		{
			"an admin port that is taken",
			[]string{"TEAMTOKEN_ADMIN_ADDRESS=" + taken.Addr().String()},
			1,
			[]string{"TEAMTOKEN_ADMIN_ADDRESS", "address already in use"},
		},
		{"no credential", own, 2, []string{"TFE_TOKEN_FILE"}},
		{
			"nobody said who may call",
			[]string{"TEAMTOKEN_CREDENTIALS=service", "TFE_TOKEN=x"},
			2,
			[]string{"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER"},
		},
		{"a bad address", []string{"TFE_ADDRESS=app.terraform.io"}, 2, []string{"TFE_ADDRESS"}},
		{
			"a token file that is not there", append(own, "TFE_TOKEN_FILE=/does/not/exist"), 1,
			[]string{"TFE_TOKEN_FILE", "/does/not/exist", "no such file"},
		},
		{"a token file that is empty", append(own, "TFE_TOKEN_FILE="+empty), 1, []string{"TFE_TOKEN_FILE", "empty"}},
		{"CAs that are none", []string{"TFE_CA_FILE=" + empty}, 1, []string{"TFE_CA_FILE", "no PEM certificate"}},
		{
			"a certificate that is none",
			[]string{"TEAMTOKEN_TLS_CERT_FILE=" + empty, "TEAMTOKEN_TLS_KEY_FILE=" + empty},
			1,
			[]string{"TEAMTOKEN_TLS_CERT_FILE"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, harness.Binary)
			cmd.Env = append(append([]string{}, free...), c.env...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Fatalf("exit: %v, want %d\n%s", err, c.code, stderr.String())
			}
			if strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("not one line:\n%s", stderr.String())
			}
			for _, want := range c.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q is not in: %s", want, stderr.String())
				}
			}
		})
	}
}

// 200 calls are in flight at SIGTERM: all are answered, and every token that was
// made is with its caller. Whoever comes later is refused.
func TestShutdown(t *testing.T) {
	t.Parallel()
	const calls = 200
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	late := f.Dial(t)
	health := grpc_health_v1.NewHealthClient(late)
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Times: -1, Hold: release, Apply: simulator.ApplyLate})

	var answered sync.WaitGroup
	secrets := make(chan string, calls)
	for i := range calls {
		answered.Go(func() {
			if i%2 == 0 {
				resp, err := f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i)})
				if err != nil {
					t.Errorf("a call in flight was not answered: %v", err)
				}
				secrets <- resp.GetSecret()
				return
			}
			resp, err := f.HTTP.Post(f.REST+"/api/v2/teams/"+simulator.AnotherTeam(i)+"/authentication-token", "", nil)
			if err != nil {
				t.Errorf("a request in flight was not answered: %v", err)
				return
			}
			defer resp.Body.Close()
			var doc struct {
				Data struct{ Attributes struct{ Token string } }
			}
			if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || resp.StatusCode != http.StatusCreated {
				t.Errorf("a request in flight was not answered: %s, %v", resp.Status, err)
			}
			secrets <- doc.Data.Attributes.Token
		})
	}
	<-fault.Hit()
	harness.Eventually(t, "all calls are upstream", func() bool { return len(sim.Requests()) == calls })

	f.Terminate()
	harness.Eventually(t, "it is not ready", func() bool {
		code, _ := f.Get(t, "/readyz")
		return code == http.StatusServiceUnavailable
	})
	if code, _ := f.Get(t, "/livez"); code != http.StatusOK {
		t.Error("it is alive until it has ended")
	}
	// On the connection that is open, and on a new one.
	for range 20 {
		for _, conn := range []teamtokenv1.TeamTokenServiceClient{teamtokenv1.NewTeamTokenServiceClient(late), f.Client} {
			_, err := conn.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			d := apierror.FromStatus(status.Convert(err))
			if status.Code(err) != codes.Unavailable || d.Reason != "" && (d.Reason != "SHUTTING_DOWN" || d.Outcome != "not_applied") {
				t.Errorf("a new call is refused: %v", err)
			}
		}
	}
	close(release)
	answered.Wait()
	close(secrets)
	if code := f.Stop(t, harness.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	given := map[string]bool{}
	for s := range secrets {
		given[s] = true
	}
	minted := sim.Minted()
	for _, m := range minted {
		if !given[m.Secret.Reveal()] {
			t.Errorf("token %s was made, and not delivered", m.ID)
		}
	}
	if len(minted) != calls || len(sim.Requests()) != calls {
		t.Errorf("%d tokens were made, by %d requests", len(minted), len(sim.Requests()))
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	release := make(chan struct{})
	defer close(release)
	fault := sim.Inject(simulator.Fault{Hold: release, Apply: simulator.ApplyLate})
	go func() {
		_, _ = f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
	}()
	<-fault.Hit()
	f.Terminate()
	harness.Eventually(t, "it is stopping", func() bool { return strings.Contains(f.Stderr.String(), `"stopping`) })
	if err := f.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.Exited:
	case <-time.After(harness.Patience / 3): // it would have waited for 30 s
		t.Error("it did not end")
	}
	if f.Cmd.ProcessState.ExitCode() == 0 {
		t.Error("it did not end in order, and yet says so")
	}
}

// With a delay, a program that is to end says at once that no more calls are to come,
// to those who watch its health as well, and takes those that come all the same.
func TestShutdownDelay(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_SHUTDOWN_DELAY=2s")
	f := harness.Start(t, s)
	var watches []grpc_health_v1.Health_WatchClient
	for _, name := range []string{"", teamtokenv1.TeamTokenService_ServiceDesc.ServiceName} {
		watch := harness.Must(grpc_health_v1.NewHealthClient(f.Conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name}))
		if status := harness.Must(watch.Recv()).GetStatus(); status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q is %v", name, status)
		}
		watches = append(watches, watch)
	}
	f.Terminate()
	for _, watch := range watches {
		if status := harness.Must(watch.Recv()).GetStatus(); status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("after SIGTERM it is %v", status)
		}
	}
	if code, _ := f.Get(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", code)
	}
	if code, _ := f.Get(t, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d", code)
	}
	if strings.Contains(f.Stderr.String(), "new calls are refused") {
		t.Fatal("the delay is over already: this machine is too slow for the test")
	}
	if _, err := f.Client.GenerateToken(t.Context(), harness.Asking("")); err != nil {
		t.Errorf("over a connection that was there: %v", err)
	}
	if _, err := teamtokenv1.NewTeamTokenServiceClient(f.Dial(t)).GenerateToken(t.Context(), harness.Asking("")); err != nil {
		t.Errorf("over a new connection: %v", err)
	}
	resp, err := f.HTTP.Post(f.REST+"/api/v2/teams/"+simulator.SeedTeam+"/authentication-token", "", nil)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Errorf("over REST: %v, %v", resp, err)
	}
	if resp != nil {
		_ = resp.Body.Close()
	}
	if code := f.Stop(t, harness.Patience); code != 0 {
		t.Errorf("it ended with %d", code)
	}
}
