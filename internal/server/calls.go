package server

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// handshaker makes the handshakes of gRPC connections, in the clear or by TLS, and
// puts what is looked at of them between grpc-go and the network.
type handshaker struct {
	credentials.TransportCredentials

	unseen unseen
}

func (h handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	c, ok := raw.(*connection)
	if err != nil || !ok {
		return conn, info, err
	}
	a := authInfo{info, c}
	return newFramed(conn, c, h.unseen), a, nil
}

func (h handshaker) Clone() credentials.TransportCredentials {
	return handshaker{h.TransportCredentials.Clone(), h.unseen}
}

// authInfo has a call find its connection, a caller.Connection.
type authInfo struct {
	credentials.AuthInfo
	*connection
}

// TLS is nil in the clear.
func (a authInfo) TLS() *tls.ConnectionState {
	if info, ok := a.AuthInfo.(credentials.TLSInfo); ok {
		return &info.State
	}
	return nil
}

// connectionOf is the connection of a gRPC call or of a REST request; nil if it is
// none of this package.
func connectionOf(ctx context.Context) *connection {
	if c, ok := caller.ConnectionFrom(ctx).(*connection); ok {
		return c
	}
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.AuthInfo.(authInfo); ok {
			return a.connection
		}
	}
	return nil
}

// Tracked has the listeners know of calls under way, whose connections are not
// closed to make room, and of connections that carried an identified call, which
// are closed last. requestOf returns the context of the REST request that a call is
// made for; nil if it came over gRPC.
func Tracked(next grpc.UnaryServerInterceptor, requestOf func(context.Context) context.Context) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		from := ctx
		if rest := requestOf(ctx); rest != nil {
			from = rest
		}
		conn := connectionOf(from)
		if conn == nil || strings.HasPrefix(info.FullMethod, "/grpc.") {
			return next(ctx, req, info, handler)
		}
		if !conn.begin() { // the connection was closed before: next refuses the call, whose caller has left
			ended, end := context.WithCancel(ctx)
			end()
			return next(ended, req, info, handler)
		}
		identified := false
		defer func() { conn.end(identified) }()
		resp, err := next(ctx, req, info, handler)
		identified = tellsWho(status.Code(err))
		return resp, err
	}
}

// tellsWho reports whether code shows that the caller was identified. Calls that are
// refused before authentication may end with any other code.
func tellsWho(code codes.Code) bool {
	switch code {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Aborted, codes.FailedPrecondition:
		return true
	default:
		return false
	}
}

const (
	// maxWatches is how many streams of health and reflection may be open at a time,
	// over all connections. The oldest makes room for a new one, a stranger's first.
	maxWatches = 1024
	// maxWatchesOfOne is how many of them one connection may have: a sidecar's has
	// those of all its clients.
	maxWatchesOfOne = 100
	// maxWatchesOfStranger is how many one has that has not carried an identified call.
	maxWatchesOfStranger = 10
	// reflecting is how long a reflection stream may last: a tool asks, and goes.
	reflecting = time.Minute
)

var (
	errTooManyWatches = status.Error(codes.ResourceExhausted, "too many health watches and reflection streams are open: close some, or call again later")
	errStopping       = status.Error(codes.Unavailable, "this replica is stopping")
	errWatchedLong    = status.Error(codes.Unavailable, "the stream reached its maximum duration: call again")
	errReflectedLong  = status.Error(codes.DeadlineExceeded, "the stream reached its maximum duration: call again")
)

