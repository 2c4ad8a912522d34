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
