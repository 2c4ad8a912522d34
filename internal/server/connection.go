package server

import (
	"container/list"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// connection counts until it is closed, however often that is.
type connection struct {
	net.Conn
	of     *connections
	since  time.Time
	age    time.Duration // after which a REST client is to connect anew
	unread *time.Timer   // runs while something is written
	known  atomic.Bool   // one of its calls was identified
	wrote  atomic.Bool   // an answer was written since there was no request; over HTTP/1.1
	proof  atomic.Pointer[proof]

	// Guarded by of.mu.
	left     bool
	busy     int                // calls under way
	streams  map[uint32]*stream // of HTTP/2 that are open, with those of the calls; over gRPC
	newest   *stream            // the last to begin, until begun has returned it
	requests int                // over REST
	read     int                // bytes, since there was neither a stream nor a request; of a stranger alone
	blocks   int                // what header lists may take beyond their bytes, likewise; not held while busy
	speaks   bool               // TLS, if any, is behind it
	http2    bool               // over REST
	held     int
	ended    time.Time     // when its last call did
	in       *list.List    // among whom it stands
	place    *list.Element // nil once it stands nowhere
}

// before reports whether c is closed before other when connections hold too much: a
// stranger before one that is known, and one that holds much before one that holds
// little. Of those that hold as much as an honest call may, the older.
func (c *connection) before(other *connection) bool {
	if known := c.known.Load(); known != other.known.Load() {
		return !known
	}
	if a, b := c.held/ordinary, other.held/ordinary; a != b {
		return a > b
	}
	return c.since.Before(other.since)
}

// Read counts what strangers have sent.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.known.Load() {
		c.of.mu.Lock()
		c.read += n
		if c.in == &c.of.silent && c.read >= enough {
			c.move(&c.of.shaking)
		}
		takes := n
		if c.speaks && c.of.rest && (c.requests == 0 || c.http2) {
			takes += c.block(n)
		}
		out := c.of.hold(c, takes)
		c.of.mu.Unlock()
		c.of.evict(out)
	}
	return n, err
}

// block counts n bytes of header lists. Over REST these are all that are read, but for
// bodies over HTTP/1.1. It returns what is to be held for that. The caller holds of.mu.
func (c *connection) block(n int) int {
	n = min(n*(headerCost-1), maxBlock-c.blocks)
	c.blocks += n
	if c.busy > 0 {
		return 0
	}
	return n
}

// unblock forgets them. The caller holds of.mu.
func (c *connection) unblock() {
	if c.busy == 0 {
		c.of.hold(c, -c.blocks)
	}
	c.blocks = 0
}

// headersBegin counts n bytes of a header list that is about to be read, over gRPC.
func (c *connection) headersBegin(n int) {
	if c.known.Load() {
		return
	}
	c.of.mu.Lock()
	out := c.of.hold(c, c.block(n))
	c.of.mu.Unlock()
	c.of.evict(out)
}

// headersEnd forgets what it took while it was read.
func (c *connection) headersEnd() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.unblock()
}

// fields counts n more headers of calls, over gRPC, or fewer.
func (c *connection) fields(n int) {
	c.of.mu.Lock()
	out := c.of.hold(c, n*fieldMemory)
	c.of.mu.Unlock()
	c.of.evict(out)
}

// shaken ends its handshake.
func (c *connection) shaken() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if !c.left && (c.in == &c.of.silent || c.in == &c.of.shaking) {
		c.move(&c.of.strangers)
	}
}

// streamBegins counts a stream of a gRPC connection.
func (c *connection) streamBegins(id uint32) {
	c.of.mu.Lock()
	if c.streams == nil {
		c.streams = map[uint32]*stream{}
	}
	c.newest = new(stream)
	c.streams[id] = c.newest
	out := c.of.hold(c, streamCost)
	c.of.mu.Unlock()
	c.of.evict(out)
}

// streamEnds ends its counting, once, and returns the stream; nil if it had ended.
func (c *connection) streamEnds(id uint32) *stream {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	s, ok := c.streams[id]
	if !ok {
		return nil
	}
	delete(c.streams, id)
	c.of.hold(c, -streamCost)
	if len(c.streams) == 0 {
		c.settle()
	}
	return s
}

// streamAnswers notes that an answer has begun.
func (c *connection) streamAnswers(id uint32) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if s := c.streams[id]; s != nil {
		s.headed = true
	}
}

// begun is the stream of the call whose headers grpc-go has just read, and asks about,
// once.
func (c *connection) begun() *stream {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	s := c.newest
	c.newest = nil
	return s
}

// request counts n more or fewer requests of a REST connection, with so many headers.
func (c *connection) request(n, fields int) {
	c.of.mu.Lock()
	c.requests += n
	if n > 0 && !c.http2 { // over which those of the next request may be read already
		c.unblock()
	}
	out := c.of.hold(c, n*(streamCost+fields*fieldMemory))
	c.of.mu.Unlock()
	c.of.evict(out)
}

// secured says that all that comes now is behind TLS.
func (c *connection) secured() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.speaks = true
}

// multiplexed says that requests come over HTTP/2.
func (c *connection) multiplexed() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.http2 = true
}

// quiet says that there is no request, and none has begun.
func (c *connection) quiet() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.requests == 0 {
		c.settle()
	}
}

// settle forgets what was read. The caller holds of.mu.
func (c *connection) settle() {
	c.of.hold(c, -c.read)
	c.read = 0
	c.unblock()
}

// begin counts a call under way. It is false if the connection was closed.
func (c *connection) begin() bool {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.left {
		return false
	}
	if c.busy++; c.busy == 1 {
		c.of.hold(c, -c.blocks)
	}
	c.of.hold(c, -streamCost) // its memory is bounded as the calls of its caller are
	if c.known.Load() && c.in != nil {
		c.move(nil)
	}
	return true
}

// end ends a call under way. identified says that the call told who makes it.
func (c *connection) end(identified bool) {
	c.of.mu.Lock()
	if identified && !c.left && !c.known.Load() {
		c.settle()
		c.known.Store(true)
	}
	c.busy--
	c.ended = time.Now()
	back := streamCost
	if c.busy == 0 {
		back += c.blocks
	}
	out := c.of.hold(c, back)
	if !c.left && c.known.Load() && c.busy == 0 {
		c.move(&c.of.knowns)
	}
	c.of.mu.Unlock()
	c.of.evict(out)
}

// anAnswer is the length of a write that is at least an answer of HTTP/1.1: TLS's own
// messages between answers are shorter.
const anAnswer = 64

// Write closes the connection if its peer does not read.
func (c *connection) Write(b []byte) (int, error) {
	if len(b) >= anAnswer && c.of.rest {
		c.wrote.Store(true)
	}
	c.unread.Reset(writeTimeout)
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
	if c.left {
		return
	}
	c.of.hold(c, -c.held)
	c.left = true
	c.of.size--
	delete(c.of.open, c)
	c.move(nil)
}

// move takes it to the end of a list, or out of all. The caller holds of.mu.
func (c *connection) move(to *list.List) {
	if c.place != nil {
		c.in.Remove(c.place)
		c.in, c.place = nil, nil
	}
	if to != nil {
		c.in, c.place = to, to.PushBack(c)
	}
}
