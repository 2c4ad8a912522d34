package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apidocs"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/gateway"
	"github.com/teamtoken/teamtoken/internal/interceptor"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/service"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// app is the parts of the service, each built once from those before it.
type app struct {
	cfg            *config.Config
	stdout, stderr io.Writer
	log            *slog.Logger
	cleanup        []func() // in reverse

	telemetry *telemetry.Telemetry
	metrics   *telemetry.Metrics
	files     reloader
	readiness *server.Readiness
	audit     *audit.Log
	address   string // of the upstream
	store     state.Store
	keys      func() *seal.Keys
	rejected  rejected
	limiter   *ratelimit.Limiter
	upstream  *upstream.Client
	engine    *mutation.Engine
	service   *service.Service
	chain     *interceptor.Chain
	unary     grpc.UnaryServerInterceptor
	stats     stats.Handler // nil if no call is traced or measured
	unseen    func(message string, attrs ...slog.Attr)
	rest      http.Handler
	server    *server.Server

	callersKnown <-chan struct{} // closed when JWTs can be verified
}

// serve builds the service and runs it until ctx ends.
func serve(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error {
	a := &app{cfg: cfg, stdout: stdout, stderr: stderr}
	defer a.close()
	for _, build := range []func(context.Context) error{
		a.buildTelemetry, a.buildAudit, a.buildStore, a.buildUpstream, a.buildService, a.buildChain, a.buildGateway, a.buildServer,
	} {
		if err := build(ctx); err != nil {
			return err
		}
	}
	return a.run(ctx)
}

// closing has a part closed at the end, before those that were built before it.
func (a *app) closing(part func()) { a.cleanup = append(a.cleanup, part) }

func (a *app) close() {
	for i := len(a.cleanup) - 1; i >= 0; i-- {
		a.cleanup[i]()
	}
}

func (a *app) buildTelemetry(ctx context.Context) (err error) {
	a.log = telemetry.NewLogger(a.stderr, a.cfg.LogLevel, a.cfg.LogFormat == "text")
	for _, variable := range config.UnknownVariables(os.Environ()) {
		a.log.Warn("an environment variable is not a setting and is ignored", "variable", variable.Name, "did_you_mean", variable.Meant)
	}
	ignored, err := telemetry.Variables(a.cfg.AuditFile == audit.OTLP)
	if err != nil {
		return err
	}
	for _, name := range ignored {
		a.log.Warn("an OpenTelemetry variable has an invalid value: all or part of it is ignored", "variable", name)
	}
	if a.telemetry, err = telemetry.New(ctx, version, a.log); err != nil {
		return fmt.Errorf("OpenTelemetry, by the variables OTEL_*: %w", err)
	}
	a.closing(a.flush)
	a.metrics = a.telemetry.Metrics
	a.unseen = telemetry.NewUnseen(a.log)
	a.files = reloader{ctx, a.log, a.metrics}
	if err := contain(); err != nil {
		a.log.Warn("the program's memory is not kept from other processes of its user", telemetry.KeyError, err)
	}
	return nil
}

// flushTimeout is how long the last metrics and traces may take to be exported.
const flushTimeout = 3 * time.Second

func (a *app) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := a.telemetry.Shutdown(ctx); err != nil {
		a.log.Warn("the last of the telemetry can't be exported", telemetry.KeyError, err)
	}
}

func (a *app) buildAudit(context.Context) (err error) {
	a.readiness = server.NewReadiness(teamtokenv1.TeamTokenService_ServiceDesc.ServiceName)
	a.audit, err = audit.Open(audit.Options{
		Destination: a.cfg.AuditFile, Sync: a.cfg.AuditSync, Stdout: a.stdout, Stderr: a.stderr,
		OnStatusChange: func(ok bool, err error) {
			a.metrics.Audit(ok)
			a.readiness.Set("the audit log can't be written", ok)
			if !ok {
				a.log.Error("the audit log can't be written: calls are refused until it can", telemetry.KeyError, err)
				return
			}
			a.log.Info("the audit log can be written again")
		},
		OnFallback: a.metrics.AuditDiverted,
		Counted:    a.metrics.AuditCounted,
	})
	if err != nil {
		return fmt.Errorf("TEAMTOKEN_AUDIT_FILE (--audit-file): %w", err)
	}
	a.closing(func() { _ = a.audit.Close() })
	a.files.reopenOnSIGHUP(a.audit)
	return nil
}

