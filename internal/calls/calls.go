// Package calls is what later rooms have to know of the call in progress: one small
// value in its context, which the interceptor makes, and which goes with everything
// that is done for the call, also after its caller has left.
package calls

import (
	"context"
	"sync/atomic"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// Authorizer decides whether a call may be about a team, and has the decision in the
// audit.
type Authorizer interface {
	AuthorizeTeam(team string) bool
}

// Call is a call in progress. The zero value is nobody's, and may touch no team by a
// token's id.
type Call struct {
	// RequestID is the call's x-request-id: what its log lines and the upstream's have in
	// common.
	RequestID string
	// Caller is who calls.
	Caller caller.Caller
	// Credential is the caller's own for the upstream; zero if the service's is used.
	Credential secret.Text
	// Authorizer decides about a team that is known only once the call is under way; nil
	// allows none.
	Authorizer Authorizer

	retained atomic.Int64
	release  func() // of the caller's concurrency slot
}

type contextKey struct{}

// NewContext returns a context of a call.
func NewContext(ctx context.Context, c *Call) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// From is the call of ctx. It is never nil.
func From(ctx context.Context) *Call {
	if c, ok := ctx.Value(contextKey{}).(*Call); ok {
		return c
	}
	return &Call{}
}

// AuthorizeTeam reports whether the call may be about a team. It is for a token that is
// named by its id: whose it is is known only when it has been read.
func (c *Call) AuthorizeTeam(team string) bool {
	return c.Authorizer != nil && c.Authorizer.AuthorizeTeam(team)
}

// Hold keeps the caller's concurrency slot until the returned function has been called
// as often as this one and Retain together. release gives the slot back.
func (c *Call) Hold(release func()) (done func()) {
	c.release = release
	return c.Retain()
}

// Retain keeps the caller's concurrency slot until done is called: what runs on when
// the caller leaves counts as a call of its own.
func (c *Call) Retain() (done func()) {
	c.retained.Add(1)
	return func() {
		if c.retained.Add(-1) == 0 && c.release != nil {
			c.release()
		}
	}
}