// admit is asked about every gRPC call once its headers are read. It ends a call
// whose message does not come: the interceptors, and their deadline, are asked only
// when it is there. It bounds the streams of health and reflection, and marks a call
// whose headers are too long, which the interceptors refuse.
func (s *Server) admit(ctx context.Context, call *tap.Info) (context.Context, error) {
	o := &s.options
	long := headerBytes(call) > o.Limits.HeaderBytes
	if !s.methods[call.FullMethodName] {
		unseen(o.Unseen).call(ctx, noMethod)
		if long {
			return nil, errLongHeaders
		}
		return ctx, nil // grpc-go answers it
	}
	conn := connectionOf(ctx)
	if n := fieldsOf(call.Header); n > manyFields && conn != nil {
		conn.fields(n)
		context.AfterFunc(ctx, func() { conn.fields(-n) })
	}
	if !strings.HasPrefix(call.FullMethodName, "/"+o.Service.ServiceName+"/") { // health and reflection
		if long { // which the interceptors would let pass
			return nil, errLongHeaders
		}
		of := ctx
		ctx = reaches(ctx, func() { unseen(o.Unseen).call(of, notReached) })
	} else {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, o.RefusedCall(ctx, call.FullMethodName, ctx.Err())
		}
		ctx = s.reachesService(ctx, call.FullMethodName)
	}
	switch {
	case strings.HasPrefix(call.FullMethodName, "/grpc.health.v1.Health/Watch"):
		return s.watches.begin(ctx, conn, o.Limits.ConnectionAge, errWatchedLong)
	case strings.HasPrefix(call.FullMethodName, "/grpc.reflection."):
		return s.watches.begin(ctx, conn, reflecting, errReflectedLong)
	}
	if long {
		ctx = caller.WithLongHeaders(ctx)
	}
	timed, cancel := context.WithTimeout(ctx, o.MaxCallDuration+o.Limits.ReadTimeout) //nolint:gosec // ctx ends with the stream, and this with it
	_ = cancel
	return timed, nil
}

// reachesService has the call be audited if it does not reach its method: grpc-go answers
// it, or its deadline ends.
func (s *Server) reachesService(of context.Context, method string) context.Context {
	late := func() bool { return errors.Is(of.Err(), context.DeadlineExceeded) }
	ctx := reaches(of, func() {
		err := errUnknownEncoding
		if late() {
			err = of.Err()
		}
		_ = s.options.RefusedCall(of, method, err)
	})
	context.AfterFunc(ctx, func() {
		if call, ok := ctx.Value(reachedKey{}).(*stream); ok && late() {
			call.refuse()
		}
	})
	return ctx
}

// errUnknownEncoding is what grpc-go answers to a call whose message is compressed in a way
// that it does not know.
var errUnknownEncoding = status.Error(codes.Unimplemented, "the encoding of the message is unknown")

var errLongHeaders = status.Error(codes.ResourceExhausted, "The headers of the call are too long. Nothing was changed. Call again with less metadata.")

// manyFields is as many headers as streamCost has room for.
const manyFields = 64

func fieldsOf(headers map[string][]string) (n int) {
	for _, values := range headers {
		n += len(values)
	}
	return n
}

// headerBytes is the size of a call's header list, without the headers that grpc-go
// does not pass on.
func headerBytes(call *tap.Info) int {
	return len(":path") + len(call.FullMethodName) + caller.HeaderCost + caller.HeaderListSize(call.Header)
}

// tracked counts the REST requests of a connection that are under way. After the answer
// it ends a connection that is old or whose certificate is no longer valid: net/http
// does so on `Connection: close`, over HTTP/1.1 and HTTP/2.
func (s *Server) tracked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := connectionOf(r.Context())
		if conn == nil {
			next.ServeHTTP(w, r)
			return
		}
		n := fieldsOf(r.Header)
		conn.request(1, n)
		defer conn.request(-1, n)
		if time.Since(conn.since) > conn.age || conn.Verified() != nil {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
		if n > manyFields {
			r.Header = nil // net/http keeps r while it waits for the rest of its body
		}
		if r.ProtoMajor > 1 && w.Header().Get("Content-Type") != "" { // there is a body
			// Or it would be written after the request is counted as ended, and wait there for
			// a peer that does not read.
			_ = http.NewResponseController(w).Flush()
		}
	})
}

// stateOf tells a REST connection's handshake and its requests from the time between.
func stateOf(c net.Conn, state http.ConnState) {
	conn := netConn(c)
	if conn == nil {
		return
	}
	switch state {
	case http.StateActive:
		if overHTTP2(c) {
			conn.multiplexed()
		}
		conn.shaken()
	case http.StateIdle:
		conn.shaken()
		conn.quiet()
		conn.wrote.Store(false)
	}
}

// jittered spreads the age of connections that were made at one time, as grpc-go
// does.
func jittered(age time.Duration) time.Duration {
	return time.Duration(float64(age) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // nobody gains by guessing it
}
