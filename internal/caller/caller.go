// Package caller is who makes a call: what a connection presents of it, and what
// was made certain. It verifies nothing itself, see package authn.
package caller

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
)

// AuthMethod says how a caller was made certain, as the audit has it.
type AuthMethod string

// The sources, and what an ID of each is.
const (
	// Certificate is a client certificate of the connection: a SPIFFE id, or a DNS name.
	Certificate AuthMethod = "mtls"
	// JWT is a bearer token that an issuer signed: `ISSUER#SUBJECT`. An issuer has no `#`.
	JWT AuthMethod = "jwt"
	// Mesh is a header of the service mesh's proxy: a SPIFFE id, or a DNS name.
	Mesh AuthMethod = "mesh"
	// Credential is a credential of the caller's own, for the upstream, which is who
	// verifies it: `credential#` and a part of its hash.
	Credential AuthMethod = "credential"
	// Unauthenticated was asked: whoever reaches the listeners may call.
	Unauthenticated AuthMethod = "none"
)

// Caller is who makes a call. The zero value is nobody in particular.
type Caller struct {
	ID         string
	VerifiedBy AuthMethod
	// Claims are all those of a JWT, verified; nil of other sources.
	Claims Claims
}

// ErrUnavailable says that it can't be known now who calls: what is presented may be
// good, and is to be presented again later.
var ErrUnavailable = errors.New("the issuer's keys are not known yet")

// Surface is where a call came in.
type Surface string

// The surfaces.
const (
	GRPC Surface = "grpc"
	REST Surface = "rest"
)

// Credentials is what a call brings that may tell who makes it. None of it is
// believed for being there.
type Credentials struct {
	Surface Surface
	// Peer is the other end of the connection; invalid if that has no IP address.
	Peer netip.AddrPort
	// TLS is of the connection; nil in the clear.
	TLS *tls.ConnectionState
	// Connection tells whether TLS is still to be believed; nil if nothing does.
	Connection Connection
	// Header returns every value of a header, by its name in lower case.
	Header func(name string) []string
	// Refused is the error that the surface refuses the call with; nil if it does not.
	// The call goes through authentication all the same, so that the audit names
	// its caller, and ends with this error.
	Refused error
	// LongHeaders says that the header list is longer than it may be. The call is
	// refused for that whoever makes it.
	LongHeaders bool
}

// Bearer is what follows the scheme in a value of the header Authorization; ok is false
// if the scheme is another, or nothing follows.
func Bearer(authorization string) (credential string, ok bool) {
	scheme, credential, _ := strings.Cut(authorization, " ")
	return credential, strings.EqualFold(scheme, "bearer") && credential != ""
}

type presentedKey struct{}

// WithCredentials returns a context of a request that brings p. The REST surface
// makes it, since what calls the service there is the gateway.
func WithCredentials(ctx context.Context, p Credentials) context.Context {
	return context.WithValue(ctx, presentedKey{}, p)
}

// CredentialsFrom is what the request of ctx brings; ok is false if WithPresented
// did not make ctx.
func CredentialsFrom(ctx context.Context) (p Credentials, ok bool) {
	p, ok = ctx.Value(presentedKey{}).(Credentials)
	return p, ok
}
