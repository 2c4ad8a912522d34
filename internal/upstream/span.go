package upstream

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// otelhttp is not used: it would write net/http's errors into the span, which
// quote what an upstream sent and could not be read, maybe a token.

// span begins the span of a request that is sent for the n-th time; it is nil
// without a tracer.
func (c *Client) span(ctx context.Context, r request, n int) (context.Context, trace.Span) {
	if c.options.Tracer == nil {
		return ctx, nil
	}
	attributes := make([]attribute.KeyValue, 0, 5)
	attributes = append(attributes, semconv.HTTPRequestMethodKey.String(r.method), semconv.URLTemplate(r.template),
		semconv.ServerAddress(c.base.Hostname()), semconv.ServerPort(port(c.base)))
	if n > 1 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(n-1))
	}
	return c.options.Tracer.Start(ctx, r.method+" "+r.template,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
}

// endSpan says how a request ended: by names of ours and numbers, nothing else.
func endSpan(span trace.Span, a Attempt) {
	if span == nil {
		return
	}
	if a.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(a.Status))
	}
	if a.Failure != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(a.Failure))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// tell adds the trace to a request. What else the caller's own telemetry carries,
// `tracestate`, is not the upstream's.
func tell(ctx context.Context, h http.Header) {
	present := trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{})
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(ctx, present), propagation.HeaderCarrier(h))
}

func port(u url.URL) int {
	known := map[string]string{"http": "80", "https": "443"}
	n, _ := strconv.Atoi(cmp.Or(u.Port(), known[u.Scheme]))
	return n
}

// Endpoint is the upstream's host and port.
func (c *Client) Endpoint() (address string, portNumber int) { return c.base.Hostname(), port(c.base) }
