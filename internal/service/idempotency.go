package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/mutation"
)

// idempotentRequest asks for a token that is made once for each request id.
type idempotentRequest interface {
	proto.Message
	GetRequestId() string
}

// idempotencyKey is the key of a request with a request id. It is the caller's and the
// method's, so that nobody is given another's result.
func idempotencyKey(ctx context.Context, req idempotentRequest) (mutation.Key, error) {
	if req.GetRequestId() == "" {
		return mutation.Key{}, nil
	}
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil { // only of a message with invalid UTF-8, which none is that was decoded
		return mutation.Key{}, &apierror.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: apierror.NotApplied, Cause: err,
		}
	}
	call := calls.From(ctx)
	credential := ""
	if !call.Credential.IsZero() {
		credential = digest(call.Credential.Reveal())
	}
	return mutation.Key{
		ID:          digest(call.Caller.ID, credential, string(req.ProtoReflect().Descriptor().FullName()), req.GetRequestId()),
		Owner:       digest(call.Caller.ID, credential),
		Fingerprint: digest(string(message)),
	}, nil
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}
