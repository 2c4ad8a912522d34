package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/server"
)

// identify makes certain who calls, by all the ways that the settings have; it
// is nil where they have none.
func (f follower) identify(cfg *config.Config) (func(context.Context, caller.Presented) (caller.Caller, error), error) {
	o := authn.Options{Certificates: cfg.MutualTLS(), SPIFFE: cfg.SPIFFESocket != ""}
	var err error
	if o.JWT, err = f.jwt(cfg); err != nil {
		return nil, err
	}
	if cfg.Mesh != config.NoMesh {
		o.Mesh = &authn.Mesh{Header: authn.MeshHeader(cfg.Mesh)}
		for _, network := range cfg.MeshPeers {
			o.Mesh.Peers = append(o.Mesh.Peers, netip.MustParsePrefix(network)) // which config has checked
		}
		for _, name := range cfg.MeshListeners {
			o.Mesh.Surfaces = append(o.Mesh.Surfaces, caller.Surface(name))
		}
	}
	if !o.Certificates && o.JWT == nil && o.Mesh == nil {
		return nil, nil
	}
	identify := authn.New(o).Caller
	if cfg.PolicyFile != "" {
		return identify, nil
	}
	// Where no policy asks who calls, who does not say so is nobody in particular.
	return func(ctx context.Context, p caller.Presented) (caller.Caller, error) {
		who, err := identify(ctx, p)
		if errors.Is(err, authn.ErrNone) {
			return caller.Caller{}, nil
		}
		return who, err
	}, nil
}

// issuerTimeout bounds one question to the issuer of JWTs.
const issuerTimeout = 10 * time.Second

// jwt is nil where JWTs are not believed.
func (f follower) jwt(cfg *config.Config) (*authn.JWT, error) {
	if cfg.JWTIssuer == "" {
		return nil, nil
	}
	keys, err := f.keys(cfg)
	if err != nil {
		return nil, err
	}
	return authn.NewJWT(authn.JWTOptions{
		Issuer: cfg.JWTIssuer, Audiences: cfg.JWTAudience, Algorithms: cfg.JWTAlgorithms, Leeway: cfg.JWTLeeway, Keys: keys,
	})
}

// keys are the public keys of the issuer of JWTs, from a file or from itself.
func (f follower) keys(cfg *config.Config) (authn.Keys, error) {
	if cfg.JWTKeysFile != "" {
		value, err := follow(f, "TEAMTOKEN_JWT_KEYS_FILE", []string{cfg.JWTKeysFile}, func(contents [][]byte) (authn.KeySet, error) {
			return authn.ParseKeys(contents[0])
		})
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file): %w", err)
		}
		return authn.FileKeys(value.Get), nil
	}
	transport, err := f.issuerTransport(cfg.JWTIssuerCAFile)
	if err != nil {
		return nil, err
	}
	o := authn.IssuerOptions{
		Issuer:  cfg.JWTIssuer,
		Client:  &http.Client{Transport: transport, Timeout: issuerTimeout},
		Changed: f.changed("TEAMTOKEN_JWT_ISSUER"),
	}
	if cfg.JWTIssuerTokenFile != "" {
		f.private("TEAMTOKEN_JWT_ISSUER_TOKEN_FILE", cfg.JWTIssuerTokenFile)
		token, err := follow(f, "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE", []string{cfg.JWTIssuerTokenFile}, func(contents [][]byte) (secret.Text, error) {
			return config.Bearer(string(contents[0]))
		})
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_JWT_ISSUER_TOKEN_FILE (--jwt-issuer-token-file): %w", err)
		}
		o.Token = token.Get
	}
	keys, err := authn.DiscoverKeys(f.ctx, o)
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_JWT_ISSUER (--jwt-issuer): %w", err)
	}
	return keys, nil
}

// follows is a transport that may be another for each request.
type follows func() http.RoundTripper

func (f follows) RoundTrip(r *http.Request) (*http.Response, error) { return f().RoundTrip(r) }

// issuerTransport is the way to the issuer of JWTs, which is a new one when the
// file of CAs changes.
func (f follower) issuerTransport(caFile string) (http.RoundTripper, error) {
	dial := func(cas *x509.CertPool) *http.Transport {
		return &http.Transport{
			Proxy:           http.ProxyFromEnvironment,
			TLSClientConfig: &tls.Config{RootCAs: cas, MinVersion: tls.VersionTLS12},
			IdleConnTimeout: time.Minute, TLSHandshakeTimeout: issuerTimeout, MaxResponseHeaderBytes: 64 << 10,
		}
	}
	if caFile == "" {
		return dial(nil), nil
	}
	value, err := follow(f, "TEAMTOKEN_JWT_ISSUER_CA_FILE", []string{caFile}, func(contents [][]byte) (*http.Transport, error) {
		pool, err := certificates(contents[0])
		return dial(pool), err
	})
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_JWT_ISSUER_CA_FILE (--jwt-issuer-ca-file): %w", err)
	}
	return follows(func() http.RoundTripper { return value.Get() }), nil
}

// policy is nil where there is none.
func (f follower) policy(path string) (func() *policy.Policy, error) {
	if path == "" {
		return nil, nil
	}
	value, err := follow(f, "TEAMTOKEN_POLICY_FILE", []string{path}, func(contents [][]byte) (*policy.Policy, error) {
		return policy.Parse(contents[0])
	})
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_POLICY_FILE (--policy-file): %w", err)
	}
	return value.Get, nil
}

// spiffeTimeout bounds the wait for the first answer of the Workload API.
const spiffeTimeout = 30 * time.Second

// spiffe is the TLS identity that the SPIFFE Workload API gives, and goes on
// giving anew before it expires.
func (f follower) spiffe(cfg *config.Config) (*tls.Config, error) {
	first, cancel := context.WithTimeout(f.ctx, spiffeTimeout)
	defer cancel()
	source, err := workloadapi.NewX509Source(first,
		workloadapi.WithClientOptions(workloadapi.WithAddr(cfg.SPIFFESocket)))
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket): no identity from the Workload API: %w", err)
	}
	context.AfterFunc(f.ctx, func() { _ = source.Close() })
	f.metrics.Certificate("TEAMTOKEN_SPIFFE_SOCKET", func() time.Time {
		svid, err := source.GetX509SVID()
		if err != nil {
			return time.Time{}
		}
		return svid.Certificates[0].NotAfter
	})
	var changes atomic.Int64
	go func() {
		for {
			select {
			case <-source.Updated():
				changes.Add(1)
			case <-f.ctx.Done():
				return
			}
		}
	}()
	return server.TLS(server.Identity{
		Changed:     func() any { return changes.Load() },
		Certificate: func() (*tls.Certificate, error) { return tlsconfig.GetCertificate(source)(nil) },
		Verify:      tlsconfig.VerifyPeerCertificate(x509bundle.Source(source), tlsconfig.AuthorizeAny()),
		Optional:    cfg.TLSClientAuth == "optional",
	}), nil
}
