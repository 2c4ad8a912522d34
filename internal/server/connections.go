package server

import (
	"cmp"
	"container/list"
	"net"
	"sync"
	"time"
)

const (
	// writeTimeout is how long one write may wait for its peer to read.
	writeTimeout = 20 * time.Second
	// newcomers is the part of the connections that is kept for those that have not
	// carried an identified call: one in two, and half of that is for handshakes.
	newcomers = 2
	// shaking is how long no handshake is closed to make room.
	shaking = 50 * time.Millisecond
	// enough is how many bytes every handshake begins with: of TLS, of HTTP/2 and of
	// any request.
	enough = 24
	// streamCost is about what an open stream takes in memory: its goroutine, its
	// state here and in grpc-go or net/http.
	streamCost = 16 << 10
	// maxHeld is what streams without a call under way, and bytes of connections that
	// nobody knows, may take in memory, of both listeners together.
	maxHeld = 16 << 20
	// headerCost is what a byte of a header list takes at most: HTTP/2's static table has
	// whole headers in one byte, and over HTTP/1.1 each name has its place in a map.
	headerCost = 64
	// maxBlock is about what a header list takes at most, at the length that ends its
	// connection: less than maxHeld, so that one long list by itself is read to its end
	// and refused in words.
	maxBlock = 12 << 20
	// fieldMemory is what a header counts for once its list is read: about 150 bytes are
	// what it takes over HTTP/1.1, and three times as much is left for garbage: under a flood
	// the collector gets little of a small machine.
	fieldMemory = 600
	// ordinary is more than a connection holds on which one honest call begins.
	ordinary = 128 << 10
)

// A pool is the connections of several listeners, which share memory.
//
// It lets at most a number of connections of each listener be open, so that a
// flood of them takes a known amount of memory and files. To make room for a new
// one, it closes another one that has no call under way. A call under way is a
// call of the service that the interceptors have: neither a health watch nor
// reflection nor a stream whose message has not come is one. Who goes first:
//
//   - handshakes (TLS, and the preface of HTTP/2 or the headers of the first
//     request), which have a share of their own; those with next to nothing said
//     first, and then the oldest;
//   - strangers: no call on the connection has been identified, the oldest first,
//     whatever they have sent since;
//   - known ones, the longest idle first, while handshakes and strangers together
//     have less than their share.
//
// Only where all have a call under way is the new one closed, at once. It waits
// unanswered in the kernel's queue for no longer than the moments that a handshake is
// given: its peer could not tell a full server from a slow network there, and would not
// try the next replica.
//
// There is no share of an address: behind a mesh's sidecar, a load balancer or
// a NAT all peers have the same, and a share of it would be a lower limit for
// everybody.
//
// The pool also bounds what peers can have the program hold that have said
// nothing to identify themselves: when their bytes and streams exceed maxHeld the
// connection that holds most of it is closed.
type pool struct {
	refused func() // nil, or called for each connection that is closed to make room

	mu   sync.Mutex
	held int
	open map[*connection]struct{}
}

func newPool(refused func()) *pool {
	return &pool{refused: refused, open: map[*connection]struct{}{}}
}

// bounded lets at most limit connections of l be open at a time.
//
// grpc-go sets TCP_USER_TIMEOUT on a *net.TCPConn and on nothing else, so a
// connection of this listener brings its own end of a peer that does not read:
// it is closed when one write takes longer than stuck.
func (p *pool) bounded(l net.Listener, limit int, age time.Duration, rest, tls bool) net.Listener {
	c := &connections{Listener: l, pool: p, limit: limit, age: age, rest: rest, tls: tls}
	c.share = max(1, limit/newcomers)
	c.handshakes = max(1, c.share/2)
	return c
}

type connections struct {
	net.Listener
	*pool
	limit, share, handshakes int
	age                      time.Duration
	rest, tls                bool

	// Guarded by pool.mu; the one that goes first stands in front.
	size                               int
	silent, shaking, strangers, knowns list.List // of *connection; known ones without a call alone
}

