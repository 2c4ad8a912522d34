package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// records remember calls that came with a `request_id`. The zero value is ready.
type records struct {
	mu    sync.Mutex
	calls map[recordKey]*record
}

// recordKey holds the caller, so that nobody is given another's answer.
type recordKey struct {
	caller     string
	credential [sha256.Size]byte // of the caller's own; zero where callers bring none
	message    protoreflect.FullName
	requestID  string
}

type record struct {
	request [sha256.Size]byte // of the message, which may be long and is only compared
	ended   chan struct{}     // closed when what follows is set
	issued  issued
	err     error
}

// issued is a new token, and its secret.
type issued struct {
	token  upstream.Token
	secret secret.Text
}

// recordLife is how long after its end a call is remembered.
const recordLife = 10 * time.Minute

// issueRequest asks for a token that is made once for each request id.
type issueRequest interface {
	proto.Message
	GetRequestId() string
}

// once runs issue, unless req was made before under the same `request_id`: then
// it waits for that call's answer and gives it again, if current still finds
// that token. An error that changed nothing is not remembered, so that the call
// can be made again; one that may have is, so that it can't.
func (s *Service) once(
	ctx context.Context, req issueRequest,
	current func(tokenID string) (upstream.Token, error), issue func() (issued, error),
) (issued, error) {
	if req.GetRequestId() == "" {
		return issue()
	}
	key := recordKey{
		caller: caller.FromContext(ctx).ID, message: req.ProtoReflect().Descriptor().FullName(), requestID: req.GetRequestId(),
	}
	if credential, ok := upstream.CredentialFrom(ctx); ok {
		key.credential = sha256.Sum256([]byte(credential.Reveal()))
	}
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil { // only of a message with invalid UTF-8, which none is that was decoded
		return issued{}, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: reason.NotApplied, Cause: err,
		}
	}
	request := sha256.Sum256(message)
	r, first := s.records.begin(key, request)
	if first {
		// A panic leaves the outcome unknown, and those who wait are told.
		r.err = &reason.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: reason.Unknown}
		defer s.records.end(key, r)
		r.issued, r.err = issue()
		return r.issued, r.err
	}
	if r.request != request {
		return issued{}, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED, Outcome: reason.NotApplied,
		}
	}
	ranBefore, err := r.wait(ctx)
	if err != nil {
		return issued{}, err
	}
	if !ranBefore {
		return r.issued, nil
	}
	id := r.issued.token.ID
	token, err := current(id)
	switch {
	case isNotFound(err), err == nil && token.ID != id:
		return issued{}, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED, Outcome: reason.AppliedUndelivered, Cause: err,
		}
	case err != nil:
		// The first call was carried out, whatever hides its token now: neither
		// UNAVAILABLE nor `not_applied` may be said of it.
		return issued{}, &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
			Outcome: reason.AppliedUndelivered, Cause: err,
		}
	}
	return r.issued, nil
}

// wait waits for the call's end, reports whether that had come before, and
// returns the error that the call ended with.
func (r *record) wait(ctx context.Context) (ranBefore bool, err error) {
	select {
	case <-r.ended:
		return true, r.err
	default:
	}
	select {
	case <-r.ended:
		return false, r.err
	case <-ctx.Done():
		return false, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: reason.Unknown, Cause: ctx.Err(),
		}
	}
}

// begin returns the record of key, and whether the caller of begin is the first
// and must end it.
func (r *records) begin(key recordKey, request [sha256.Size]byte) (_ *record, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.calls[key]; known != nil {
		return known, false
	}
	if r.calls == nil {
		r.calls = make(map[recordKey]*record)
	}
	made := &record{request: request, ended: make(chan struct{})}
	r.calls[key] = made
	return made, true
}

func (r *records) end(key recordKey, ended *record) {
	close(ended.ended)
	var e *reason.Error
	if errors.As(ended.err, &e) && e.Outcome == reason.NotApplied {
		r.forget(key)
		return
	}
	time.AfterFunc(recordLife, func() { r.forget(key) })
}

func (r *records) forget(key recordKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.calls, key)
}
