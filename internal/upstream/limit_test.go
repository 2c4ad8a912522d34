package upstream_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/upstream"
)

// An upstream that says 429 and to wait for no time at all is asked a few times
// more, and not as fast as it answers.
func TestA429ThatNamesNoWaitIsWaitedOut(t *testing.T) {
	var sent atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sent.Add(1)
		w.Header().Set("X-RateLimit-Reset", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer srv.Close()
	transport := upstream.NewTransport(nil)
	defer transport.CloseIdleConnections()
	client, err := newClient(upstream.Options{
		Address: srv.URL, Timeout: 30 * time.Second, Transport: func() http.RoundTripper { return transport },
	})
	if err != nil {
		t.Fatal(err)
	}
	team, err := upstream.ParseTeamID("team-6p5jTwJQXwqZBncC")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var failed *upstream.Error
	if err := client.DeleteToken(ctx, team); !errors.As(err, &failed) || failed.Kind != upstream.RateLimited {
		t.Fatal(err)
	}
	// At 0, 50, 150 and 350 ms, and 400 ms more would not fit.
	if n := sent.Load(); n < 1 || n > 4 {
		t.Errorf("%d requests in half a second", n)
	}
}
