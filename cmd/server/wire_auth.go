package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/ciphers"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// authenticator makes certain who calls, by all the ways that the settings have; it
// is nil where they have none. ready is closed once it can: an issuer of JWTs may not
// answer yet.
func (f reloader) authenticator(cfg *config.Config) (
	authenticate func(context.Context, caller.Credentials) (caller.Caller, error), ready <-chan struct{}, err error,
) {
	o := authn.Options{Certificates: cfg.MutualTLS(), SPIFFE: cfg.SPIFFESocket != ""}
	if o.JWT, ready, err = f.jwt(cfg); err != nil {
		return nil, nil, err
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
		return nil, ready, nil
	}
	verified := authn.New(o).Authenticate
	if cfg.PolicyFile != "" {
		return verified, ready, nil
	}
	// Where no policy asks who calls, who does not say so is nobody in particular.
	return func(ctx context.Context, p caller.Credentials) (caller.Caller, error) {
		who, err := verified(ctx, p)
		if errors.Is(err, authn.ErrNoCredentials) {
			return caller.Caller{}, nil
		}
		return who, err
	}, ready, nil
}

// warnOfClears logs which listeners take credentials in plain text.
func (f reloader) warnOfClears(cfg *config.Config) {
	what := "JWTs"
	if cfg.Credentials == config.CallerCredentials {
		what = "callers' credentials for the upstream"
	}
	for _, l := range cfg.Clears() {
		if l.Mesh {
			f.log.Info("a listener of the mesh takes "+what+" in plain text from its proxy: have the mesh refuse plain text from elsewhere",
				telemetry.KeySetting, l.Setting, "address", l.Address)
			continue
		}
		f.log.Warn("a listener takes "+what+" in plain text, and other machines can reach it: who reads along can call as those callers; "+
			"set TEAMTOKEN_TLS_CERT_FILE and TEAMTOKEN_TLS_KEY_FILE, or TEAMTOKEN_SPIFFE_SOCKET, or listen on 127.0.0.1",
			telemetry.KeySetting, l.Setting, "address", l.Address)
	}
}

// always is a closed channel, for what is ready from the start.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// issuerTimeout bounds one question to the issuer of JWTs.
const issuerTimeout = 10 * time.Second

// jwt is nil where JWTs are not believed. ready is closed once it has keys.
func (f reloader) jwt(cfg *config.Config) (j *authn.JWTVerifier, ready <-chan struct{}, err error) {
	if cfg.JWTIssuer == "" {
		return nil, always, nil
	}
	o := authn.JWTOptions{Issuer: cfg.JWTIssuer, Audiences: cfg.JWTAudience, Algorithms: cfg.JWTAlgorithms, Leeway: cfg.JWTLeeway}
	ready = always
	if cfg.JWTKeysFile != "" {
		o.Keys, err = f.fileKeys(cfg)
	} else {
		var keys *authn.IssuerKeys
		if keys, err = f.issuerKeys(cfg); err == nil {
			o.Keys, ready = keys, keys.Ready()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	j, err = authn.NewJWT(o)
	return j, ready, err
}

// fileKeys are the public keys of the issuer of JWTs, from a file.
func (f reloader) fileKeys(cfg *config.Config) (authn.KeySource, error) {
	leftOut := f.leftOut("TEAMTOKEN_JWT_KEYS_FILE")
	value, err := follow(f, "TEAMTOKEN_JWT_KEYS_FILE", []string{cfg.JWTKeysFile}, func(contents [][]byte) (authn.KeySet, error) {
		keys, err := authn.ParseKeys(contents[0], cfg.JWTAlgorithms...)
		leftOut(keys.LeftOut())
		return keys, err
	})
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file): %w", err)
	}
	return authn.FileKeys(value.Get), nil
}

// issuerKeys are the public keys of the issuer of JWTs, from itself. It need not
// answer yet.
func (f reloader) issuerKeys(cfg *config.Config) (*authn.IssuerKeys, error) {
	const setting = "TEAMTOKEN_JWT_ISSUER"
	transport, err := f.issuerTransport(cfg.JWTIssuerCAFile)
	if err != nil {
		return nil, err
	}
	o := authn.IssuerOptions{
		Issuer:     cfg.JWTIssuer,
		Algorithms: cfg.JWTAlgorithms,
		Client:     &http.Client{Transport: transport, Timeout: issuerTimeout},
		Changed:    f.onReload(setting),
		LeftOut:    f.leftOut(setting),
		Waiting: func(err error, again time.Duration) {
			f.metrics.Reload(setting, false)
			f.log.Error("the keys of the JWT issuer can't be fetched: this replica is not ready and refuses callers with a JWT; it will try again",
				telemetry.KeySetting, setting, telemetry.KeyError, err, "again_in_seconds", again.Seconds())
		},
	}
	if cfg.JWTIssuerTokenFile != "" {
		f.warnIfReadable("TEAMTOKEN_JWT_ISSUER_TOKEN_FILE", cfg.JWTIssuerTokenFile)
		token, err := follow(f, "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE", []string{cfg.JWTIssuerTokenFile}, func(contents [][]byte) (secret.Text, error) {
			return config.ParseCredential(string(contents[0]))
		})
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_JWT_ISSUER_TOKEN_FILE (--jwt-issuer-token-file): %w", err)
		}
		o.Token = token.Get
	}
	return authn.DiscoverKeys(f.ctx, o), nil
}

// maxLeftOut is how many unusable keys are logged until the program ends.
const maxLeftOut = 50

// leftOut logs keys that are not usable, each once.
func (f reloader) leftOut(setting string) func([]authn.LeftOut) {
	var mu sync.Mutex
	told := make(map[authn.LeftOut]bool)
	return func(keys []authn.LeftOut) {
		mu.Lock()
		defer mu.Unlock()
		for _, key := range keys {
			if told[key] || len(told) > maxLeftOut {
				continue
			}
			told[key] = true
			if len(told) > maxLeftOut {
				f.log.Warn("more keys of the JWT issuer are not usable and are ignored; they are not logged one by one", telemetry.KeySetting, setting)
				return
			}
			f.log.Warn("a key of the JWT issuer is not usable and is ignored; the others are used", telemetry.KeySetting, setting,
				"key_id", key.ID, "key_type", key.Kind, "key_hash", key.Hash, telemetry.KeyReason, key.Reason)
		}
	}
}

// dynamicTransport is a transport that may be another for each request.
type dynamicTransport func() http.RoundTripper

func (f dynamicTransport) RoundTrip(r *http.Request) (*http.Response, error) { return f().RoundTrip(r) }

// issuerTransport is the way to the issuer of JWTs, which is a new one when the
// file of CAs changes.
func (f reloader) issuerTransport(caFile string) (http.RoundTripper, error) {
	dial := func(cas *x509.CertPool) *http.Transport {
		return &http.Transport{
			Proxy:           http.ProxyFromEnvironment,
			TLSClientConfig: ciphers.Client(cas),
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
	return dynamicTransport(func() http.RoundTripper { return value.Get() }), nil
}

// policy is nil where there is none.
func (f reloader) policy(path string) (func() *policy.Policy, error) {
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
func (f reloader) spiffe(cfg *config.Config) (*tls.Config, error) {
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
