package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/teamtoken/teamtoken/internal/calls"
)

// NewLogger returns a logger of lines of JSON, or of text, to w. A line that is
// logged with a call's context carries the call's request id, and the ids of its
// trace and span if it is traced.
func NewLogger(w io.Writer, level slog.Level, text bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if text {
		return slog.New(correlated{slog.NewTextHandler(w, options)})
	}
	return slog.New(correlated{slog.NewJSONHandler(w, options)})
}

type correlated struct{ slog.Handler }

func (h correlated) Handle(ctx context.Context, r slog.Record) error {
	if id := calls.From(ctx).RequestID; id != "" {
		r.AddAttrs(slog.String(KeyRequestID, id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String(KeyTraceID, span.TraceID().String()), slog.String(KeySpanID, span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h correlated) WithAttrs(attrs []slog.Attr) slog.Handler {
	return correlated{h.Handler.WithAttrs(attrs)}
}

func (h correlated) WithGroup(name string) slog.Handler {
	return correlated{h.Handler.WithGroup(name)}
}
