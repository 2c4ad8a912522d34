package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/gateway"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

func (a *app) buildUpstream(context.Context) (err error) {
	var credential upstream.Credential
	if a.address, credential, err = a.files.upstream(a.cfg); err != nil {
		return err
	}
	transport, err := a.files.transport(a.cfg.TFECAFile)
	if err != nil {
		return err
	}
	a.limiter = ratelimit.New(a.cfg.UpstreamRate, a.store, a.log, a.metrics.Waited)
	a.upstream, err = upstream.New(upstream.Options{
		Address:     a.address,
		Transport:   transport,
		Credential:  credential,
		Timeout:     a.cfg.UpstreamTimeout,
		UserAgent:   "teamtoken/" + version,
		RateLimiter: a.limiter,
		Tracer:      a.telemetry.Tracer,
		OnAttempt: func(ctx context.Context, attempt upstream.Attempt) {
			a.metrics.Upstream(ctx, telemetry.UpstreamLabels{
				Method: attempt.Method, Template: attempt.Template, Status: attempt.Status, Failure: attempt.Failure,
				Address: attempt.Host, Port: attempt.Port,
			}, attempt.Duration)
			if attempt.RequestID != "" {
				audit.TrailFrom(ctx).Update(func(r *audit.Record) { r.UpstreamRequestID = attempt.RequestID })
			}
		},
	})
	return err
}

// upstream is the address to call and the service's own credential, which is nil
// where callers bring theirs. With the simulator, it starts that.
func (f reloader) upstream(cfg *config.Config) (address string, credential upstream.Credential, err error) {
	switch {
	case cfg.Simulator:
		sim := simulator.New(simulator.Options{})
		address, err := sim.Listen("127.0.0.1:0")
		return address, upstream.FixedCredential{Text: sim.UserToken()}, err
	case cfg.Credentials == config.CallerCredentials:
		return cfg.TFEAddress, nil, nil
	case cfg.TFETokenFile == "":
		return cfg.TFEAddress, upstream.FixedCredential{Text: cfg.TFEToken}, nil
	}
	f.warnIfReadable("TFE_TOKEN_FILE", cfg.TFETokenFile)
	token, err := follow(f, "TFE_TOKEN_FILE", []string{cfg.TFETokenFile}, func(contents [][]byte) (secret.Text, error) {
		return config.ParseCredential(string(contents[0]))
	})
	if err != nil {
		return "", nil, fmt.Errorf("TFE_TOKEN_FILE (--tfe-token-file): %w", err)
	}
	return cfg.TFEAddress, token, nil
}

// transport gives the transport to the upstream, which is a new one when the
// file of CAs changes.
func (f reloader) transport(caFile string) (func() http.RoundTripper, error) {
	if caFile == "" {
		t := upstream.NewTransport(nil)
		return func() http.RoundTripper { return t }, nil
	}
	value, err := follow(f, "TFE_CA_FILE", []string{caFile}, func(contents [][]byte) (*upstream.Transport, error) {
		pool, err := certificates(contents[0])
		if err != nil {
			return nil, err
		}
		return upstream.NewTransport(pool), nil
	})
	if err != nil {
		return nil, fmt.Errorf("TFE_CA_FILE (--tfe-ca-file): %w", err)
	}
	return func() http.RoundTripper { return value.Get() }, nil
}

// parseOrigins are where clients reach the REST surface, of settings that config has checked.
func parseOrigins(cfg *config.Config) gateway.Origins {
	var o gateway.Origins
	if cfg.PublicURL != "" {
		o.Public, _ = url.Parse(strings.TrimSuffix(cfg.PublicURL, "/"))
	}
	for _, network := range cfg.TrustedProxies {
		o.Proxies = append(o.Proxies, netip.MustParsePrefix(network))
	}
	return o
}

// parseOrganizations are organizations, whose names config has checked.
func parseOrganizations(names []string) ([]upstream.Organization, error) {
	organizations := make([]upstream.Organization, len(names))
	for i, name := range names {
		var err error
		if organizations[i], err = upstream.ParseOrganization(name); err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_ORGANIZATIONS (--organizations): %w", err)
		}
	}
	return organizations, nil
}
