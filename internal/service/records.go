package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// records remember calls that came with a `request_id`. The zero value is ready.
type records struct {
	mu    sync.Mutex
	calls map[recordKey]*record
}

// recordKey holds the caller, so that nobody is given another's answer.
type recordKey struct {
	caller    [sha256.Size]byte // of the caller's own credential; zero where callers bring none
	requestID string
}

type record struct {
	request  *teamtokenv1.GenerateTokenRequest
	ended    chan struct{} // closed when what follows is set
	response *teamtokenv1.GenerateTokenResponse
	err      error
}

// recordLife is how long after its end a call is remembered.
const recordLife = 10 * time.Minute

// once runs generate, unless req was made before under the same `request_id`:
// then it waits for that call's answer and gives it again, if it still holds.
// An error that changed nothing is not remembered, so that the call can be made
// again; one that may have is, so that it can't.
func (s *Service) once(
	ctx context.Context, req *teamtokenv1.GenerateTokenRequest,
	generate func() (*teamtokenv1.GenerateTokenResponse, error),
) (*teamtokenv1.GenerateTokenResponse, error) {
	if req.GetRequestId() == "" {
		return generate()
	}
	key := recordKey{requestID: req.GetRequestId()}
	if s, ok := upstream.CredentialFrom(ctx); ok {
		key.caller = sha256.Sum256([]byte(s.Reveal()))
	}
	r, first := s.records.begin(key, req)
	if first {
		// A panic leaves the outcome unknown, and those who wait are told.
		r.err = &reason.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: reason.Unknown}
		defer s.records.end(key, r)
		r.response, r.err = generate()
		return r.response, r.err
	}
	if !proto.Equal(r.request, req) {
		return nil, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED, Outcome: reason.NotApplied,
		}
	}
	return s.again(ctx, r)
}

// again gives the answer of an earlier call, or of the one under way.
func (s *Service) again(ctx context.Context, r *record) (*teamtokenv1.GenerateTokenResponse, error) {
	var ran bool
	select {
	case <-r.ended:
		ran = true
	default:
	}
	select {
	case <-r.ended:
	case <-ctx.Done():
		return nil, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: reason.Unknown, Cause: ctx.Err(),
		}
	}
	if r.err != nil || !ran {
		return r.response, r.err
	}
	team, _ := upstream.ParseTeamID(r.request.GetTeamId()) // it was valid
	token, err := s.upstream.ReadToken(ctx, team)
	switch {
	case isNotFound(err), err == nil && token.ID != r.response.GetTeamToken().GetId():
		return nil, &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED, Outcome: reason.AppliedUndelivered, Cause: err,
		}
	case err != nil:
		return nil, unsent(translate(ctx, err, mutation))
	}
	return r.response, nil
}

// begin returns the record of key, and whether the caller of begin is the first
// and must end it.
func (r *records) begin(key recordKey, req *teamtokenv1.GenerateTokenRequest) (_ *record, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.calls[key]; known != nil {
		return known, false
	}
	if r.calls == nil {
		r.calls = make(map[recordKey]*record)
	}
	made := &record{request: req, ended: make(chan struct{})}
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
