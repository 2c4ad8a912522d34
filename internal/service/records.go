package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// issueRequest asks for a token that is made once for each request id.
type issueRequest interface {
	proto.Message
	GetTeamId() string
	GetRequestId() string
}

// recordOf is the key of a request's record, and a hash of what it asks for; both
// are empty of one without a request id. The key is the caller's and the method's,
// so that nobody is given another's answer.
//
// owner is whose record it is, for there may be so many of one caller.
func recordOf(ctx context.Context, req issueRequest) (key, owner, params string, err error) {
	if req.GetRequestId() == "" {
		return "", "", "", nil
	}
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil { // only of a message with invalid UTF-8, which none is that was decoded
		return "", "", "", &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: reason.NotApplied, Cause: err,
		}
	}
	parts := []string{caller.FromContext(ctx).ID, "", string(req.ProtoReflect().Descriptor().FullName()), req.GetRequestId()}
	if credential, ok := upstream.CredentialFrom(ctx); ok {
		parts[1] = digest(credential.Reveal())
	}
	return digest(strings.Join(parts, "\x00")), digest(strings.Join(parts[:2], "\x00")), digest(string(message)), nil
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// issue makes a token, once for each request id of a caller.
func (s *Service) issue(ctx context.Context, req issueRequest, c state.Operation, d deed) (issued, error) {
	key, owner, params, err := recordOf(ctx, req)
	if err != nil {
		return issued{}, err
	}
	c.IdempotencyKey, c.Caller = key, owner
	if key == "" {
		return s.change(ctx, c, params, d)
	}
	for {
		r, first := s.running.begin(key + params)
		if first {
			// A panic leaves the outcome unknown, and those who wait are told.
			r.err = &reason.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: reason.Unknown}
			defer s.running.end(key+params, r)
			r.issued, r.err = s.change(ctx, c, params, d)
			r.left = ctx.Err() != nil
			return r.issued, r.err
		}
		select {
		case <-r.ended:
		case <-ctx.Done():
			return issued{}, s.tooLate(ctx, nil, true, false)
		}
		if r.err == nil || !r.left || outcomeOf(r.err) != reason.NotApplied {
			s.options.Replayed(ctx, replayKind(r.err, true))
			return r.issued, r.err
		} // the first one had no time to wait for the turn, and this one has
	}
}

// running are the calls with a request id that run in this process. The zero value
// is ready.
type running struct {
	mu    sync.Mutex
	calls map[string]*run
}

type run struct {
	ended  chan struct{} // closed when what follows is set
	issued issued
	err    error
	left   bool // its caller did, before it ended
}

// begin returns the run of a key, and whether the caller of begin is the first and
// must end it.
func (r *running) begin(key string) (_ *run, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.calls[key]; known != nil {
		return known, false
	}
	if r.calls == nil {
		r.calls = make(map[string]*run)
	}
	made := &run{ended: make(chan struct{})}
	r.calls[key] = made
	return made, true
}

func (r *running) end(key string, ended *run) {
	r.mu.Lock()
	delete(r.calls, key)
	r.mu.Unlock()
	close(ended.ended)
}

// purpose is what an answer is sealed for: one caller's request, with all that it
// asks for.
func purpose(c state.Operation, params string) string {
	return c.Method + "\x00" + c.Team + "\x00" + c.IdempotencyKey + "\x00" + params
}

// sealed is an answer as it is kept. What can't be sealed is not kept.
func (s *Service) sealed(ctx context.Context, c state.Operation, params string, made issued) []byte {
	message, err := proto.Marshal(&teamtokenv1.GenerateTokenResponse{TeamToken: toProto(made.token), Secret: made.secret.Reveal()})
	var sealed []byte
	if err == nil {
		sealed, err = s.options.Keys().Seal(secret.New(string(message)), purpose(c, params))
	}
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "an answer can't be sealed: it will not be given again", slog.Any(telemetry.KeyError, err))
	}
	return sealed
}

// replay gives the answer of an earlier call again, if its token is still the one
// that it was. Who joined that call need not look: he waited for it.
func (s *Service) replay(
	ctx context.Context, c state.Operation, params string, r state.Response, d deed, joined bool,
) (issued, error) {
	made, err := s.replayed(ctx, c, params, r, d, joined)
	s.options.Replayed(ctx, replayKind(err, joined))
	return made, err
}

// replayKind is a name for how a replay went.
func replayKind(err error, joined bool) string {
	switch {
	case isReason(err, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED):
		return "superseded"
	case isReason(err, teamtokenv1.ErrorReason_ERROR_REASON_ANSWER_EXPIRED):
		return "expired"
	case err != nil:
		return "failed"
	case joined:
		return "joined"
	default:
		return "answered"
	}
}

func (s *Service) replayed(
	ctx context.Context, c state.Operation, params string, r state.Response, d deed, joined bool,
) (issued, error) {
	if r.Failure != "" {
		return issued{}, failureOf(r)
	}
	if len(r.Sealed) == 0 {
		return issued{}, expired(nil)
	}
	message, err := s.options.Keys().Open(r.Sealed, purpose(c, params))
	if err != nil {
		s.options.Rejected(ctx, state.SealedAnswer, c.Team, err)
		return issued{}, expired(err)
	}
	var kept teamtokenv1.GenerateTokenResponse
	if err := proto.Unmarshal([]byte(message.Reveal()), &kept); err != nil || kept.GetTeamToken().GetId() != r.TokenID {
		s.options.Rejected(ctx, state.SealedAnswer, c.Team, errUnreadable)
		return issued{}, expired(errUnreadable)
	}
	made := issued{fromProto(kept.GetTeamToken()), secret.New(kept.GetSecret())}
	if joined {
		return made, nil
	}
	token, err := s.present(ctx, c, made.token.ID, d)
	switch {
	case isNotFound(err), err == nil && token.ID != made.token.ID:
		return issued{}, superseded(err)
	case err != nil:
		// The first call was carried out, whatever hides its token now: neither
		// UNAVAILABLE nor `not_applied` may be said of it.
		return issued{}, &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN,
			Outcome: reason.AppliedUndelivered, Cause: err,
		}
	}
	return made, nil
}

// present is the token that must be there for an answer still to be true.
func (s *Service) present(ctx context.Context, c state.Operation, token string, d deed) (upstream.Token, error) {
	if d.traits().orphans {
		id, err := upstream.ParseTokenID(token)
		if err != nil {
			return upstream.Token{}, err
		}
		return s.upstream.ReadTokenByID(ctx, id)
	}
	team, err := upstream.ParseTeamID(c.Team)
	if err != nil {
		return upstream.Token{}, err
	}
	return s.upstream.ReadToken(ctx, team)
}

func expired(cause error) error {
	return &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_ANSWER_EXPIRED, Outcome: reason.AppliedUndelivered, Cause: cause,
	}
}

var errUnreadable = errors.New("an answer that was kept can't be read")

// failed is a failure as a record keeps it.
func failed(err error) state.Response {
	var e *reason.Error
	if !errors.As(err, &e) {
		return state.Response{}
	}
	return state.Response{Failure: e.Reason.String() + " " + string(e.Outcome)}
}

func failureOf(r state.Response) error {
	name, outcome, _ := strings.Cut(r.Failure, " ")
	return &reason.Error{
		Reason:  teamtokenv1.ErrorReason(teamtokenv1.ErrorReason_value[name]),
		Outcome: reason.Outcome(outcome),
	}
}
