package server

// Inside the package: a listener that is bounded is made by New alone, which
// opens three of them and a gRPC server.

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

const (
	yes, mark = "y", "m" // a server's greeting, and what it says to those who are still there
	patience  = 30 * time.Second
)

// guarded is a bounded listener that greets whom it lets in.
type guarded struct {
	net.Listener
	mu      sync.Mutex
	refused int
	in      map[string]net.Conn // by the peer's address
}

func guard(t *testing.T, limit int) *guarded {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{in: map[string]net.Conn{}}
	g.Listener = newPool(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refused++
	}).bounded(l, limit, time.Hour, false, false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := g.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.in[conn.RemoteAddr().String()] = conn
			g.mu.Unlock()
			_, _ = io.WriteString(conn, yes)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
		for _, conn := range g.in {
			_ = conn.Close()
		}
	})
	return g
}

// server is the other end of a peer's connection.
func (g *guarded) server(peer net.Conn) net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.in[peer.LocalAddr().String()]
}

// dial returns once the peer is let in or not.
func (g *guarded) dial(t *testing.T) (peer net.Conn, in bool) {
	t.Helper()
	peer, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	return peer, hears(t, peer) == yes
}

// hears is the next byte, or nothing where the connection has ended.
func hears(t *testing.T, peer net.Conn) string {
	t.Helper()
	_ = peer.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1)
	n, err := peer.Read(b)
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection is neither open nor closed")
	}
	return string(b[:n])
}

// A script is of peers by name: "a" connects; "a." sends a byte and "a!" many, of its
// handshake; "a+" has made its handshake; "a(" begins a call, which "a)" ends and "a="
// ends as one that was identified; "a-" is closed by the server.
func TestWhoIsLetIn(t *testing.T) {
	for _, c := range []struct {
		name    string
		limit   int
		script  string
		open    string
		refused int
	}{
		{"there is room", 8, "a b", "a b", 0},
		{"of handshakes, one that says nothing goes", 8, "a a! b c", "a c", 1},
		{"or next to nothing", 8, "a a! b b. c c!", "a c", 1},
		{"and then the oldest", 8, "a a! b b! c", "b c", 1},
		{"handshakes take no room of others", 8, "a a+ b b+ c c+ d e f", "a b c e f", 1},
		{"where it is full, the oldest stranger goes", 4, "a a+ b b+ c c+ d d+ e", "b c d e", 1},
		{"and then the next", 4, "a a+ b b+ c c+ d d+ e e+ f", "c d e f", 2},
		{"a stranger that speaks is no younger for it", 4, "a a+ b b+ c c+ d d+ a! a. e", "b c d e", 1},
		{"nor by calls of nobody", 4, "a a+ b b+ c c+ d d+ a( a) e", "b c d e", 1},
		{"a stranger with a call stays", 4, "a a+ a( b b+ c c+ d d+ e", "a c d e", 1},
		{"known ones stay before strangers", 4, "a a+ a( a= b b+ c c+ d d+ e", "a c d e", 1},
		{"but leave newcomers their share", 4, "a a+ a( a= b b+ b( b= c c+ c( c= d d+ e", "b c d e", 1},
		{"the longest idle of them goes", 4, "a a+ a( a= b b+ b( b= c c+ c( c= d d+ a( a= e", "a c d e", 1},
		{"one with a call stays", 4, "a a+ a( a= b b+ b( b= c c+ c( c= d d+ a( b( e", "a b d e", 1},
		{"where all have a call the new one is refused", 4, "a a+ a( b b+ b( c c+ c( d d+ d( e", "a b c d", 1},
		{"one call of two goes on", 4, "a a+ a( a( a= b b+ b( c c+ c( d d+ d( e", "a b c d", 1},
		{"who leaves makes room", 4, "a a+ a( b b+ b( c c+ c( d d+ d( a- e", "b c d e", 0},
		{"who leaves twice makes room once", 4, "a a+ a( b b+ b( c c+ c( d d+ d( a- a- e e+ e( f", "b c d e", 1},
		{"who was put out and leaves makes no more room", 4, "a a+ b b+ c c+ d d+ e e+ a- b( c( d( e( f", "b c d e", 2},
		{"room for one", 1, "a b", "b", 1},
		{"room for one with a call", 1, "a a+ a( b", "a", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := guard(t, c.limit)
			peers := map[string]net.Conn{}
			var names []string
			for step := range strings.FieldsSeq(c.script) {
				name, act := step[:1], step[1:]
				switch act {
				case "":
					peers[name], _ = g.dial(t)
					names = append(names, name)
				case ".", "!":
					what := strings.Repeat("x", map[string]int{".": 1, "!": enough}[act])
					if _, err := io.WriteString(peers[name], what); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(g.server(peers[name]), make([]byte, len(what))); err != nil {
						t.Fatal(err)
					}
				case "+":
					g.server(peers[name]).(*connection).shaken()
				case "(":
					g.server(peers[name]).(*connection).begin()
				case ")", "=":
					g.server(peers[name]).(*connection).end(act == "=")
				case "-":
					_ = g.server(peers[name]).Close()
				}
			}
			var open []string
			for _, name := range names {
				if conn := g.server(peers[name]); conn != nil {
					_, _ = io.WriteString(conn, mark)
				}
				if hears(t, peers[name]) == mark {
					open = append(open, name)
				}
			}
			if got := strings.Join(open, " "); got != c.open {
				t.Errorf("open are %q, want %q", got, c.open)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.refused != c.refused {
				t.Errorf("%d were refused, want %d", g.refused, c.refused)
			}
		})
	}
}

