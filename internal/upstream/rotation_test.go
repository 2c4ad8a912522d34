package upstream_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
	"github.com/teamtoken/teamtoken/internal/watch"
)

// Calls that were under way when the credential was rotated all go on with the
// new one, not only the first of them to look at the file again.
func TestCallsUnderWayOutliveARotation(t *testing.T) {
	const calls = 4
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	var arrived sync.WaitGroup
	arrived.Add(calls)
	rotated := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer old" {
			arrived.Done()
			<-rotated
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()

	ended, end := context.WithCancel(t.Context())
	end() // so that the file is looked at only when a call asks for it
	credential, err := watch.Files(ended, []string{file}, func(c [][]byte) (secret.Text, error) {
		return secret.New(string(c[0])), nil
	}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	transport := upstream.NewTransport(nil)
	defer transport.CloseIdleConnections()
	client, err := newClient(upstream.Options{
		Address: srv.URL, Credential: credential, Timeout: 30 * time.Second,
		Transport: func() http.RoundTripper { return transport },
	})
	if err != nil {
		t.Fatal(err)
	}
	team, err := upstream.ParseTeamID("team-6p5jTwJQXwqZBncC")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, calls)
	for range calls {
		go func() { failed <- client.DeleteToken(t.Context(), team) }()
	}
	arrived.Wait()
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	close(rotated)
	for range calls {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
