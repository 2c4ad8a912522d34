package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// unseen logs what grpc-go and net/http refuse before any handler or interceptor is
// called.
type unseen func(message string, attrs ...slog.Attr)

// What is told, each of a peer.
const (
	noMethod    = "a gRPC call names no method of this server"
	notReached  = "a gRPC call did not reach its method: its encoding is unknown"
	httpRefused = "a gRPC call was refused as HTTP/2: its content type, method or headers are wrong"
	streamReset = "a gRPC call was reset as HTTP/2: its headers are too long or malformed"
	goneAway    = "a gRPC connection was ended: it broke the rules of HTTP/2"
	notHTTP2    = "a gRPC connection was ended: it does not speak HTTP/2"
	notHTTP     = "a REST request was refused or broke off before it was read: its headers are too long or malformed"
	notHTTPTwo  = "a REST connection broke the rules of HTTP/2"
)

func from(address net.Addr) slog.Attr { return slog.String("peer", address.String()) }

// stream is a stream of HTTP/2 over gRPC. What grpc-go answers on it without calling a
// method, because of an unknown encoding, grpc-go tells nobody.
type stream struct {
	reached atomic.Bool            // its method was called
	refused atomic.Pointer[func()] // is called when grpc-go has answered before that
	told    atomic.Bool            // refused was called, which is done once
	headed  bool                   // headers were sent on it; guarded by pool.mu while it is open
}

// refuse tells of a call that did not reach its method.
func (s *stream) refuse() {
	if refused := s.refused.Load(); refused != nil && !s.reached.Load() && s.told.CompareAndSwap(false, true) {
		(*refused)()
	}
}

type reachedKey struct{}

// reaches returns the context of a call that names a method of this server. It has
// refused called if grpc-go answers the call before marked is called for it. A call that
// its client ends before is not refused.
func reaches(ctx context.Context, refused func()) context.Context {
	var s *stream
	if conn := connectionOf(ctx); conn != nil {
		s = conn.begun()
	}
	if s == nil {
		s = new(stream)
	}
	s.refused.Store(&refused)
	return context.WithValue(ctx, reachedKey{}, s)
}

func hasReached(ctx context.Context) {
	if s, ok := ctx.Value(reachedKey{}).(*stream); ok {
		s.reached.Store(true)
	}
}

// call tells of a call by its context.
func (u unseen) call(ctx context.Context, message string) {
	if p, ok := peer.FromContext(ctx); ok {
		u(message, from(p.Addr))
	}
}

// marked returns a copy of desc whose handlers first note that the call has reached its
// method.
func marked(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
				hasReached(ctx)
				return m.Handler(srv, ctx, decode, chain)
			},
		}
	}
	streams := slices.Clone(desc.Streams)
	for i, s := range desc.Streams {
		streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
			hasReached(stream.Context())
			return s.Handler(srv, stream)
		}
	}
	desc.Methods, desc.Streams = methods, streams
	return &desc
}

// registrar marks what is registered.
type registrar struct{ *grpc.Server }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	r.Server.RegisterService(marked(*desc), implementation)
}

// methodsOf are the full names of a server's methods.
func methodsOf(s *grpc.Server) map[string]bool {
	names := map[string]bool{}
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			names["/"+service+"/"+m.Name] = true
		}
	}
	return names
}

// HPACK, RFC 7541: a whole field of the static table, and changes of the dynamic table's
// size, with which a block may begin and whose numbers may take several bytes.
const (
	status200                                 = 0x88
	sizeChange, sizeChangeMask, sizeMax, more = 0x20, 0xe0, 0x1f, 0x80
)

// refusal returns the log message for a frame that grpc-go sends, given the first bytes
// of its payload; empty if the frame refuses no call. Decoding headers would cost every
// call and connection, so refusal looks at the first field of a stream's first block
// only: that is the status, and HPACK writes `:status: 200` as one byte. Any other
// byte is the status of a refusal.
func refusal(kind http2.FrameType, body []byte, first bool) (message string) {
	switch kind {
	case http2.FrameHeaders:
		if !first { // trailers
			return ""
		}
		for len(body) > 0 && body[0]&sizeChangeMask == sizeChange {
			long := body[0]&sizeMax == sizeMax
			for body = body[1:]; long && len(body) > 0; body = body[1:] {
				long = body[0]&more != 0
			}
		}
		if len(body) > 0 && body[0] != status200 {
			message = httpRefused
		}
	case http2.FrameRSTStream:
		if code := http2.ErrCode(number(body)); code != http2.ErrCodeNo && code != http2.ErrCodeCancel {
			message = streamReset
		}
	case http2.FrameGoAway:
		if len(body) == maxLook && http2.ErrCode(number(body[4:])) != http2.ErrCodeNo {
			message = goneAway
		}
	}
	return message
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

type readKey struct{}

// reading is what is known of a connection over HTTP/1.1.
type reading struct {
	came atomic.Bool // something came, and the handler was not called for it
	idle atomic.Bool // the handler was not called since the last answer
}

// unanswered reports whether a connection that has ended sent a request that the handler
// was not called for. net/http tells nobody of a request that was read together with the
// one before, so unanswered looks for the answer of net/http itself.
func (r *reading) unanswered(c net.Conn) bool {
	if r.came.Load() {
		return true
	}
	conn := netConn(c)
	return conn != nil && r.idle.Load() && conn.wrote.Load()
}

// watch logs what a REST server refuses before its handler is called. Over HTTP/1.1 that
// is a connection that sent something and ended without a call of the handler; over
// HTTP/2 net/http counts its errors.
func (u unseen) watch(s *http.Server) {
	var open sync.Map // of net.Conn to *reading
	next, connContext, connState := s.Handler, s.ConnContext, s.ConnState
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, c)
		}
		state := new(reading)
		open.Store(c, state)
		return context.WithValue(ctx, readKey{}, state)
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if connState != nil {
			connState(c, state)
		}
		switch state {
		case http.StateActive:
			if r, ok := open.Load(c); ok && !overHTTP2(c) {
				r.(*reading).came.Store(true)
			}
		case http.StateIdle:
			if r, ok := open.Load(c); ok && !overHTTP2(c) {
				r.(*reading).idle.Store(true)
			}
		case http.StateClosed, http.StateHijacked:
			if r, ok := open.LoadAndDelete(c); ok && r.(*reading).unanswered(c) {
				u(notHTTP, from(c.RemoteAddr()))
			}
		}
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if state, ok := r.Context().Value(readKey{}).(*reading); ok {
			state.came.Store(false)
			state.idle.Store(false)
		}
		next.ServeHTTP(w, r)
	})
	s.HTTP2.CountError = func(kind string) { u(notHTTPTwo, slog.String("error", kind)) }
}

func overHTTP2(c net.Conn) bool {
	secure, ok := c.(*tls.Conn)
	return ok && secure.ConnectionState().NegotiatedProtocol == "h2"
}
