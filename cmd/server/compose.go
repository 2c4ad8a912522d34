package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/fullstorydev/grpchan/inprocgrpc"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/gateway"
	"github.com/teamtoken/teamtoken/internal/interceptor"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/service"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
	"github.com/teamtoken/teamtoken/internal/watch"
)

// serve builds every object once, in the order in which a call passes them from
// the upstream's side, and serves until ctx ends.
func serve(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error {
	log := telemetry.NewLogger(stderr, cfg.LogLevel, cfg.LogFormat == "text")
	metrics := telemetry.NewMetrics(version)
	files := follower{ctx, log, metrics}

	if err := contain(); err != nil {
		log.Warn("the program's memory is not kept from other processes of its user", telemetry.KeyError, err)
	}
	address, credential, err := files.upstream(cfg)
	if err != nil {
		return err
	}
	transport, err := files.transport(cfg.TFECAFile)
	if err != nil {
		return err
	}
	store, keys, err := files.state(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	room := budget.New(cfg.UpstreamRate, store, log)
	client, err := upstream.New(upstream.Options{
		Address:    address,
		Transport:  transport,
		Credential: credential,
		Timeout:    cfg.UpstreamTimeout,
		UserAgent:  "teamtoken/" + version,
		Pacer:      room,
		Observe: func(ctx context.Context, a upstream.Attempt) {
			metrics.Upstream(a.Operation, a.Result, a.Duration)
			interceptor.Asked(ctx, a.RequestID)
		},
	})
	if err != nil {
		return err
	}
	organizations, err := named(cfg.Organizations)
	if err != nil {
		return err
	}
	var chain *interceptor.Chain
	svc := service.New(client, service.Options{
		Store: store, Budget: room, Keys: keys, Hold: cfg.UnknownHold, Organizations: organizations,
		MaxTokenTTL: cfg.MaxTokenTTL, DefaultTokenTTL: cfg.DefaultTokenTTL,
		MayTouch: interceptor.MayTouch, Late: interceptor.Late, Flying: interceptor.Flying,
		Journal: interceptor.Journal, Redrive: interceptor.Redrive, Settled: interceptor.Settled,
		Resume: func(ctx context.Context, journal any) context.Context { return chain.Resume(ctx, journal) },
	}, log)
	identify, err := files.identify(cfg)
	if err != nil {
		return err
	}
	rules, err := files.policy(cfg.PolicyFile)
	if err != nil {
		return err
	}
	var srv *server.Server
	book, err := audit.Open(audit.Options{
		Destination: cfg.AuditFile, Sync: cfg.AuditSync, Stdout: stdout, Stderr: stderr,
		Working: func(ok bool, err error) { // by calls, and so after srv is there
			metrics.Audit(ok)
			srv.SetServing(ok)
			if !ok {
				log.Error("the audit log can't be written: calls are refused until it can", telemetry.KeyError, err)
				return
			}
			log.Info("the audit log can be written again")
		},
	})
	if err != nil {
		return fmt.Errorf("TEAMTOKEN_AUDIT_FILE (--audit-file): %w", err)
	}
	defer func() { _ = book.Close() }()
	files.reopen(book)
	chain = interceptor.New(teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService"),
		interceptor.Options{
			Log:               log,
			Metrics:           metrics,
			Audit:             book,
			Timeout:           cfg.RequestTimeout,
			CallerCredentials: cfg.Credentials == config.CallerCredentials,
			Identify:          identify,
			Policy:            rules,
			CallsPerCaller:    cfg.MaxCallsPerCaller,
		})
	inprocess := (&inprocgrpc.Channel{}).WithServerUnaryInterceptor(chain.Unary)
	inprocess.RegisterService(&teamtokenv1.TeamTokenService_ServiceDesc, svc)
	rest, err := gateway.New(inprocess, log)
	if err != nil {
		return err
	}
	tlsConfig, err := files.tls(cfg)
	if err != nil {
		return err
	}
	srv, err = server.New(server.Options{
		GRPC:           server.Listener{Address: cfg.GRPCAddress, Setting: "TEAMTOKEN_GRPC_ADDRESS (--grpc-address)"},
		HTTP:           server.Listener{Address: cfg.HTTPAddress, Setting: "TEAMTOKEN_HTTP_ADDRESS (--http-address)"},
		Admin:          server.Listener{Address: cfg.AdminAddress, Setting: "TEAMTOKEN_ADMIN_ADDRESS (--admin-address)"},
		TLS:            tlsConfig,
		Unary:          chain.Unary,
		Stream:         chain.Stream,
		Codec:          interceptor.Codec(),
		Service:        interceptor.Describe(teamtokenv1.TeamTokenService_ServiceDesc),
		Implementation: svc,
		REST:           rest,
		Metrics:        metrics.Handler(),
		MaxCall:        cfg.RequestTimeout,
		Refused:        metrics.ConnectionRefused,
		Limits: server.Limits{
			Connections: cfg.MaxConnections, Streams: cfg.MaxStreams,
			HeaderBytes: cfg.MaxHeaderBytes, MessageBytes: cfg.MaxMessageBytes,
			HandshakeTimeout: cfg.HandshakeTimeout, ReadHeaderTimeout: cfg.ReadHeaderTimeout, ReadTimeout: cfg.ReadTimeout,
			IdleTimeout: cfg.IdleTimeout, ConnectionAge: cfg.MaxConnectionAge, ConnectionAgeGrace: cfg.ConnectionAgeGrace,
			PingInterval: cfg.MinPingInterval,
		},
		Reflection: cfg.Reflection,
		Pprof:      cfg.Pprof,
		Log:        log,
		Stopping:   chain.Stop,
		Ending:     svc.End,
		Drain:      svc.Drain,
	})
	if err != nil {
		return err
	}
	settling, settled := context.WithCancel(ctx)
	var settler sync.WaitGroup
	settler.Go(func() { svc.Run(settling) })
	defer settler.Wait()
	defer settled()
	if cfg.Credentials == config.ServiceCredentials && cfg.UpstreamRate > 0 {
		go files.learn(client)
	}
	log.Info("serving", "version", version, "grpc", srv.GRPCAddr, "rest", srv.RESTURL, "admin", srv.AdminURL, "upstream", address)
	if !cfg.SharedState() {
		log.Info("this replica shares no state: run it alone, or set TEAMTOKEN_STATE, since several would know nothing of each other's changes")
	}
	if cfg.AnyCaller() {
		log.Warn("no caller is asked who it is: whoever reaches the listeners may replace the token of every team")
	}
	if cfg.Simulator {
		welcome(stdout, srv, address)
	}
	return srv.Run(ctx)
}

// named are organizations, whose names config has checked.
func named(names []string) ([]upstream.Organization, error) {
	organizations := make([]upstream.Organization, len(names))
	for i, name := range names {
		var err error
		if organizations[i], err = upstream.ParseOrganization(name); err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_ORGANIZATIONS (--organizations): %w", err)
		}
	}
	return organizations, nil
}

// follower reads files, follows their changes until ctx ends, and logs them.
type follower struct {
	ctx     context.Context //nolint:containedctx // the program's own life
	log     *slog.Logger
	metrics *telemetry.Metrics
}

func (f follower) changed(what string) func(error) {
	return func(err error) {
		f.metrics.Reload(what, err == nil)
		if err != nil {
			f.log.Error("a changed file cannot be used, the last good one stays in use", telemetry.KeySetting, what, telemetry.KeyError, err)
			return
		}
		f.log.Info("a changed file is in use", telemetry.KeySetting, what)
	}
}

// private warns of a file of secrets that others than its owner may read.
func (f follower) private(setting, path string) {
	if info, err := os.Stat(path); err == nil && //nolint:gosec // which files are read is what settings are for
		info.Mode().Perm()&0o077 != 0 {
		f.log.Warn("a file that holds a secret can be read by others than its owner: chmod 0600, or defaultMode 0400 of a Kubernetes volume",
			telemetry.KeySetting, setting, "mode", info.Mode().Perm().String())
	}
}

// reopen opens the audit log anew at each SIGHUP, once whoever rotates it has
// moved it away.
func (f follower) reopen(book *audit.Log) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
			case <-f.ctx.Done():
				return
			}
			if err := book.Reopen(); err != nil {
				f.log.Error("the audit log can't be opened anew, the old file stays in use", telemetry.KeyError, err)
				continue
			}
			f.log.Info("the audit log is opened anew")
		}
	}()
}

