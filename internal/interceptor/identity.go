package interceptor

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// presented is what the call brings that may tell who makes it: over gRPC its
// connection and metadata, and of a call of the gateway's what that took from its
// own request, in a context that nobody else can make.
func presented(ctx context.Context) caller.Presented {
	if rest := inprocgrpc.ClientContext(ctx); rest != nil {
		p, _ := caller.PresentedFrom(rest)
		p.Surface = caller.REST
		if p.Header == nil {
			p.Header = func(string) []string { return nil }
		}
		return p
	}
	p := caller.Presented{Surface: caller.GRPC, LongHeaders: caller.LongHeaders(ctx), Header: func(name string) []string {
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

// identified is ctx with who calls, made certain, and with the credential that
// the call brings for the upstream, where callers have their own.
func (c *Chain) identified(ctx context.Context, p caller.Presented) (context.Context, caller.Caller, error) {
	who := caller.Caller{VerifiedBy: caller.Nobody}
	if c.options.CallerCredentials {
		credential, ok := bearer(p)
		if !ok {
			return ctx, caller.Caller{}, errNoCredential
		}
		ctx = upstream.WithCredential(ctx, credential)
		who = caller.Caller{ID: "credential#" + upstream.Fingerprint(credential), VerifiedBy: caller.Credential}
	}
	if c.options.Identify != nil {
		verified, err := c.options.Identify(ctx, p)
		if err != nil {
			return ctx, caller.Caller{}, err
		}
		if verified.ID != "" {
			who = verified
		}
	}
	return caller.NewContext(ctx, who), who, nil
}

// maxCredential is far over any bearer token of the upstream.
const maxCredential = 4096

// bearer is the one well-formed credential of the call, if there is one.
func bearer(p caller.Presented) (secret.Text, bool) {
	sent := p.Header("authorization")
	if len(sent) != 1 || len(sent[0]) > maxCredential {
		return secret.Text{}, false
	}
	token, ok := caller.Bearer(sent[0])
	return secret.New(token), ok && secret.IsWord(token)
}
