package interceptor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec wraps
	"google.golang.org/grpc/mem"
)

type malformedKey struct{}

// malformed reports whether the call's message could not be decoded.
func malformed(ctx context.Context) bool {
	m, _ := ctx.Value(malformedKey{}).(*bool)
	return m != nil && *m
}

// Describe returns a copy of desc whose calls come through the chain even when
// their message cannot be decoded, on a server that has Codec. As generated,
// such a call never gets there: grpc-go answers it by itself, with INTERNAL, and
// nobody asks who calls, logs it or counts it.
func Describe(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
				bad := new(bool)
				return m.Handler(srv, context.WithValue(ctx, malformedKey{}, bad), func(v any) error {
					lenient := lenient{into: v}
					err := decode(&lenient)
					*bad = lenient.failed
					return err
				}, chain)
			},
		}
	}
	desc.Methods = methods
	return &desc
}

// Codec is protobuf's, but for messages that Describe has wrapped, of which a
// malformed one is no error: grpc-go would turn that into INTERNAL at once.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

// lenient is a message that may turn out to be malformed.
type lenient struct {
	into   any
	failed bool
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if l, ok := v.(*lenient); ok {
		l.failed = c.CodecV2.Unmarshal(data, l.into) != nil
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
