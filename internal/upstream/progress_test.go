package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// late has a connection only once the caller of a request has left.
type late struct {
	leave func()
	conn  net.Conn
}

func (l late) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	trace.GetConn("upstream")
	l.leave()
	<-r.Context().Done()
	trace.GotConn(httptrace.GotConnInfo{Conn: l.conn})
	_, err := l.conn.Write([]byte(r.Method))
	trace.WroteHeaders()
	return nil, err
}

// A change whose caller leaves just before there is a connection is certain not to be
// sent.
func TestConnectionThatComesTooLate(t *testing.T) {
	ours, theirs := net.Pipe()
	sent := make(chan []byte, 1)
	go func() {
		text := make([]byte, 16)
		n, _ := theirs.Read(text)
		_ = theirs.Close()
		sent <- text[:n]
	}()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := newClient(upstream.Options{
		Address: "http://upstream.example", Transport: func() http.RoundTripper { return late{cancel, ours} }, Timeout: time.Minute,
		Credential: upstream.FixedCredential{Text: secret.New("c")},
	})
	if err != nil {
		t.Fatal(err)
	}
	team, _ := upstream.ParseTeamID("team-0000000000000000")
	_, _, err = c.CreateToken(ctx, team, time.Time{})
	var e *upstream.Error
	if !errors.As(err, &e) || e.Kind != upstream.Unreachable {
		t.Errorf("%v, want that nothing was sent", err)
	}
	if text := <-sent; len(text) != 0 {
		t.Errorf("%q was sent", text)
	}
}
