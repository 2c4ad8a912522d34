package server

// Inside the package: a listener that is bounded is made by New alone, which
// opens three of them and a gRPC server.

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
	g.Listener = bounded(l, limit, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refused++
	})
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

// A script is of peers by name: "a" connects, "a!" sends a byte, "a-" is closed
// by the server.
func TestWhoIsLetIn(t *testing.T) {
	for _, c := range []struct {
		name    string
		limit   int
		script  string
		open    string
		refused int
	}{
		{"there is room", 2, "a b", "a b", 0},
		{"the oldest that is silent makes room", 2, "a b c", "b c", 1},
		{"and then the next", 2, "a b c d", "c d", 2},
		{"who has sent a byte stays", 2, "a a! b c", "a c", 1},
		{"and stays however many come", 2, "a a! b c d e f", "a f", 4},
		{"where all have spoken the new one is refused", 2, "a a! b b! c", "a b", 1},
		{"and so is the next", 2, "a a! b b! c d", "a b", 2},
		{"to speak twice is to speak once", 2, "a a! a! b c", "a c", 1},
		{"who leaves makes room", 2, "a a! b b! a- c", "b c", 0},
		{"a silent one that leaves makes room", 2, "a b a- c", "b c", 0},
		{"who leaves twice makes room once", 2, "a a! b b! a- a- c c! d", "b c", 1},
		{"who was put out and leaves makes no more room", 2, "a b c a- b! c! d", "b c", 2},
		{"room for one", 1, "a b", "b", 1},
		{"room for one that speaks", 1, "a a! b", "a", 1},
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
				case "!":
					if _, err := io.WriteString(peers[name], "x"); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(g.server(peers[name]), make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
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
	var in []bool
	for range limit + 1 {
		peer, ok := g.dial(t)
		in = append(in, ok)
		if ok {
			_, _ = io.WriteString(peer, "x")
			_, _ = g.server(peer).Read(make([]byte, 1))
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
		l := bounded(p, 1, nil)
		peer, served := net.Pipe()
		defer peer.Close()
		p <- served
		conn, _ := l.Accept()

		for range 5 { // each almost too late
			go func() {
				time.Sleep(stuck - time.Second)
				_, _ = peer.Read(make([]byte, 1))
			}()
			if _, err := io.WriteString(conn, "x"); err != nil {
				t.Fatalf("a slow reader: %v", err)
			}
		}
		time.Sleep(2 * stuck) // between two answers nobody has to read

		begun := time.Now()
		if _, err := io.WriteString(conn, "x"); err == nil {
			t.Error("what nobody read was written")
		}
		if took := time.Since(begun); took != stuck {
			t.Errorf("it took %v, want %v", took, stuck)
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
