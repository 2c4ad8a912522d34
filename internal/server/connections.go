package server

import (
	"container/list"
	"errors"
	"net"
	"sync"
	"time"
)

// stuck is how long one write may wait for its peer to read.
const stuck = 20 * time.Second

// bounded lets at most limit connections of l be open at a time, so that a flood
// of them takes a known amount of memory and files. It protects those who
// speak: to make room for a new connection the oldest is closed that never sent
// a byte, and where all have sent some the new one is closed, at once. It never
// waits unanswered in the kernel's queue, where its peer could not tell a full
// server from a slow network and would not try the next replica. refused, if it
// is not nil, is called for each connection that is closed in either way.
//
// There is no share of an address: behind a mesh's sidecar, a load balancer or
// a NAT all peers have the same, and a share of it would be a lower limit for
// everybody. Nor is a peer that has sent a byte told from an honest one here:
// the timeouts of the handshake and of the headers end those that say no more,
// and the interceptors bound the calls of each caller.
//
// grpc-go sets TCP_USER_TIMEOUT on a *net.TCPConn and on nothing else, so a
// connection of this listener brings its own end of a peer that does not read:
// it is closed when one write takes longer than stuck.
func bounded(l net.Listener, limit int, refused func()) net.Listener {
	return &connections{Listener: l, limit: limit, refused: refused}
}

type connections struct {
	net.Listener
	limit   int
	refused func()

	mu     sync.Mutex
	open   int
	silent list.List // of *connection, the oldest first
}

// Accept waits for a connection for which there is room.
func (c *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if conn := c.admit(accepted); conn != nil {
			return conn, nil
		}
	}
}

// admit returns nil if there is no room.
func (c *connections) admit(accepted net.Conn) net.Conn {
	conn := &connection{Conn: accepted, of: c}
	out, ok := c.enter(conn)
	if out != nil {
		if c.refused != nil {
			c.refused()
		}
		_ = out.Close()
	}
	if !ok {
		return nil
	}
	return conn
}

// enter counts conn, if there is room or it can be made, and returns whom to
// close for that: one that was silent, or conn's own socket.
func (c *connections) enter(conn *connection) (out net.Conn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.limit {
		oldest := c.silent.Front()
		if oldest == nil {
			return conn.Conn, false
		}
		silent := oldest.Value.(*connection)
		silent.leave()
		out = silent.Conn
	}
	c.open++
	conn.place = c.silent.PushBack(conn)
	conn.unread = time.AfterFunc(stuck, func() { _ = conn.Close() })
	conn.unread.Stop()
	return out, true
}

// connection counts until it is closed, however often that is.
type connection struct {
	net.Conn
	of     *connections
	unread *time.Timer // runs while something is written
	spoke  sync.Once

	// Guarded by of.mu.
	left  bool
	place *list.Element // among the silent; nil once it is none of them
}

// Read tells those who speak from the silent.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.spoke.Do(func() {
			c.of.mu.Lock()
			defer c.of.mu.Unlock()
			c.rise()
		})
	}
	return n, err
}

// Write closes the connection if its peer does not read.
func (c *connection) Write(b []byte) (int, error) {
	c.unread.Reset(stuck)
	defer c.unread.Stop()
	return c.Conn.Write(b)
}

// CloseWrite lets net/http end an answer to a request that it has not read to
// its end, so that the peer sees the answer and not a reset.
func (c *connection) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Close makes room, once.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.leave()
	return err
}

// leave ends its counting. The caller holds of.mu.
func (c *connection) leave() {
	if !c.left {
		c.left = true
		c.of.open--
	}
	c.rise()
}

// rise takes it from among the silent. The caller holds of.mu.
func (c *connection) rise() {
	if c.place != nil {
		c.of.silent.Remove(c.place)
		c.place = nil
	}
}
