package gateway

import (
	"regexp"
	"strings"

	"github.com/teamtoken/teamtoken/internal/requestid"
)

// idempotencyKey is the REST name of GenerateTokenRequest's request_id.
const idempotencyKey = "Idempotency-Key"

// timeout is what gRPC allows as grpc-timeout, but for zero, which grpc-gateway
// takes for none at all.
var timeout = regexp.MustCompile(`^[1-9][0-9]{0,7}[HMSmun]$`)

// incomingHeader names the headers that reach the service as metadata: the request
// id, the trace, and whether a proxy has sent the request before. Authorization does besides, whatever stands here, and so do X-Forwarded-For
// and X-Forwarded-Host, which nothing reads; Grpc-Timeout is the call's deadline.
func incomingHeader(name string) (string, bool) {
	switch name {
	case "X-Request-Id":
		return requestid.Header, true
	case "Traceparent", "Tracestate", "X-Envoy-Attempt-Count":
		return strings.ToLower(name), true
	default:
		return "", false
	}
}

// dropHeader lets no metadata out: what an answer needs, this package sets.
func dropHeader(string) (string, bool) { return "", false }