// upstream is the address to call and the service's own credential, which is nil
// where callers bring theirs. With the simulator, it starts that.
func (f follower) upstream(cfg *config.Config) (address string, credential upstream.Credential, err error) {
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
	f.private("TFE_TOKEN_FILE", cfg.TFETokenFile)
	token, err := watch.Files(f.ctx, []string{cfg.TFETokenFile}, func(contents [][]byte) (secret.Text, error) {
		return config.Bearer(string(contents[0]))
	}, f.changed("TFE_TOKEN_FILE"))
	if err != nil {
		return "", nil, fmt.Errorf("TFE_TOKEN_FILE (--tfe-token-file): %w", err)
	}
	return cfg.TFEAddress, token, nil
}

// transport gives the transport to the upstream, which is a new one when the
// file of CAs changes.
func (f follower) transport(caFile string) (func() http.RoundTripper, error) {
	if caFile == "" {
		t := upstream.NewTransport(nil)
		return func() http.RoundTripper { return t }, nil
	}
	value, err := watch.Files(f.ctx, []string{caFile}, func(contents [][]byte) (*upstream.Transport, error) {
		pool, err := certificates(contents[0])
		if err != nil {
			return nil, err
		}
		return upstream.NewTransport(pool), nil
	}, f.changed("TFE_CA_FILE"))
	if err != nil {
		return nil, fmt.Errorf("TFE_CA_FILE (--tfe-ca-file): %w", err)
	}
	return func() http.RoundTripper { return value.Get() }, nil
}

func certificates(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the file holds no PEM certificate")
	}
	return pool, nil
}

// tls is nil where no certificate is configured.
func (f follower) tls(cfg *config.Config) (*tls.Config, error) {
	if cfg.SPIFFESocket != "" {
		return f.spiffe(cfg)
	}
	if cfg.TLSCertFile == "" {
		return nil, nil
	}
	f.private("TEAMTOKEN_TLS_KEY_FILE", cfg.TLSKeyFile)
	pair, err := watch.Files(f.ctx, []string{cfg.TLSCertFile, cfg.TLSKeyFile}, func(contents [][]byte) (*tls.Certificate, error) {
		certificate, err := tls.X509KeyPair(contents[0], contents[1])
		return &certificate, err
	}, f.changed("TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE"))
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE: %w", err)
	}
	id := server.Identity{
		Certificate: func() (*tls.Certificate, error) { return pair.Get(), nil },
		Optional:    cfg.TLSClientAuth == "optional",
	}
	if cfg.TLSClientCAFile != "" {
		cas, err := watch.Files(f.ctx, []string{cfg.TLSClientCAFile}, func(contents [][]byte) (*x509.CertPool, error) {
			return certificates(contents[0])
		}, f.changed("TEAMTOKEN_TLS_CLIENT_CA_FILE"))
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_TLS_CLIENT_CA_FILE: %w", err)
		}
		id.ClientCAs = cas.Get
	}
	return server.TLS(id), nil
}
