// Package telemetry makes the logger, the metrics and the traces, and names every
// key and every metric once.
//
// What is exported, and where to, is said by the OpenTelemetry SDK's own variables,
// OTEL_*; /metrics is there in any case. No label of a metric holds a team, a
// caller or a token, and nothing here holds a secret: what is recorded are names
// that this program gives.
package telemetry

// Keys of log lines.
const (
	KeyRequestID = "request_id"
	KeyTraceID   = "trace_id"
	KeySpanID    = "span_id"
	KeyMethod    = "method"
	KeySurface   = "surface"
	KeyCaller    = "caller"
	KeyCode      = "code"
	KeyReason    = "reason"
	KeyOutcome   = "outcome"
	KeyDuration  = "duration_seconds" // slog writes a Duration to JSON as bare nanoseconds
	KeyError     = "error"
	KeySubject   = "subject" // the id of the team or token that a call is about
	KeySetting   = "setting"
	KeyStatus    = "status"
	KeyRate      = "per_second"
	KeyPeer      = "peer"
	KeyLeftOut   = "left_out" // lines that were too many, see NewUnseen
)

// ServiceName is what telemetry calls this service, unless OTEL_SERVICE_NAME does
// otherwise.
const ServiceName = "teamtoken"