func (a *app) buildService(context.Context) error {
	organizations, err := parseOrganizations(a.cfg.Organizations)
	if err != nil {
		return err
	}
	a.engine = mutation.New(a.upstream, mutation.Options{
		Store: a.store, Hold: a.cfg.UnknownHold, Limiter: a.limiter, Keys: a.keys, Audit: a.audit, Metrics: a.metrics,
		Rejected: a.rejected, MaxRecords: a.cfg.MaxRequestIDs, Organizations: organizations,
	}, a.log)
	a.service = service.New(a.upstream, a.engine, service.Limits{MaxTokenTTL: a.cfg.MaxTokenTTL, DefaultTokenTTL: a.cfg.DefaultTokenTTL})
	return a.metrics.ObserveGauges(telemetry.GaugeSources{
		TeamsHeld: func() int { return a.engine.Status().InDoubt }, Replicas: func() int { return a.engine.Status().Replicas },
		Rate: a.limiter.Rate, Waiting: a.limiter.QueueLen, Pause: a.limiter.Blocked, CircuitOpen: a.upstream.CircuitOpen,
	})
}

func (a *app) buildChain(context.Context) error {
	authenticate, ready, err := a.files.authenticator(a.cfg)
	if err != nil {
		return err
	}
	rules, err := a.files.policy(a.cfg.PolicyFile)
	if err != nil {
		return err
	}
	a.callersKnown = ready
	a.chain = interceptor.New(teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService"), interceptor.Options{
		Log: a.log, Metrics: a.metrics, Audit: a.audit,
		Timeout:           a.cfg.RequestTimeout,
		CallerCredentials: a.cfg.Credentials == config.CallerCredentials,
		Authenticate:      authenticate, Policy: rules,
		MaxInFlightPerCaller: a.cfg.MaxCallsPerCaller,
	})
	a.stats = a.telemetry.GRPCStatsHandler(teamtokenv1.TeamTokenService_ServiceDesc.ServiceName)
	a.unary = server.Tracked(a.chain.Unary, inprocgrpc.ClientContext)
	return nil
}

func (a *app) buildGateway(context.Context) (err error) {
	inprocess := (&inprocgrpc.Channel{}).WithServerUnaryInterceptor(a.unary)
	if a.stats != nil {
		inprocess.WithServerStatsHandler(a.stats)
	}
	inprocess.RegisterService(&teamtokenv1.TeamTokenService_ServiceDesc, a.service)
	a.rest, err = gateway.New(inprocess, a.log, a.unseen, parseOrigins(a.cfg), a.cfg.MaxHeaderBytes)
	if err == nil && a.cfg.Docs {
		a.rest = apidocs.Handler(a.rest)
	}
	return err
}

