package service

import (
	"context"
	"errors"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// callKind is what a failure's meaning depends on: whether the call changes
// something, so that its errors have an outcome, and what a 404 says is missing.
type callKind struct {
	mutates bool
	missing teamtokenv1.ErrorReason
}

var (
	readTeam         = callKind{false, teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN}
	changeTeam       = callKind{true, teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN}
	readToken        = callKind{false, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_NOT_FOUND_OR_FORBIDDEN}
	changeToken      = callKind{true, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_NOT_FOUND_OR_FORBIDDEN}
	readOrganization = callKind{false, teamtokenv1.ErrorReason_ERROR_REASON_ORGANIZATION_NOT_FOUND_OR_FORBIDDEN}
)

func (k callKind) outcome(o reason.Outcome) reason.Outcome {
	if !k.mutates {
		return ""
	}
	return o
}

// notFound is the failure of a call whose subject is missing.
func (k callKind) notFound(cause error) error {
	return &reason.Error{Reason: k.missing, Outcome: k.outcome(reason.NotApplied), Cause: cause}
}

type meaning struct {
	reason  teamtokenv1.ErrorReason
	outcome reason.Outcome
}

// meanings is what each kind of upstream failure means to the caller. What a
// NotFound means is the callKind's, and an Unauthorized depends on whose
// credential it was.
var meanings = map[upstream.Kind]meaning{
	upstream.Unreachable:      {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE, reason.NotApplied},
	upstream.RateLimited:      {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED, reason.NotApplied},
	upstream.Throttled:        {teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED, reason.NotApplied},
	upstream.Exhausted:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_BUDGET_EXHAUSTED, reason.NotApplied},
	upstream.Unauthorized:     {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CREDENTIAL_REJECTED, reason.NotApplied},
	upstream.Forbidden:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FORBIDDEN, reason.NotApplied},
	upstream.Conflict:         {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CONFLICT, reason.NotApplied},
	upstream.Rejected:         {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REJECTED, reason.NotApplied},
	upstream.DescriptionTaken: {teamtokenv1.ErrorReason_ERROR_REASON_DESCRIPTION_TAKEN, reason.NotApplied},
	upstream.Unavailable:      {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FEATURE_UNAVAILABLE, reason.NotApplied},
	upstream.Redirected:       {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REDIRECT_REFUSED, reason.NotApplied},
	upstream.Timeout:          {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, reason.Unknown},
	upstream.Lost:             {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, reason.Unknown},
	upstream.ResponseInvalid:  {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RESPONSE_INVALID, reason.AppliedUndelivered},
}

// translate turns an upstream failure into what the caller is told.
func translate(ctx context.Context, err error, k callKind) error {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: k.outcome(reason.Unknown), Cause: err,
		}
	}
	if e.Kind == upstream.NotFound {
		return k.notFound(err)
	}
	m := meanings[e.Kind]
	if _, callers := upstream.CredentialFrom(ctx); callers && e.Kind == upstream.Unauthorized {
		m.reason = teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TOKEN_INVALID
	}
	return &reason.Error{Reason: m.reason, Outcome: k.outcome(m.outcome), RetryAfter: e.Wait, Cause: err}
}

// unsent is the failure of a read that a change began with: whatever became of
// the read, the change was not sent.
func unsent(err error) error {
	var e *reason.Error
	if !errors.As(err, &e) || e.Outcome == reason.NotApplied {
		return err
	}
	return &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE, Outcome: reason.NotApplied, Cause: err,
	}
}

// isAnswer reports whether the upstream said no, and will say so again.
func isAnswer(err error) bool {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Kind {
	case upstream.Forbidden, upstream.NotFound, upstream.Rejected, upstream.Unavailable, upstream.Redirected:
		return true
	default:
		return false
	}
}

func isNotFound(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && e.Kind == upstream.NotFound
}
