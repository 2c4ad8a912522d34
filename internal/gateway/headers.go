package gateway

import (
	"regexp"

	"github.com/teamtoken/teamtoken/internal/requestid"
)

// idempotencyKey is the REST name of GenerateTokenRequest's request_id.
const idempotencyKey = "Idempotency-Key"

// timeout is what gRPC allows as grpc-timeout, but for zero, which grpc-gateway
// takes for none at all.
var timeout = regexp.MustCompile(`^[1-9][0-9]{0,7}[HMSmun]$`)

// incomingHeader names the one header that reaches the service as metadata.
// Authorization does besides, whatever stands here, and so do X-Forwarded-For
// and X-Forwarded-Host, which nothing reads; Grpc-Timeout is the call's deadline.
func incomingHeader(name string) (string, bool) {
	if name == "X-Request-Id" {
		return requestid.Header, true
	}
	return "", false
}

// noHeader lets no metadata out: what an answer needs, this package sets.
func noHeader(string) (string, bool) { return "", false }