func (a *app) buildServer(context.Context) error {
	tlsConfig, err := a.files.tls(a.cfg)
	if err != nil {
		return err
	}
	a.server, err = server.New(server.Options{
		GRPC:  server.Listener{Address: a.cfg.GRPCAddress, Setting: "TEAMTOKEN_GRPC_ADDRESS (--grpc-address)"},
		HTTP:  server.Listener{Address: a.cfg.HTTPAddress, Setting: "TEAMTOKEN_HTTP_ADDRESS (--http-address)"},
		Admin: server.Listener{Address: a.cfg.AdminAddress, Setting: "TEAMTOKEN_ADMIN_ADDRESS (--admin-address)"},
		TLS:   tlsConfig,
		Unary: a.unary, Stream: a.chain.Stream, StatsHandler: a.stats, Codec: interceptor.Codec(),
		Service: interceptor.WrapServiceDesc(teamtokenv1.TeamTokenService_ServiceDesc), Implementation: a.service,
		REST: a.rest, Metrics: a.metrics.Handler(), Readiness: a.readiness,
		MaxCallDuration: a.cfg.RequestTimeout, Limits: limits(a.cfg),
		OnRejected: a.metrics.ConnectionRefused, RefusedCall: a.chain.Refused, Unseen: a.unseen,
		Reflection: a.cfg.Reflection, Pprof: a.cfg.Pprof, Log: a.log, ShutdownDelay: a.cfg.ShutdownDelay,
		OnShutdown: a.chain.Stop, OnDeadline: a.engine.AbortWaiting, WaitBackground: a.engine.Drain,
	})
	return err
}

func limits(cfg *config.Config) server.Limits {
	return server.Limits{
		Connections: cfg.MaxConnections, Streams: cfg.MaxStreams,
		HeaderBytes: cfg.MaxHeaderBytes, MessageBytes: cfg.MaxMessageBytes,
		HandshakeTimeout: cfg.HandshakeTimeout, ReadHeaderTimeout: cfg.ReadHeaderTimeout, ReadTimeout: cfg.ReadTimeout,
		IdleTimeout: cfg.IdleTimeout, ConnectionAge: cfg.MaxConnectionAge, ConnectionAgeGrace: 2 * cfg.RequestTimeout,
		PingInterval: cfg.MinPingInterval,
	}
}

// run serves until ctx ends.
func (a *app) run(ctx context.Context) error {
	a.awaitIssuer(ctx)
	reconcileCtx, stopReconcile := context.WithCancel(ctx)
	var reconciling sync.WaitGroup
	reconciling.Go(func() { a.engine.Reconcile(reconcileCtx) })
	defer reconciling.Wait()
	defer stopReconcile()
	if a.cfg.Credentials == config.ServiceCredentials && a.cfg.UpstreamRate > 0 {
		go a.pingUpstream(ctx)
	}
	a.log.Info("serving", "version", version, "grpc", a.server.GRPCAddr, "rest", a.server.RESTURL, "admin", a.server.AdminURL, "upstream", a.address)
	if !a.cfg.SharedState() {
		a.log.Info("this replica shares no state: run it alone, or set TEAMTOKEN_STATE, since several would know nothing of each other's changes")
	}
	if a.cfg.AnyCaller() {
		a.log.Warn("authentication is off: anyone who can connect can replace any team's token, and can get another caller's secret by sending that caller's request_id")
	}
	a.files.warnOfClears(a.cfg)
	if a.cfg.Simulator {
		printQuickstart(a.stdout, a.server, a.address)
	}
	return a.server.Run(ctx)
}

// awaitIssuer has the server not ready until the keys of the JWT issuer were fetched.
func (a *app) awaitIssuer(ctx context.Context) {
	const noIssuer = "the keys of the JWT issuer were not fetched yet"
	select {
	case <-a.callersKnown:
		return
	default:
		a.readiness.Set(noIssuer, false)
	}
	go func() {
		select {
		case <-a.callersKnown:
			a.readiness.Set(noIssuer, true)
			a.log.Info("the keys of the JWT issuer were fetched", telemetry.KeySetting, "TEAMTOKEN_JWT_ISSUER")
		case <-ctx.Done():
		}
	}()
}

// pingUpstream asks the upstream for its rate limit, before anybody waits for that.
func (a *app) pingUpstream(ctx context.Context) {
	timeout, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.upstream.Ping(timeout); err != nil && ctx.Err() == nil {
		a.log.Warn("the upstream does not answer yet", telemetry.KeyError, err)
	}
}
