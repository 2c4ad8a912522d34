// Package interceptor is what every call passes before the service, in one
// order, on both surfaces:
//
//	request id → metrics and log → audit of the outcome → recovery → shutdown → deadline →
//	who calls → his share → message → may he → audit of the attempt → service
//
// Metrics, log and audit stand outside recovery, so that a panic is counted and
// written down, and so is every refusal. Who calls comes before the message is
// looked at: who does not say who he is learns nothing of what is wrong with his
// request. Only methods of the service's own descriptor pass: health and
// reflection go by the side of it, and anything else is refused.
package interceptor

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// Options is what the chain needs; Log, Metrics, Audit and Timeout must be set.
type Options struct {
	Log     *slog.Logger
	Metrics *telemetry.Metrics
	Audit   *audit.Log
	// Timeout is the deadline of a call that brings none, and the cap of others.
	Timeout time.Duration
	// CallerCredentials has each call bring its own credential for the upstream,
	// as `authorization: Bearer`. Otherwise what a caller sends there is not read.
	CallerCredentials bool
	// Authenticate makes certain who calls, or refuses the call; who has no ID is nobody
	// in particular. Nil asks nobody.
	Authenticate func(context.Context, caller.Credentials) (caller.Caller, error)
	// Policy decides what a caller may do. Nil allows everything.
	Policy func() *policy.Policy
	// MaxInFlightPerCaller bounds the calls that one caller, who is known, has under way;
	// 0 has no bound.
	MaxInFlightPerCaller int
}

// Chain is the interceptors and what they share.
type Chain struct {
	options  Options
	prefix   string // of the methods' full names
	methods  map[string]method
	slots    slots
	stopping atomic.Bool
	stopped  context.Context //nolint:containedctx // ends when stopping is set
	stop     context.CancelFunc
}

// method is what the chain knows of an RPC from the service's descriptor.
type method struct {
	name    string
	full    string // with its service
	mutates bool   // it has no `idempotency_level = NO_SIDE_EFFECTS`
}

// New returns the chain for the methods of service.
func New(service protoreflect.ServiceDescriptor, o Options) *Chain {
	c := &Chain{
		options: o, prefix: "/" + string(service.FullName()) + "/", methods: make(map[string]method), slots: slots{limit: o.MaxInFlightPerCaller},
	}
	c.stopped, c.stop = context.WithCancel(context.Background())
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		options, _ := m.Options().(*descriptorpb.MethodOptions)
		c.methods[c.prefix+string(m.Name())] = method{
			name:    string(m.Name()),
			full:    strings.TrimPrefix(c.prefix, "/") + string(m.Name()),
			mutates: options.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
		}
	}
	return c
}

// Stop has every call from now on refused, as SHUTTING_DOWN, and ends the streams of
// those who watch the health, who would be waited for otherwise.
func (c *Chain) Stop() {
	c.stopping.Store(true)
	c.stop()
}

// Unary is the whole chain as one interceptor.
func (c *Chain) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m, ok := c.methods[info.FullMethod]
	if !ok {
		if isInfrastructure(info.FullMethod) {
			return handler(ctx, req)
		}
		return nil, status.Error(codes.Unimplemented, "unknown method")
	}
	return c.run(ctx, requestIDOf(ctx), m, req, handler)
}

// Refused returns what the caller of a call is told that is refused, because of err, before
// Unary is called for it. The refusal is counted, logged and audited in the background, with
// its caller, so Refused does not wait. A call whose deadline is over is told so.
func (c *Chain) Refused(ctx context.Context, fullMethod string, err error) error {
	m, ok := c.methods[fullMethod]
	if !ok {
		return err
	}
	ctx, id := context.WithoutCancel(ctx), requestIDOf(ctx) // the stream may have ended
	go func() {
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, receivedKey{}, &received{err: err}), c.options.Timeout)
		defer cancel()
		_, _ = c.run(ctx, id, m, nil, nil)
	}()
	if errors.Is(err, context.DeadlineExceeded) {
		return c.withRequestInfo(ctx, id, m.tooLate(err))
	}
	return c.withRequestInfo(ctx, id, err)
}

