package caller

import "context"

// Connection is what a call came over.
type Connection interface {
	// Verified returns nil if the client's certificate is still valid. Its CA may have
	// been removed since the handshake, or it may have expired.
	Verified() error
}

type connectionKey struct{}

// WithConnection returns a context of requests that come over c.
func WithConnection(ctx context.Context, c Connection) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// ConnectionFrom is what the request of ctx came over; nil if WithConnection did
// not make ctx.
func ConnectionFrom(ctx context.Context) Connection {
	c, _ := ctx.Value(connectionKey{}).(Connection)
	return c
}

// HeaderCost is what HTTP/2 counts for each header besides its name and value.
const HeaderCost = 32

// HeaderListSize is the size of headers, as HTTP/2 counts it.
func HeaderListSize(headers map[string][]string) int {
	n := 0
	for name, values := range headers {
		for _, v := range values {
			n += len(name) + len(v) + HeaderCost
		}
	}
	return n
}

type longHeadersKey struct{}

// WithLongHeaders marks a call whose headers are longer than they may be.
func WithLongHeaders(ctx context.Context) context.Context {
	return context.WithValue(ctx, longHeadersKey{}, true)
}

// LongHeaders reports whether the call of ctx was marked.
func LongHeaders(ctx context.Context) bool { return ctx.Value(longHeadersKey{}) != nil }
