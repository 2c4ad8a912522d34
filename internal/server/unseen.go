package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"net/http"
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
	notReached  = "a gRPC call did not reach its method: its encoding is unknown, or it ended at once"
	httpRefused = "a gRPC call was refused as HTTP/2: its content type, method or headers are wrong"
	streamReset = "a gRPC call was reset as HTTP/2: its headers are too long or malformed"
	goneAway    = "a gRPC connection was ended: it broke the rules of HTTP/2"
	notHTTP2    = "a gRPC connection was ended: it does not speak HTTP/2"
	notHTTP     = "a REST request was refused or broke off before it was read: its headers are too long or malformed"
	notHTTPTwo  = "a REST connection broke the rules of HTTP/2"
)

func from(address net.Addr) slog.Attr { return slog.String("peer", address.String()) }

type reachedKey struct{}

// reaches returns the context of a call that names a method of the service, and
// tells if the call ends before marked is called for it.
func (u unseen) reaches(ctx context.Context) context.Context {
	reached := new(atomic.Bool)
	context.AfterFunc(ctx, func() {
		if !reached.Load() {
			u.call(ctx, notReached)
		}
	})
	return context.WithValue(ctx, reachedKey{}, reached)
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
				if reached, ok := ctx.Value(reachedKey{}).(*atomic.Bool); ok {
					reached.Store(true)
				}
				return m.Handler(srv, ctx, decode, chain)
			},
		}
	}
	desc.Methods = methods
	return &desc
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

// HPACK, RFC 7541: a whole field of the static table, a literal with a name of it, which
// the table has seven times, and changes of the table's size, with which a block may
// begin and whose numbers may take several bytes.
const (
	status400, literalStatus, literalStatusEnd = 0x8c, 0x48, 0x4e
	sizeChange, sizeChangeMask, sizeMax, more  = 0x20, 0xe0, 0x1f, 0x80
)

// refusal returns the log message for a frame that grpc-go sends, given the first bytes
// of its payload; empty if the frame refuses no call. Decoding headers would cost every
// call and connection, so refusal looks at the first field of each block only. HPACK
// writes `:status: 200` and `:status: 400` as one byte each, and a status that is new on
// the connection as a literal. So of several calls with a wrong content type or HTTP
// method on one connection, only the first is logged.
func refusal(kind http2.FrameType, body []byte) (message string) {
	switch kind {
	case http2.FrameHeaders:
		for len(body) > 0 && body[0]&sizeChangeMask == sizeChange {
			long := body[0]&sizeMax == sizeMax
			for body = body[1:]; long && len(body) > 0; body = body[1:] {
				long = body[0]&more != 0
			}
		}
		if len(body) > 0 && (body[0] == status400 || body[0] >= literalStatus && body[0] <= literalStatusEnd) {
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

// watch logs what a REST server refuses before its handler is called. Over HTTP/1.1 that
// is a connection that sent something and ended without a call of the handler; over
// HTTP/2 net/http counts its errors.
func (u unseen) watch(s *http.Server) {
	var open sync.Map // of net.Conn, whether something came that the handler was not called for
	next, connContext, connState := s.Handler, s.ConnContext, s.ConnState
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, c)
		}
		came := new(atomic.Bool)
		open.Store(c, came)
		return context.WithValue(ctx, readKey{}, came)
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if connState != nil {
			connState(c, state)
		}
		switch state {
		case http.StateActive:
			if came, ok := open.Load(c); ok && !overHTTP2(c) {
				came.(*atomic.Bool).Store(true)
			}
		case http.StateClosed, http.StateHijacked:
			if came, ok := open.LoadAndDelete(c); ok && came.(*atomic.Bool).Load() {
				u(notHTTP, from(c.RemoteAddr()))
			}
		}
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if came, ok := r.Context().Value(readKey{}).(*atomic.Bool); ok {
			came.Store(false)
		}
		next.ServeHTTP(w, r)
	})
	s.HTTP2.CountError = func(kind string) { u(notHTTPTwo, slog.String("error", kind)) }
}

func overHTTP2(c net.Conn) bool {
	secure, ok := c.(*tls.Conn)
	return ok && secure.ConnectionState().NegotiatedProtocol == "h2"
}
