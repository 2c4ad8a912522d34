package state_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
)

// bomb is a context that panics in whoever asks for its end.
type bomb struct{ context.Context }

func (bomb) Done() <-chan struct{} { panic("in the client of Redis") }

// A step that panics while the circuit is half open is a failed one: Redis is asked
// again a moment later, as after any other.
func TestAPanicDoesNotKeepTheCircuitOpen(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close() // and nobody is there
	var failure string
	s, err := state.OpenRedis(state.RedisOptions{
		URL: secret.New("redis://" + address), Prefix: "teamtoken", Times: state.NewTTLs(hold),
		Observe: func(_ context.Context, _, f string, _ time.Duration) { failure = f },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	asked := func(want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for failure = ""; failure != want; {
			if _, err := s.Heartbeat(t.Context(), "r"); err == nil {
				t.Fatal("there is a Redis")
			}
			if time.Now().After(deadline) {
				t.Fatalf("not within 10 seconds: %s, but %s", want, failure)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	asked("circuit_open")
	for range 3 {
		deadline := time.Now().Add(10 * time.Second)
		for panicked := false; !panicked; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not within 10 seconds: a request that panics")
			}
			func() {
				defer func() { panicked = recover() != nil }()
				_, _ = s.Heartbeat(bomb{t.Context()}, "r")
			}()
		}
	}
	asked("unreachable")
}
