// Package outcome says what an answer of the upstream means for the call that it was
// asked for: which error its caller is told, and whether anything was changed.
package outcome

import (
	"context"
	"errors"
	"slices"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Method is what the meaning of an answer depends on: whether the call changes
// something, so that its errors have an outcome, and what a 404 says is missing.
type Method struct {
	Mutates  bool
	notFound teamtokenv1.ErrorReason
}

// The kinds of methods.
var (
	ReadTeam         = Method{false, teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN}
	MutateTeam       = Method{true, teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN}
	ReadToken        = Method{false, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_NOT_FOUND_OR_FORBIDDEN}
	MutateToken      = Method{true, teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_NOT_FOUND_OR_FORBIDDEN}
	ReadOrganization = Method{false, teamtokenv1.ErrorReason_ERROR_REASON_ORGANIZATION_NOT_FOUND_OR_FORBIDDEN}
)

// Outcome is o for a call that changes something, and none for one that reads.
func (m Method) Outcome(o apierror.Outcome) apierror.Outcome {
	if !m.Mutates {
		return ""
	}
	return o
}

// NotFound is the error of a call whose subject is missing.
func (m Method) NotFound(cause error) error {
	return &apierror.Error{Reason: m.notFound, Outcome: m.Outcome(apierror.NotApplied), Cause: cause}
}

type mapping struct {
	reason  teamtokenv1.ErrorReason
	outcome apierror.Outcome
}

// mappings is what each kind of upstream error means to the caller. What a NotFound
// means is the Method's, and an Unauthorized depends on whose credential it was.
var mappings = map[upstream.Kind]mapping{
	upstream.Unreachable:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE, apierror.NotApplied},
	upstream.RateLimited:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED, apierror.NotApplied},
	upstream.LocallyRateLimited: {teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED, apierror.NotApplied},
	upstream.Exhausted:          {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_BUDGET_EXHAUSTED, apierror.NotApplied},
	upstream.Unauthorized:       {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CREDENTIAL_REJECTED, apierror.NotApplied},
	upstream.Forbidden:          {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FORBIDDEN, apierror.NotApplied},
	upstream.Conflict:           {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CONFLICT, apierror.NotApplied},
	upstream.Rejected:           {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REJECTED, apierror.NotApplied},
	upstream.DescriptionTaken:   {teamtokenv1.ErrorReason_ERROR_REASON_DESCRIPTION_TAKEN, apierror.NotApplied},
	upstream.Unsupported:        {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FEATURE_UNAVAILABLE, apierror.NotApplied},
	upstream.Redirected:         {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REDIRECT_REFUSED, apierror.NotApplied},
	upstream.Timeout:            {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, apierror.Unknown},
	upstream.NoResponse:         {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, apierror.Unknown},
	upstream.ResponseInvalid:    {teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RESPONSE_INVALID, apierror.AppliedUndelivered},
}

// Error turns an upstream error into what the caller is told.
func Error(ctx context.Context, err error, m Method) error {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return &apierror.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: m.Outcome(apierror.Unknown), Cause: err,
		}
	}
	if e.Kind == upstream.NotFound {
		return m.NotFound(err)
	}
	to := mappings[e.Kind]
	if e.Kind == upstream.Unauthorized && !calls.From(ctx).Credential.IsZero() {
		to.reason = teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TOKEN_INVALID
	}
	return &apierror.Error{Reason: to.reason, Outcome: m.Outcome(to.outcome), RetryAfter: e.RetryAfter, Cause: err}
}

// NotSent is the error of a read that a change began with: whatever became of the read,
// the change was not sent.
func NotSent(err error) error {
	var e *apierror.Error
	if !errors.As(err, &e) || e.Outcome == apierror.NotApplied {
		return err
	}
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE, Outcome: apierror.NotApplied, Cause: err,
	}
}

// Undelivered is the error of a change that was carried out, and whose result can't be
// delivered.
func Undelivered(cause error) error { return noResult(apierror.AppliedUndelivered, cause) }

// Unknown is the error of a change of which nobody can tell what became.
func Unknown(cause error) error { return noResult(apierror.Unknown, cause) }

func noResult(o apierror.Outcome, cause error) error {
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, Outcome: o, Cause: cause,
	}
}

// Of is the outcome that an error says; unknown if it says none.
func Of(err error) apierror.Outcome {
	var e *apierror.Error
	if errors.As(err, &e) {
		return e.Outcome
	}
	return apierror.Unknown
}

// HasReason reports whether an error has a reason.
func HasReason(err error, r teamtokenv1.ErrorReason) bool {
	var e *apierror.Error
	return errors.As(err, &e) && e.Reason == r
}

// IsNotFound reports whether the upstream said 404.
func IsNotFound(err error) bool { return IsKind(err, upstream.NotFound) }

// IsKind reports whether err is an upstream error of one of the kinds.
func IsKind(err error, kinds ...upstream.Kind) bool {
	var e *upstream.Error
	return errors.As(err, &e) && slices.Contains(kinds, e.Kind)
}
