package operations_test

import (
	"context"
	"strings"
	"syscall"
	"testing"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A secret that goes through the program comes out where it was asked for, and
// the metrics, the log at debug and a panic's trace do not have it.
func TestSecretStandsInTheAnswerAlone(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	f := harness.Start(t, s)
	resp, err := f.Client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
	if err != nil {
		t.Fatal(err)
	}
	if minted := sim.Minted(); len(minted) != 1 || minted[0].Secret.Reveal() != resp.GetSecret() {
		t.Fatal("the caller did not get the secret that was made")
	}
	_, metrics := f.Get(t, "/metrics")
	harness.NoSecretIn(t, s, metrics)

	// A panic of the Go runtime's own making prints every goroutine's stack.
	if err := f.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-f.Exited
	if !strings.Contains(f.Stderr.String(), "goroutine ") {
		t.Error("no stack was printed, so that this test proves nothing of it")
	}
}