// Accept waits for a connection for which there is room.
func (c *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		time.Sleep(c.early(time.Now()))
		if conn := c.admit(accepted); conn != nil {
			return conn, nil
		}
	}
}

// early is how long the next one to come is to wait, so that the handshake that makes
// room for it had time enough to be made: a storm of new connections would else close
// everybody's before a byte of it is read.
func (c *connections) early(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent.Len()+c.shaking.Len() < c.handshakes {
		return 0
	}
	next := c.handshake(now)
	if next == nil {
		return 0
	}
	return shaking - now.Sub(next.since)
}

// handshake is the one that makes room for another: who has said nothing yet, and had
// the time to. The caller holds mu.
func (c *connections) handshake(now time.Time) *connection {
	silent, begun := first(&c.silent), first(&c.shaking)
	if silent != nil && now.Sub(silent.since) >= shaking {
		return silent
	}
	return cmp.Or(begun, silent)
}

// admit returns nil if there is no room.
func (c *connections) admit(accepted net.Conn) net.Conn {
	conn := &connection{Conn: accepted, of: c, since: time.Now(), age: jittered(c.age), speaks: !c.tls}
	conn.unread = time.AfterFunc(writeTimeout, func() { _ = conn.Close() })
	conn.unread.Stop()
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

// enter counts conn and returns the connection to close to make room for it, if any.
// If no other can be closed, ok is false and out is conn's own socket.
func (c *connections) enter(conn *connection) (out net.Conn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var victim *connection
	if c.silent.Len()+c.shaking.Len() >= c.handshakes {
		victim = c.handshake(time.Now())
	} else if c.size >= c.limit {
		if victim = c.victim(); victim == nil {
			return conn.Conn, false
		}
	}
	if victim != nil {
		victim.leave()
		out = victim.Conn
	}
	c.size++
	c.open[conn] = struct{}{}
	conn.move(&c.silent)
	return out, true
}

// victim is who makes room, or nil if all have a call under way. The caller
// holds mu.
func (c *connections) victim() *connection {
	order := []*list.List{&c.knowns, &c.strangers, &c.silent, &c.shaking}
	if c.silent.Len()+c.shaking.Len()+c.strangers.Len() >= c.share {
		order = []*list.List{&c.strangers, &c.silent, &c.shaking, &c.knowns}
	}
	for _, l := range order {
		if v := first(l); v != nil {
			return v
		}
	}
	return nil
}

// first is the first without a call under way. The caller holds mu.
func first(l *list.List) *connection {
	for e := l.Front(); e != nil; e = e.Next() {
		if conn := e.Value.(*connection); conn.busy == 0 {
			return conn
		}
	}
	return nil
}

// hold adds n to the bytes that a connection holds. If all connections then hold too
// much, it returns the connection to close. The caller holds mu.
func (p *pool) hold(c *connection, n int) (out net.Conn) {
	if c.left {
		return nil
	}
	c.held += n
	p.held += n
	if n <= 0 || p.held <= maxHeld {
		return nil
	}
	var most *connection
	for other := range p.open {
		if other.busy == 0 && other.held > 0 && (most == nil || other.before(most)) {
			most = other
		}
	}
	if most == nil {
		return nil
	}
	most.leave()
	return most.Conn
}

func (p *pool) evict(out net.Conn) {
	if out == nil {
		return
	}
	if p.refused != nil {
		p.refused()
	}
	_ = out.Close()
}

// dismiss closes the connections of strangers that have no call under way: when the
// server stops, nobody waits for calls whose message does not come.
func (p *pool) dismiss() {
	p.each(func(c *connection) {
		c.of.mu.Lock()
		idle := c.busy == 0 && !c.known.Load()
		c.of.mu.Unlock()
		if idle {
			_ = c.Close()
		}
	})
}

// each calls f with every open connection.
func (p *pool) each(f func(*connection)) {
	p.mu.Lock()
	all := make([]*connection, 0, len(p.open))
	for conn := range p.open {
		all = append(all, conn)
	}
	p.mu.Unlock()
	for _, conn := range all {
		f(conn)
	}
}