// run passes a call through the chain.
func (c *Chain) run(ctx context.Context, id string, m method, req any, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	from := credentialsOf(ctx)
	ctx, k := c.newCall(ctx, m, id, from)
	resp, err := c.handle(ctx, req, k, from, handler)
	md := metadata.MD{requestid.Header: {id}}
	_ = grpc.SetTrailer(ctx, md) // these fail only if the stream is gone already
	switch {
	case err == nil:
		_ = grpc.SetHeader(ctx, md)
	case m.mutates && !isIdempotent(req):
		_ = grpc.SetHeader(ctx, metadata.Join(md, noEnvoyRetry))
		fallthrough
	default:
		err = c.withRequestInfo(ctx, id, err)
	}
	took := time.Since(start)
	k.logOutcome(resp, err, took)
	c.observe(ctx, k, err, took)
	return resp, err
}

// Stream lets streams of the health and reflection services pass: the service
// itself has none.
func (c *Chain) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !isInfrastructure(info.FullMethod) {
		return status.Error(codes.Unimplemented, "unknown method")
	}
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)()
	return handler(srv, cancellableStream{ss, ctx})
}

// cancellableStream is a stream that ends with ctx.
type cancellableStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // it is what the stream's own is replaced by
}

func (s cancellableStream) Context() context.Context { return s.ctx }

// isInfrastructure tells methods of gRPC's own services.
func isInfrastructure(fullMethod string) bool {
	return strings.HasPrefix(fullMethod, "/grpc.health.v1.") || strings.HasPrefix(fullMethod, "/grpc.reflection.")
}

// requestIDOf is the call's x-request-id: the caller's where that is well-formed.
func requestIDOf(ctx context.Context) string {
	if sent := metadata.ValueFromIncomingContext(ctx, requestid.Header); len(sent) == 1 && requestid.Valid(sent[0]) {
		return sent[0]
	}
	return requestid.New()
}

// identify makes certain who calls, and notes it, or returns the refusal.
func (c *Chain) identify(ctx context.Context, k *call, from caller.Credentials) (caller.Caller, error) {
	m := k.method
	over := ctx.Err() != nil
	who, err := c.authenticate(ctx, k, from)
	if err != nil && !over && ctx.Err() != nil { // there was no time to find out who calls
		return caller.Caller{}, m.tooLate(err)
	}
	if err != nil {
		e := m.newError(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_UNAUTHENTICATED)
		if errors.Is(err, caller.ErrUnavailable) {
			e = m.newError(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_ISSUER_UNAVAILABLE)
		}
		e.Cause = err
		return caller.Caller{}, e
	}
	k.setCaller(who)
	return who, nil
}

// refuseUnread refuses a call of which there is nothing to be carried out: all that is
// left is to say whose call it was.
func (c *Chain) refuseUnread(ctx context.Context, k *call, from caller.Credentials, message received) error {
	m := k.method
	if who, err := c.authenticate(ctx, k, from); err == nil {
		k.setCaller(who)
	}
	switch {
	case errors.Is(message.err, context.DeadlineExceeded):
		return m.tooLate(message.err)
	case message.err != nil: // the client has its answer
		return message.err
	case from.Refused != nil:
		return from.Refused
	default:
		return m.longHeaders()
	}
}

// handle runs the handler, or refuses the call.
func (c *Chain) handle(
	ctx context.Context, req any, k *call, from caller.Credentials, handler grpc.UnaryHandler,
) (resp any, err error) {
	m := k.method
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, apierror.Panic(p, m.outcome(apierror.Unknown))
		}
	}()
	message := receivedFrom(ctx)
	if message.err != nil || from.LongHeaders {
		return nil, c.refuseUnread(ctx, k, from, message)
	}
	if c.stopping.Load() {
		return nil, m.newError(teamtokenv1.ErrorReason_ERROR_REASON_SHUTTING_DOWN)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline(ctx, c.options.Timeout))
	defer cancel()
	who, err := c.identify(ctx, k, from)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, m.tooLate(context.Cause(ctx))
	}
	if who.VerifiedBy != caller.Unauthenticated {
		release, ok := c.slots.tryAcquire(who.ID)
		if !ok {
			e := m.newError(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED)
			e.RetryAfter = slotRetryAfter
			return nil, e
		}
		defer k.Hold(release)()
	}
	if message.malformed {
		e := m.newError(teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD)
		e.Violations = []apierror.Violation{{Description: "the message is not a well-formed protobuf message of its type"}}
		return nil, e
	}
	k.setRequest(req)
	if from.Refused != nil {
		return nil, from.Refused
	}
	if err := k.authorize(); err != nil {
		return nil, err
	}
	if m.mutates && isProxyRetry(ctx) && !isIdempotent(req) {
		return nil, m.newError(teamtokenv1.ErrorReason_ERROR_REASON_RETRY_WITHOUT_REQUEST_ID)
	}
	if ctx.Err() != nil {
		return nil, m.tooLate(context.Cause(ctx))
	}
	if err := k.logAttempt(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (m method) outcome(o apierror.Outcome) apierror.Outcome {
	if !m.mutates {
		return ""
	}
	return o
}

func (m method) newError(r teamtokenv1.ErrorReason) *apierror.Error {
	return &apierror.Error{Reason: r, Outcome: m.outcome(apierror.NotApplied)}
}

// tooLate refuses a call whose deadline ended, or whose caller left, before anything was done.
func (m method) tooLate(cause error) error {
	e := m.newError(teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT)
	e.Message = "The call's deadline ended, or its caller left, before anything was done. Nothing was changed. Call again, with a longer deadline."
	e.Cause = cause
	return e
}

// longHeaders refuses a call whose headers are too long, by itself, since others may
// call over its connection.
func (m method) longHeaders() error {
	e := m.newError(teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD)
	e.Violations = []apierror.Violation{{Field: "headers", Description: "the headers are longer than TEAMTOKEN_MAX_HEADER_BYTES allows"}}
	st := e.GRPCStatus().Proto()
	st.Code = int32(codes.ResourceExhausted)
	st.Message = "The headers of the call are too long. Nothing was changed. Call again with less metadata."
	return status.ErrorProto(st)
}

// deadlineMargin is what is kept back of a deadline, a tenth of a short one, so that the
// answer that time ran out gets to the caller in time.
const deadlineMargin = 100 * time.Millisecond

func deadline(ctx context.Context, limit time.Duration) time.Time {
	now := time.Now()
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, end.Sub(now))
	}
	return now.Add(limit - max(0, min(deadlineMargin, limit/10))) // limit is negative if end is past
}

