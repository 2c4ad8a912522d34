package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// Whichever replica and surface answers, one request id is one token; and nothing
// runs any more when it has ended.
func TestCluster(t *testing.T) {
	for _, program := range []string{"redis-server", "nginx"} {
		if _, err := exec.LookPath(program); err != nil {
			if slices.Contains(strings.Split(os.Getenv("TEAMTOKEN_TEST_REQUIRE"), ","), program) {
				t.Fatalf("%s is required here, and not found", program)
			}
			t.Skipf("needs %s", program)
		}
	}
	server := filepath.Join(t.TempDir(), "teamtoken-server")
	if out, err := exec.Command("go", "build", "-o", server, "../../cmd/server").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var ports [2]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	grpcAddress, restAddress := "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	ctx, stop := context.WithCancel(t.Context())
	var out output
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, grpcAddress, restAddress, server, &out) }()
	defer stop()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "Stop with Ctrl-C"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not begin: %s", out.String())
		}
	}

	conn, err := grpc.NewClient(grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	secrets := map[string]int{}
	for i := range 6 {
		resp, err := teamtokenv1.NewTeamTokenServiceClient(conn).GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{
			TeamId: simulator.SeedTeam, RequestId: "one",
		})
		if err != nil {
			t.Fatal(err)
		}
		secrets[resp.GetSecret()]++
		req, err := http.NewRequest(http.MethodPost, "http://"+restAddress+"/api/v2/teams/"+simulator.SeedTeam+"/authentication-token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", "one")
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Data struct{ Attributes struct{ Token string } }
		}
		if err := json.NewDecoder(answer.Body).Decode(&doc); err != nil || answer.StatusCode != http.StatusCreated {
			t.Fatalf("%d: %s, %v", i, answer.Status, err)
		}
		_ = answer.Body.Close()
		secrets[doc.Data.Attributes.Token]++
	}
	if len(secrets) != 1 {
		t.Errorf("%d different answers", len(secrets))
	}
	for i := range 2 {
		if !strings.Contains(out.String(), fmt.Sprintf("replica %d | {\"time\"", i+1)) {
			t.Errorf("replica %d answered nothing", i+1)
		}
	}

	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, address := range []string{grpcAddress, restAddress} {
		if answer, err := http.Get("http://" + address); err == nil {
			_ = answer.Body.Close()
			t.Errorf("%s still answers", address)
		}
	}
}

// output is what may be written and read at once.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
