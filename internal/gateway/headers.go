package gateway

import (
	"context"
	"net/http"
	"regexp"

	"google.golang.org/grpc"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

// idempotencyKey is the REST name of GenerateTokenRequest's request_id.
const idempotencyKey = "Idempotency-Key"

// timeout is what gRPC allows as grpc-timeout.
var timeout = regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`)

// incomingHeader lists the headers that reach the service as metadata.
// Authorization does besides, whatever stands here, and so do X-Forwarded-For
// and X-Forwarded-Host, which nothing reads; Grpc-Timeout is the call's deadline.
func incomingHeader(name string) (string, bool) {
	switch name {
	case "X-Request-Id":
		return requestid.Header, true
	case "Traceparent":
		return "traceparent", true
	case "Tracestate":
		return "tracestate", true
	default:
		return "", false
	}
}

// noHeader lets no metadata out: what an answer needs, this package sets.
func noHeader(string) (string, bool) { return "", false }

type keyContext struct{}

func withKey(r *http.Request) context.Context {
	values := r.Header.Values(idempotencyKey)
	if len(values) == 0 {
		return r.Context()
	}
	return context.WithValue(r.Context(), keyContext{}, values[0])
}

// keyed puts the Idempotency-Key into the message, where the service checks it.
type keyed struct{ grpc.ClientConnInterface }

func (k keyed) Invoke(ctx context.Context, method string, req, resp any, opts ...grpc.CallOption) error {
	if key, ok := ctx.Value(keyContext{}).(string); ok {
		if req, ok := req.(*teamtokenv1.GenerateTokenRequest); ok {
			if key == "" {
				key = "(empty)" // the header was sent, so the id must not be taken for absent
			}
			req.RequestId = key
		}
	}
	return k.ClientConnInterface.Invoke(ctx, method, req, resp, opts...)
}
