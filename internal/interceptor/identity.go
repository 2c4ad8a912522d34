package interceptor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// credentialsOf is what the call brings that may tell who makes it: over gRPC its
// connection and metadata, and of a call of the gateway's what that took from its
// own request, in a context that nobody else can make.
func credentialsOf(ctx context.Context) caller.Credentials {
	if rest := inprocgrpc.ClientContext(ctx); rest != nil {
		p, _ := caller.CredentialsFrom(rest)
		p.Surface = caller.REST
		if p.Header == nil {
			p.Header = func(string) []string { return nil }
		}
		return p
	}
	p := caller.Credentials{Surface: caller.GRPC, LongHeaders: caller.LongHeaders(ctx), Header: func(name string) []string {
		return metadata.ValueFromIncomingContext(ctx, name)
	}}
	if other, ok := peer.FromContext(ctx); ok {
		if tcp, ok := other.Addr.(*net.TCPAddr); ok {
			at := tcp.AddrPort()
			p.Peer = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		}
		if over, ok := other.AuthInfo.(connection); ok {
			p.TLS, p.Connection = over.TLS(), over
		}
	}
	return p
}

// connection is what the gRPC listener has as a peer's AuthInfo.
type connection interface {
	caller.Connection
	TLS() *tls.ConnectionState // nil in the clear
}

// authenticate makes certain who calls, and keeps the credential that the call brings
// for the upstream, where callers have their own.
func (c *Chain) authenticate(ctx context.Context, k *call, p caller.Credentials) (caller.Caller, error) {
	who := caller.Caller{VerifiedBy: caller.Unauthenticated}
	if c.options.CallerCredentials {
		credential, ok := bearer(p)
		if !ok {
			return caller.Caller{}, errNoCredential
		}
		k.Credential = credential
		who = caller.Caller{ID: "credential#" + secret.Fingerprint(credential), VerifiedBy: caller.Credential}
	}
	if c.options.Authenticate != nil {
		verified, err := c.options.Authenticate(ctx, p)
		if err != nil {
			return caller.Caller{}, err
		}
		if verified.ID != "" {
			who = verified
		}
	}
	return who, nil
}

var errNoCredential = errors.New("no well-formed credential for the upstream was brought")

// maxCredential is far over any bearer token of the upstream.
const maxCredential = 4096

// bearer is the one well-formed credential of the call, if there is one.
func bearer(p caller.Credentials) (secret.Text, bool) {
	sent := p.Header("authorization")
	if len(sent) != 1 || len(sent[0]) > maxCredential {
		return secret.Text{}, false
	}
	token, ok := caller.Bearer(sent[0])
	return secret.New(token), ok && secret.IsWord(token)
}