// After many have come and gone at once, in every way, there is room for as many
// as there ever was.
func TestRoomAfterAStorm(t *testing.T) {
	const limit = 8
	g := guard(t, limit)
	var storm sync.WaitGroup
	for i := range 200 {
		peer, err := net.Dial("tcp", g.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		storm.Go(func() {
			defer peer.Close()
			if hears(t, peer) != yes {
				return
			}
			conn := g.server(peer)
			if i%3 > 0 {
				_, _ = io.WriteString(peer, "x")
				_, _ = conn.Read(make([]byte, 1))
			}
			for range 1 + i%2 {
				storm.Go(func() { _ = conn.Close() })
			}
		})
	}
	storm.Wait()
	pool := g.Listener.(*connections).pool
	if pool.mu.Lock(); pool.held != 0 {
		t.Errorf("%d bytes are still held", pool.held)
	}
	pool.mu.Unlock()
	var in []bool
	for range limit + 1 {
		peer, ok := g.dial(t)
		in = append(in, ok)
		if ok {
			g.server(peer).(*connection).shaken()
			g.server(peer).(*connection).begin()
		}
	}
	if want := append(slices.Repeat([]bool{true}, limit), false); !slices.Equal(in, want) {
		t.Errorf("let in are %v, want %v", in, want)
	}
}

// net/http ends an answer before it ends the connection.
func TestHalfClosed(t *testing.T) {
	g := guard(t, 1)
	peer, _ := g.dial(t)
	conn := g.server(peer)
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("there is no CloseWrite, so net/http would do without")
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, peer); got != "" {
		t.Errorf("the peer hears %q, want the end", got)
	}
	if _, err := io.WriteString(peer, "x"); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, conn); got != "x" {
		t.Errorf("the server hears %q of what is still sent", got)
	}
}

// pipes is a listener of connections within the program, whose time can be that
// of a test.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) { return <-p, nil }
func (p pipes) Close() error              { return nil }
func (p pipes) Addr() net.Addr            { return nil }

// Who does not read is not waited for without end, and who reads slowly is.
func TestPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pipes, 1)
		l := newPool(nil).bounded(p, 1, time.Hour, false, false)
		peer, served := net.Pipe()
		defer peer.Close()
		p <- served
		conn, _ := l.Accept()

		for range 5 { // each almost too late
			go func() {
				time.Sleep(writeTimeout - time.Second)
				_, _ = peer.Read(make([]byte, 1))
			}()
			if _, err := io.WriteString(conn, "x"); err != nil {
				t.Fatalf("a slow reader: %v", err)
			}
		}
		time.Sleep(2 * writeTimeout) // between two answers nobody has to read

		begun := time.Now()
		if _, err := io.WriteString(conn, "x"); err == nil {
			t.Error("what nobody read was written")
		}
		if took := time.Since(begun); took != writeTimeout {
			t.Errorf("it took %v, want %v", took, writeTimeout)
		}
		other, _ := net.Pipe()
		p <- other
		if conn, err := l.Accept(); err != nil { // room was made
			t.Error(err)
		} else {
			_ = conn.Close()
		}
	})
}

// A call whose connection was closed to make room before it began is not answered here:
// the interceptors refuse it, whose context has ended, so that it is in the audit.
func TestACallWhoseConnectionWasClosed(t *testing.T) {
	p := newPool(nil)
	c := &connection{of: &connections{pool: p, limit: 1}}
	p.mu.Lock()
	p.open[c] = struct{}{}
	c.leave()
	p.mu.Unlock()
	asked := errors.New("the interceptors' own")
	tracked := Tracked(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		if ctx.Err() == nil {
			t.Error("the context goes on")
		}
		return nil, asked
	}, func(context.Context) context.Context { return nil })
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: authInfo{nil, c}})
	if _, err := tracked(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/teamtoken.v1.TeamTokenService/GetToken"}, nil); !errors.Is(err, asked) {
		t.Error(err)
	}
	if c.busy != 0 {
		t.Errorf("%d calls are under way", c.busy)
	}
}