// noRetry tells gRPC clients that retry by themselves not to.
var noRetry = metadata.Pairs("grpc-retry-pushback-ms", "-1")

// withRequestInfo is err as the caller gets it: with the request id among its details.
func (c *Chain) withRequestInfo(ctx context.Context, id string, err error) error {
	st := status.Convert(err)
	details := apierror.FromStatus(st)
	if details.Outcome != "" && details.Outcome != string(apierror.NotApplied) {
		_ = grpc.SetTrailer(ctx, noRetry)
	}
	if with, detailErr := st.WithDetails(&errdetails.RequestInfo{RequestId: id}); detailErr == nil {
		st = with
	}
	return &callError{st, details, err}
}

// callError is a status whose cause the log may know.
type callError struct {
	status  *status.Status
	details apierror.Details
	cause   error
}

func (f *callError) Error() string              { return f.status.Err().Error() }
func (f *callError) GRPCStatus() *status.Status { return f.status }

// observe counts the call and logs it.
func (c *Chain) observe(ctx context.Context, k *call, err error, d time.Duration) {
	code := status.Code(err)
	c.options.Metrics.RPC(ctx, k.method.full, code, d)
	f, _ := err.(*callError) //nolint:errorlint // made above, and never wrapped
	if f != nil {
		c.options.Metrics.Failed(ctx, k.method.full, f.details.Reason, f.details.Outcome)
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		annotateSpan(span, k, f)
	}
	level := levelOf(code)
	if k.trail.RefusalUnlogged() || !c.options.Log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String(telemetry.KeyMethod, k.method.name),
		slog.String(telemetry.KeySurface, k.trail.Record().Surface),
		slog.String(telemetry.KeyCaller, k.Caller.ID),
		slog.String(telemetry.KeyCode, code.String()),
		slog.Float64(telemetry.KeyDuration, d.Seconds()),
	)
	if f != nil {
		attrs = append(attrs,
			slog.String(telemetry.KeyReason, f.details.Reason),
			slog.String(telemetry.KeyOutcome, f.details.Outcome))
		if cause := errors.Unwrap(f.cause); cause != nil {
			attrs = append(attrs, slog.String(telemetry.KeyError, cause.Error()))
		}
	}
	c.options.Log.LogAttrs(ctx, level, "call", attrs...)
}

// annotateSpan adds to a call's span what only the chain knows of it.
func annotateSpan(span trace.Span, k *call, f *callError) {
	span.SetAttributes(
		attribute.String("teamtoken.request_id", k.RequestID), attribute.String("teamtoken.surface", k.trail.Record().Surface))
	if f != nil {
		span.SetAttributes(
			attribute.String("teamtoken.reason", f.details.Reason), attribute.String("teamtoken.outcome", f.details.Outcome))
	}
}

func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.Internal:
		return slog.LevelError
	case codes.Unknown, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
