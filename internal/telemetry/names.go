// Package telemetry makes the logger and the metrics, and names every key and
// metric once.
package telemetry

// Keys of log lines.
const (
	KeyRequestID = "request_id"
	KeyMethod    = "method"
	KeySurface   = "surface"
	KeyCaller    = "caller"
	KeyCode      = "code"
	KeyReason    = "reason"
	KeyOutcome   = "outcome"
	KeyDuration  = "duration_seconds" // as in the metrics; slog writes a Duration to JSON as bare nanoseconds
	KeyError     = "error"
	KeySubject   = "subject" // the id of the team or token that a call is about
	KeySetting   = "setting"
	KeyStatus    = "status"
	KeyRate      = "per_second"
)

// Metrics, as Prometheus sees them. No label holds a team, a caller or a token.
const (
	// MetricRPC is a histogram of seconds by `method` and `code`.
	MetricRPC = "teamtoken_rpc_duration_seconds"
	// MetricUpstream is a histogram of seconds by `operation` and `result`.
	MetricUpstream = "teamtoken_upstream_request_duration_seconds"
	// MetricReloads counts by `setting` and `result`, which is ok or failed.
	MetricReloads = "teamtoken_reloads_total"
	// MetricAudit is 1 while the audit log can be written, and 0 while it can't.
	MetricAudit = "teamtoken_audit_working"
	// MetricRefused counts connections over the limit.
	MetricRefused = "teamtoken_connections_refused_total"
	// MetricBuild is 1, by `version` and `go`.
	MetricBuild = "teamtoken_build_info"
)
