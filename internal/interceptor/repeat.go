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
	attemptHeader  = "x-envoy-attempt-count"
	previousHeader = "grpc-previous-rpc-attempts"
)

// final keeps those who send calls again by themselves from it, where the next attempt
// would be refused. An error is sent without headers, which leaves gRPC's libraries and
// Envoy free to repeat the call; once they have seen any they are not. This header has
// Envoy keep from it over REST as well; its name is Envoy's choice.
var final = metadata.Pairs("x-envoy-ratelimited", "true")

// repeatable reports whether a request can be sent twice and be carried out once:
// since it has a request id, names the token that it replaces, or deletes one by
// its own id.
func repeatable(req any) bool {
	if r, ok := req.(interface{ GetRequestId() string }); ok && r.GetRequestId() != "" {
		return true
	}
	if r, ok := req.(interface{ GetExpectedTokenId() string }); ok && r.GetExpectedTokenId() != "" {
		return true
	}
	_, ok := req.(interface{ GetTokenId() string })
	return ok
}

// repeated reports whether a call was sent before. What is no number says nothing.
func repeated(ctx context.Context) bool {
	return over(ctx, attemptHeader, 1) || over(ctx, previousHeader, 0)
}

func over(ctx context.Context, header string, limit uint64) bool {
	for _, value := range metadata.ValueFromIncomingContext(ctx, header) {
		if n, err := strconv.ParseUint(value, 10, 32); err == nil && n > limit {
			return true
		}
	}
	return false
}
