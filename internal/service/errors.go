package service

import (
	"context"
	"errors"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// callKind tells calls that change something, whose errors have an outcome, from
// those that only read.
type callKind bool

const (
	read     callKind = false
	mutation callKind = true
)

func (k callKind) outcome(o reason.Outcome) reason.Outcome {
	if k == read {
		return ""
	}
	return o
}

func (k callKind) notApplied() reason.Outcome { return k.outcome(reason.NotApplied) }

type meaning struct {
	reason  teamtokenv1.ErrorReason
	outcome reason.Outcome
}

// meanings is what each kind of upstream failure means to the caller. What an
// Unauthorized means depends on whose credential it was.
var meanings = map[upstream.Kind]meaning{
	upstream.Unreachable:     {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE, reason.NotApplied},
	upstream.RateLimited:     {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED, reason.NotApplied},
	upstream.Unauthorized:    {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CREDENTIAL_REJECTED, reason.NotApplied},
	upstream.Forbidden:       {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FORBIDDEN, reason.NotApplied},
	upstream.NotFound:        {teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN, reason.NotApplied},
	upstream.Conflict:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CONFLICT, reason.NotApplied},
	upstream.Rejected:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REJECTED, reason.NotApplied},
	upstream.Redirected:      {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REDIRECT_REFUSED, reason.NotApplied},
	upstream.Timeout:         {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, reason.Unknown},
	upstream.Lost:            {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, reason.Unknown},
	upstream.ResponseInvalid: {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RESPONSE_INVALID, reason.AppliedUndelivered},
}

// translate turns an upstream failure into what the caller is told.
func translate(ctx context.Context, err error, k callKind) error {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: k.outcome(reason.Unknown), Cause: err,
		}
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

func isNotFound(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && e.Kind == upstream.NotFound
}
