package e2e

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	sim, _ := newSimulator(t)
	ca := newAuthority(t)
	l := &faulty{Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	l.broken.Store(true)
	server := &http.Server{Handler: sim, TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.pair}}}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	s := withService(sim, "https://"+l.Addr().String())
	s.env = append(s.env, "TFE_CA_FILE="+ca.caFile)
	f := start(t, s)
	begun := time.Now()
	const calls = 200
	for range calls {
		_, err := f.client.GenerateToken(t.Context(), asking(""))
		if d := details(err); status.Code(err) != codes.Unavailable || d.Reason != "UPSTREAM_UNREACHABLE" || d.Outcome != "not_applied" {
			t.Fatal(err)
		}
	}
	if tried, most := l.accepted.Load(), 5+2*(1+int64(time.Since(begun)/time.Second)); tried < 5 || tried > most {
		t.Errorf("%d connections in %d calls, want up to %d", tried, calls, most)
	}
	if code, _ := f.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
	l.broken.Store(false)
	eventually(t, "it is tried again", func() bool {
		_, err := f.client.GenerateToken(t.Context(), asking(""))
		return err == nil
	})
	for range 20 {
		must(f.client.GenerateToken(t.Context(), asking("")))
	}
}
