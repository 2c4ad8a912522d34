package surface_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A call that must be alone with the team, and finds it busy until its deadline,
// has changed nothing, and was not sent.
func TestTeamBusy(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Hold: release, Apply: simulator.ApplyLate})
	var first sync.WaitGroup
	first.Go(func() {
		if _, err := f.Client.GenerateToken(context.Background(), harness.Asking("")); err != nil {
			t.Errorf("the call that had the turn: %v", err)
		}
	})
	<-fault.Hit()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := f.Client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{
		TeamId: simulator.SeedTeam, ExpectedTokenId: "at-0000000000000000",
	})
	d := apierror.FromStatus(status.Convert(err))
	if status.Code(err) != codes.Aborted || d.Reason != "TEAM_BUSY" || d.Outcome != "not_applied" || d.RetryAfter <= 0 {
		t.Errorf("%v, %+v", err, d)
	}
	close(release)
	first.Wait()
	if n := len(sim.Requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// 64 calls at once under one request id are one request upstream, and 64 times
// its answer.
func TestOneRequestIDIsOneChange(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	var calls sync.WaitGroup
	var mu sync.Mutex
	secrets := map[string]int{}
	for range 64 {
		calls.Go(func() {
			resp, err := f.Client.GenerateToken(context.Background(), harness.Asking("deploy-1"))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			secrets[resp.GetSecret()]++
		})
	}
	calls.Wait()
	if len(sim.Minted()) != 1 || secrets[sim.Minted()[0].Secret.Reveal()] != 64 {
		t.Errorf("%d tokens, %d different answers", len(sim.Minted()), len(secrets))
	}
	for _, r := range sim.Requests() {
		if r.Header.Get("Idempotency-Key") != "" {
			t.Error("the key was sent upstream, where net/http would send a POST again by itself")
		}
	}
}

// Of 64 calls that expect the same present token, one replaces it.
func TestOneExpectedTokenIsOneChange(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	before, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 64 {
		calls.Go(func() {
			req := harness.Asking("")
			req.ExpectedTokenId = before.GetTeamToken().GetId()
			_, err := f.Client.GenerateToken(context.Background(), req)
			mu.Lock()
			defer mu.Unlock()
			seen[apierror.FromStatus(status.Convert(err)).Reason]++
		})
	}
	calls.Wait()
	if seen[""] != 1 || seen["TOKEN_CHANGED"] != 63 || len(sim.Minted()) != 2 {
		t.Errorf("%v, %d tokens", seen, len(sim.Minted()))
	}
}

// A caller that leaves changes nothing: the call ends upstream, and the same
// request id gets its answer, over either surface.
func TestTheCallerLeaves(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Hold: release, Apply: simulator.ApplyLate})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := f.Client.GenerateToken(ctx, harness.Asking("left-1")); left <- err }()
	<-fault.Hit()
	leave()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	harness.Eventually(t, "the server has seen it leave", func() bool { return strings.Contains(f.Stderr.String(), "UPSTREAM_TIMEOUT") })
	close(release)
	<-fault.Done()

	req := harness.Must(http.NewRequestWithContext(t.Context(), http.MethodPost,
		f.REST+"/api/v2/teams/"+simulator.SeedTeam+"/authentication-token", nil))
	req.Header.Set("Idempotency-Key", "left-1")
	resp := harness.Must(f.HTTP.Do(req))
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated || len(sim.Minted()) != 1 {
		t.Errorf("%s, %d tokens", resp.Status, len(sim.Minted()))
	}
	harness.Eventually(t, "the log says so", func() bool {
		return strings.Contains(f.Stderr.String(), "carried out after its caller had left")
	})
}

// A caller's request ids are its own.
func TestRequestIDsOfTwoCallers(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithCallers(sim, url))
	for _, bearer := range []string{sim.UserToken().Reveal(), sim.OrganizationToken().Reveal()} {
		got := grpcCall(f, t.Context(), sim, call{RPC: "GenerateToken", Request: map[string]any{"request_id": "same"}}, "", bearer)
		if got.Code != "OK" {
			t.Error(got)
		}
	}
	if n := len(sim.Minted()); n != 2 {
		t.Errorf("%d tokens", n)
	}
}
