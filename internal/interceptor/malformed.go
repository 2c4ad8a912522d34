package interceptor

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec wraps
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

type receivedKey struct{}

// received is what became of a call's message before the interceptors ran.
type received struct {
	malformed bool  // the message is not a protobuf message of its type
	err       error // grpc-go could not read the message, and has told the client so, or had no time to
}

// receivedFrom returns what became of the message of ctx's call. A call that
// did not come through WrapServiceDesc has its message.
func receivedFrom(ctx context.Context) received {
	if r, _ := ctx.Value(receivedKey{}).(*received); r != nil {
		return *r
	}
	return received{}
}

// WrapServiceDesc returns a copy of desc whose calls come through the chain even when
// their message cannot be read or decoded, on a server that has Codec. As
// generated, such a call never gets there: grpc-go answers it by itself, and
// nobody asks who calls, logs it or writes it to the audit.
//
// One call does not come through: that of a client which cancels it, or whose
// connection ends, before its message has arrived. The server refuses nothing there.
func WrapServiceDesc(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
				got := new(received)
				return m.Handler(srv, context.WithValue(ctx, receivedKey{}, got), func(v any) error {
					tolerant := tolerant{into: v}
					err := decode(&tolerant)
					if code := status.Code(err); code == codes.Canceled || code == codes.DeadlineExceeded {
						if end, ok := ctx.Deadline(); !ok || time.Now().Before(end) {
							return err
						}
						err = context.DeadlineExceeded // grpc-go resets the stream then, and calls that canceled
					}
					if errors.Is(err, io.ErrUnexpectedEOF) { // as grpc-go has told it
						err = status.Error(codes.Internal, err.Error())
					}
					got.err, got.malformed = err, tolerant.failed
					return nil
				}, chain)
			},
		}
	}
	desc.Methods = methods
	return &desc
}

// Codec is protobuf's, but for messages that WrapServiceDesc has wrapped, of which a
// malformed one is no error: grpc-go would turn that into INTERNAL at once.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

// tolerant is a message that may turn out to be malformed.
type tolerant struct {
	into   any
	failed bool
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if l, ok := v.(*tolerant); ok {
		l.failed = c.CodecV2.Unmarshal(data, l.into) != nil
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
