package interceptor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type malformedKey struct{}

// malformed reports whether the call's message could not be decoded.
func malformed(ctx context.Context) bool {
	m, _ := ctx.Value(malformedKey{}).(*bool)
	return m != nil && *m
}

// Describe returns a copy of desc whose calls come through the chain even when
// their message cannot be decoded. As generated, such a call never gets there:
// grpc-go answers it by itself, with INTERNAL, and nobody logs or counts it.
func Describe(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
				bad := new(bool)
				return m.Handler(srv, context.WithValue(ctx, malformedKey{}, bad), func(v any) error {
					err := decode(v)
					if status.Code(err) == codes.Internal {
						*bad, err = true, nil
					}
					return err
				}, chain)
			},
		}
	}
	desc.Methods = methods
	return &desc
}
