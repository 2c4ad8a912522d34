package surface_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// faulty accepts connections, counts them, and closes them while it is broken.
type faulty struct {
	net.Listener
	broken   atomic.Bool
	accepted atomic.Int64
}

func (l *faulty) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || !l.broken.Load() {
			return conn, err
		}
		l.accepted.Add(1)
		_ = conn.Close()
	}
}

// While the upstream can't be reached it is tried now and then, callers are told at
// once that nothing was done, and when it is back so are they. It is ready all the
// time: another replica would fare no better.
func TestCircuit(t *testing.T) {
	sim, _ := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	l := &faulty{Listener: harness.Must(net.Listen("tcp", "127.0.0.1:0"))}
	l.broken.Store(true)
	server := &http.Server{Handler: sim, TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.Pair}}}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	s := harness.WithService(sim, "https://"+l.Addr().String())
	s.Env = append(s.Env, "TFE_CA_FILE="+ca.CAFile)
	f := harness.Start(t, s)
	begun := time.Now()
	const calls = 200
	for range calls {
		_, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
		if d := harness.Details(err); status.Code(err) != codes.Unavailable || d.Reason != "UPSTREAM_UNREACHABLE" || d.Outcome != "not_applied" {
			t.Fatal(err)
		}
	}
	if tried, most := l.accepted.Load(), 5+2*(1+int64(time.Since(begun)/time.Second)); tried < 5 || tried > most {
		t.Errorf("%d connections in %d calls, want up to %d", tried, calls, most)
	}
	if code, _ := f.Get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
	l.broken.Store(false)
	harness.Eventually(t, "it is tried again", func() bool {
		_, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
		return err == nil
	})
	for range 20 {
		harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("")))
	}
}
