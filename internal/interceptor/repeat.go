package interceptor

import (
	"context"
	"strconv"

	"google.golang.org/grpc/metadata"
)

// Who sends a call again by itself says so: Envoy, and so Istio, in the first of
// these, which counts from 1; gRPC's libraries in the second, which counts those
// before. A caller that sets them itself keeps nobody but itself from anything.
const (
	envoyAttemptHeader         = "x-envoy-attempt-count"
	grpcPreviousAttemptsHeader = "grpc-previous-rpc-attempts"
)

// noEnvoyRetry keeps those who send calls again by themselves from it, where the next attempt
// would be refused. An error is sent without headers, which leaves gRPC's libraries and
// Envoy free to repeat the call; once they have seen any they are not. This header has
// Envoy keep from it over REST as well; its name is Envoy's choice.
var noEnvoyRetry = metadata.Pairs("x-envoy-ratelimited", "true")

// isIdempotent reports whether a request can be sent twice and be carried out once:
// since it has a request id, names the token that it replaces, or deletes one by
// its own id.
func isIdempotent(req any) bool {
	if r, ok := req.(interface{ GetRequestId() string }); ok && r.GetRequestId() != "" {
		return true
	}
	if r, ok := req.(interface{ GetExpectedTokenId() string }); ok && r.GetExpectedTokenId() != "" {
		return true
	}
	_, ok := req.(interface{ GetTokenId() string })
	return ok
}

// isProxyRetry reports whether a call was sent before. What is no number says nothing.
func isProxyRetry(ctx context.Context) bool {
	return headerExceeds(ctx, envoyAttemptHeader, 1) || headerExceeds(ctx, grpcPreviousAttemptsHeader, 0)
}

func headerExceeds(ctx context.Context, header string, limit uint64) bool {
	for _, value := range metadata.ValueFromIncomingContext(ctx, header) {
		if n, err := strconv.ParseUint(value, 10, 32); err == nil && n > limit {
			return true
		}
	}
	return false
}
