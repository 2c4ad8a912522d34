// Package authn makes certain who calls: of what a call presents it believes what
// was verified, by the first of its sources that is presented, and nothing else.
//
// The order is fixed: a JWT, then the mesh's header, then the client's certificate.
// What is presented to the source that decides and is bad refuses the call. It
// never falls through to the next: who presents two identities and has one of them
// refused is not to get in by the other.
package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// Options say which sources are believed.
type Options struct {
	// Certificates are those of clients, which the TLS handshake has verified.
	Certificates bool
	// SPIFFE says that the handshake verified them by go-spiffe, which checks the raw
	// certificates and leaves no chains, and that they must have a SPIFFE id.
	SPIFFE bool
	// Mesh is nil if no mesh's header is believed.
	Mesh *Mesh
	// JWT is nil if no bearer token is.
	JWT *JWTVerifier
}

// Authenticator makes certain who calls. It is safe for concurrent use.
type Authenticator struct{ options Options }

// New returns an Authenticator.
func New(o Options) *Authenticator { return &Authenticator{o} }

// ErrNoCredentials says that a call presents nothing to any source.
var ErrNoCredentials = errors.New("authn: the call does not say who makes it")

// Authenticate is who makes a call that presents p. Its errors are for the log: they hold
// nothing that was presented.
func (a *Authenticator) Authenticate(ctx context.Context, p caller.Credentials) (caller.Caller, error) {
	if p.Connection != nil {
		// Whatever else is presented: a handshake with this certificate would be refused.
		if err := p.Connection.Verified(); err != nil {
			return caller.Caller{}, fmt.Errorf("authn: %s: %w", caller.Certificate, err)
		}
	}
	if a.options.JWT != nil {
		if sent := p.Header("authorization"); len(sent) > 0 {
			return identified(caller.JWT, func() (caller.Caller, error) { return a.options.JWT.caller(ctx, sent) })
		}
	}
	if a.options.Mesh.trusts(p) {
		sent := p.Header(a.options.Mesh.Header.name())
		if len(sent) == 0 {
			return caller.Caller{}, ErrNoCredentials // the connection's certificate is the proxy's
		}
		return identified(caller.Mesh, func() (caller.Caller, error) { return a.options.Mesh.caller(sent) })
	}
	if a.options.Certificates && p.TLS != nil && len(p.TLS.PeerCertificates) > 0 {
		return identified(caller.Certificate, func() (caller.Caller, error) { return fromCertificate(p.TLS, a.options.SPIFFE) })
	}
	return caller.Caller{}, ErrNoCredentials
}

// identified is who verify finds, or an error that says which source refused.
func identified(source caller.AuthMethod, verify func() (caller.Caller, error)) (caller.Caller, error) {
	c, err := verify()
	if err != nil {
		return caller.Caller{}, fmt.Errorf("authn: %s: %w", source, err)
	}
	c.VerifiedBy = source
	return c, nil
}

// trusts reports whether the call comes trusts the mesh's proxy.
func (m *Mesh) trusts(p caller.Credentials) bool {
	if m == nil || !p.Peer.IsValid() || !slices.Contains(m.Surfaces, p.Surface) {
		return false
	}
	address := p.Peer.Addr().Unmap().WithZone("")
	for _, network := range m.Peers {
		if network.Contains(address) {
			return true
		}
	}
	return false
}
