package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/gateway"
	"github.com/teamtoken/teamtoken/internal/interceptor"
	"github.com/teamtoken/teamtoken/internal/reference"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/service"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// serve builds every object once, in the order in which a call passes them from
// the upstream's side, and serves until ctx ends.
func serve(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error {
	log := telemetry.NewLogger(stderr, cfg.LogLevel, cfg.LogFormat == "text")
	for _, stranger := range config.Strangers(os.Environ()) {
		log.Warn("an environment variable is not a setting and is ignored", "variable", stranger.Name, "did_you_mean", stranger.Meant)
	}
	ignored, err := telemetry.Variables(cfg.AuditFile == audit.OTLP)
	if err != nil {
		return err
	}
	for _, name := range ignored {
		log.Warn("an OpenTelemetry variable has an invalid value: all or part of it is ignored", "variable", name)
	}
	told, err := telemetry.New(ctx, version, log)
	if err != nil {
		return fmt.Errorf("OpenTelemetry, by the variables OTEL_*: %w", err)
	}
	defer flush(told, log)
	metrics := told.Metrics
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
	room := budget.New(cfg.UpstreamRate, store, log, metrics.Waited)
	var host string
	var port int
	client, err := upstream.New(upstream.Options{
		Address:    address,
		Transport:  transport,
		Credential: credential,
		Timeout:    cfg.UpstreamTimeout,
		UserAgent:  "teamtoken/" + version,
		Pacer:      room,
		Tracer:     told.Tracer,
		Observe: func(ctx context.Context, a upstream.Attempt) {
			metrics.Upstream(ctx, telemetry.UpstreamLabels{
				Method: a.Method, Template: a.Template, Status: a.Status, Failure: a.Failure, Address: host, Port: port,
			}, a.Duration)
			interceptor.Asked(ctx, a.RequestID)
		},
	})
	if err != nil {
		return err
	}
	host, port = client.Server()
	organizations, err := named(cfg.Organizations)
	if err != nil {
		return err
	}
	var chain *interceptor.Chain
	var pulse atomic.Pointer[state.Pulse]
	pulse.Store(&state.Pulse{Replicas: 1})
	svc := service.New(client, service.Options{
		Store: store, Budget: room, Keys: keys, Hold: cfg.UnknownHold, Organizations: organizations,
		MaxTokenTTL: cfg.MaxTokenTTL, DefaultTokenTTL: cfg.DefaultTokenTTL,
		MayTouch: interceptor.MayTouch, Late: interceptor.Late, Flying: interceptor.Flying,
		Journal: interceptor.Journal, Redrive: interceptor.Redrive, Settled: interceptor.Settled,
		Resume:   func(ctx context.Context, journal any) context.Context { return chain.Resume(ctx, journal) },
		Replayed: metrics.Replayed, Rejected: files.rejected(), MaxRecords: cfg.MaxRequestIDs,
		Pulse: func(p state.Pulse, err error) {
			metrics.State(err == nil)
			if err == nil {
				pulse.Store(&p)
			}
		},
	}, log)
	if err := metrics.Watch(telemetry.Present{
		TeamsHeld: func() int { return pulse.Load().Held }, Replicas: func() int { return pulse.Load().Replicas },
		Rate: room.Rate, Waiting: room.Queue, Pause: room.Paused, CircuitOpen: client.CircuitOpen,
	}); err != nil {
		return err
	}
	identify, callersKnown, err := files.identify(cfg)
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
			srv.SetReady("the audit log can't be written", ok)
			if !ok {
				log.Error("the audit log can't be written: calls are refused until it can", telemetry.KeyError, err)
				return
			}
			log.Info("the audit log can be written again")
		},
		Diverted: metrics.AuditDiverted,
		Counted:  metrics.AuditCounted,
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
	calls := told.Calls(teamtokenv1.TeamTokenService_ServiceDesc.ServiceName)
	unary := server.Tracked(chain.Unary, inprocgrpc.ClientContext)
	inprocess := (&inprocgrpc.Channel{}).WithServerUnaryInterceptor(unary)
	if calls != nil {
		inprocess.WithServerStatsHandler(calls)
	}
	inprocess.RegisterService(&teamtokenv1.TeamTokenService_ServiceDesc, svc)
	unseen := telemetry.NewUnseen(log)
	rest, err := gateway.New(inprocess, log, unseen, origins(cfg), cfg.MaxHeaderBytes)
	if err != nil {
		return err
	}
	if cfg.Docs {
		rest = reference.Handler(rest)
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
		Unary:          unary,
		Stream:         chain.Stream,
		Calls:          calls,
		Codec:          interceptor.Codec(),
		Service:        interceptor.Describe(teamtokenv1.TeamTokenService_ServiceDesc),
		Implementation: svc,
		REST:           rest,
		Metrics:        metrics.Handler(),
		MaxCall:        cfg.RequestTimeout,
		Refused:        metrics.ConnectionRefused,
		Unseen:         unseen,
		Limits: server.Limits{
			Connections: cfg.MaxConnections, Streams: cfg.MaxStreams,
			HeaderBytes: cfg.MaxHeaderBytes, MessageBytes: cfg.MaxMessageBytes,
			HandshakeTimeout: cfg.HandshakeTimeout, ReadHeaderTimeout: cfg.ReadHeaderTimeout, ReadTimeout: cfg.ReadTimeout,
			IdleTimeout: cfg.IdleTimeout, ConnectionAge: cfg.MaxConnectionAge, ConnectionAgeGrace: 2 * cfg.RequestTimeout,
			PingInterval: cfg.MinPingInterval,
		},
		Reflection: cfg.Reflection,
		Pprof:      cfg.Pprof,
		Log:        log,
		Delay:      cfg.ShutdownDelay,
		Stopping:   chain.Stop,
		Ending:     svc.End,
		Drain:      svc.Drain,
	})
	if err != nil {
		return err
	}
	const noIssuer = "the keys of the JWT issuer were not fetched yet"
	select {
	case <-callersKnown:
	default:
		srv.SetReady(noIssuer, false)
		go func() {
			select {
			case <-callersKnown:
				srv.SetReady(noIssuer, true)
				log.Info("the keys of the JWT issuer were fetched", telemetry.KeySetting, "TEAMTOKEN_JWT_ISSUER")
			case <-ctx.Done():
			}
		}()
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
		log.Warn("authentication is off: anyone who can connect can replace any team's token, and can get another caller's secret by sending that caller's request_id")
	}
	files.warnOfClears(cfg)
	if cfg.Simulator {
		welcome(stdout, srv, address)
	}
	return srv.Run(ctx)
}

// origins are where clients reach the REST surface, of settings that config has checked.
func origins(cfg *config.Config) gateway.Origins {
	var o gateway.Origins
	if cfg.PublicURL != "" {
		o.Public, _ = url.Parse(strings.TrimSuffix(cfg.PublicURL, "/"))
	}
	for _, network := range cfg.TrustedProxies {
		o.Proxies = append(o.Proxies, netip.MustParsePrefix(network))
	}
	return o
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

// flushTimeout is how long the last metrics and traces may take to be exported.
const flushTimeout = 3 * time.Second

func flush(told *telemetry.Telemetry, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := told.Shutdown(ctx); err != nil {
		log.Warn("the last of the telemetry can't be exported", telemetry.KeyError, err)
	}
}
