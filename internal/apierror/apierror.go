// Package apierror is the one table of what can go wrong on a call: the status
// code, the HTTP status and the sentence that belong to each reason, and the
// error that carries one to the caller.
//
// What a caller reads is constant for each reason. The cause stays inside, for
// the log: it may hold an upstream's words, which may hold anything.
package apierror

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// domain is the ErrorInfo domain of every error.
const domain = "teamtoken.v1"

// outcomeKey is the metadata key that the outcome stands under.
const outcomeKey = "outcome"

// Outcome says whether anything was changed upstream. It is empty for a call
// that only reads.
type Outcome string

// The outcomes, as callers read them.
const (
	NotApplied         Outcome = "not_applied"
	AppliedUndelivered Outcome = "applied_undelivered"
	Unknown            Outcome = "unknown"
	Applied            Outcome = "applied" // of no error: the audit has it
)

type spec struct {
	code codes.Code
	http int
	text string
}

// specs holds every reason but the unspecified one.
var specs = map[teamtokenv1.ErrorReason]spec{
	teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD: {
		codes.InvalidArgument, http.StatusBadRequest,
		"A field of the request is missing or malformed. Nothing was changed. Correct it and call again.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_CALLER_UNAUTHENTICATED: {
		codes.Unauthenticated, http.StatusUnauthorized,
		"The call does not say in a way that can be believed who makes it. Nothing was changed. Call with an identity or a credential that this service takes.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_CALLER_ISSUER_UNAVAILABLE: {
		codes.Unavailable, http.StatusServiceUnavailable,
		"This service could not fetch the keys of the JWT issuer yet, so it cannot verify the caller's JWT. Nothing was changed. Retry later, with the same JWT.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_UNREACHABLE: {
		codes.Unavailable, http.StatusServiceUnavailable,
		"The upstream could not be reached. Nothing was changed. Retry later.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED: {
		codes.ResourceExhausted, http.StatusTooManyRequests,
		"The upstream's rate limit is used up. Nothing was changed. Retry after the time given.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CREDENTIAL_REJECTED: {
		codes.Internal, http.StatusInternalServerError,
		"The upstream does not accept this service's credential. Nothing was changed. Tell its operators.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TOKEN_INVALID: {
		codes.Unauthenticated, http.StatusUnauthorized,
		"The upstream does not accept the caller's token. Nothing was changed. Use a valid one.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FORBIDDEN: {
		codes.PermissionDenied, http.StatusForbidden,
		"The upstream does not allow this. Nothing was changed.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN: {
		codes.NotFound, http.StatusNotFound,
		"There is no such team, it has no token, or the credential may not see it. Nothing was changed.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_CONFLICT: {
		codes.Aborted, http.StatusConflict,
		"The upstream reports a conflict with another change. Nothing was changed by this call. Look, then retry.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REJECTED: {
		codes.InvalidArgument, http.StatusUnprocessableEntity,
		"The upstream refused what was asked for. Nothing was changed. Check the expiry against what the organization allows.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_REDIRECT_REFUSED: {
		codes.Internal, http.StatusInternalServerError,
		"The upstream answered with a redirect, which is never followed. Nothing was changed. Tell the service's operators to check TFE_ADDRESS.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN: {
		codes.Unknown, http.StatusInternalServerError,
		"The request was sent and no usable answer came back. It may have been carried out. Look at the team's token before you repeat it.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT: {
		codes.DeadlineExceeded, http.StatusGatewayTimeout,
		"Time ran out before the upstream answered. A change that was asked for may still be carried out. Look before you repeat it.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_RESPONSE_INVALID: {
		codes.Internal, http.StatusInternalServerError,
		"The upstream answered OK with a document that cannot be used. A token that was asked for was made, and its secret is lost: make another, under a new request id.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_CHANGED: {
		codes.Aborted, http.StatusConflict,
		"The team's present token is not the expected one. Nothing was changed. Read it again.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_TEAM_BUSY: {
		codes.Aborted, http.StatusConflict,
		"Another change of the team is under way, or it is not known yet what became of one. Nothing was changed by this call. Retry after the time given.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED: {
		codes.Aborted, http.StatusConflict,
		"The token that this request id gave has been replaced or deleted since. Use a new request id to generate another.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED: {
		codes.InvalidArgument, http.StatusUnprocessableEntity,
		"Another call with other parameters had this request id. Nothing was changed. Use a new request id.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_SHUTTING_DOWN: {
		codes.Unavailable, http.StatusServiceUnavailable,
		"This replica is stopping. Nothing was changed. Retry: another one will answer.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_NOT_FOUND_OR_FORBIDDEN: {
		codes.NotFound, http.StatusNotFound,
		"There is no such token, it is not a team's, the credential may not see it, or the upstream has no tokens by id. Nothing was changed.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_ORGANIZATION_NOT_FOUND_OR_FORBIDDEN: {
		codes.NotFound, http.StatusNotFound,
		"There is no such organization, the credential may not see it, or the upstream has no lists of team tokens.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_DESCRIPTION_TAKEN: {
		codes.AlreadyExists, http.StatusUnprocessableEntity,
		"Validation failed: Description has already been taken",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_FEATURE_UNAVAILABLE: {
		codes.Unimplemented, http.StatusNotImplemented,
		"The upstream does not have this part of the API. Nothing was changed. Use a newer one, or a token without a description.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_CALLER_NOT_ALLOWED: {
		codes.PermissionDenied, http.StatusForbidden,
		"The service's policy does not allow this caller to do this. Nothing was changed. Ask its operators.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED: {
		codes.ResourceExhausted, http.StatusTooManyRequests,
		"The caller has too many calls under way, or its own calls use up its share of the upstream's rate limit. Nothing was changed. Retry after the time given, with fewer calls at a time.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_BUDGET_EXHAUSTED: {
		codes.ResourceExhausted, http.StatusTooManyRequests,
		"The callers of this service together use up the upstream's rate limit. Nothing was changed. Retry after the time given, or with a longer deadline.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE: {
		codes.Unavailable, http.StatusServiceUnavailable,
		"The call could not be written to the audit log, so it was not made. Nothing was changed. Retry: another replica may be able to.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_STATE_STORE_UNAVAILABLE: {
		codes.Unavailable, http.StatusServiceUnavailable,
		"What the replicas of this service share can't be reached, so the change was not made. Retry later; calls that only read work.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_RETRY_WITHOUT_REQUEST_ID: {
		codes.FailedPrecondition, http.StatusPreconditionRequired,
		"A proxy or library repeated this call, which has neither a request id nor an expected token id. This attempt changed nothing; an earlier one may have. Look at the team's token before you call again.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_ANSWER_EXPIRED: {
		codes.Aborted, http.StatusConflict,
		"The call with this request id was carried out, longer ago than its answer is kept. Use a new request id to generate another.",
	},
	teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL: {
		codes.Internal, http.StatusInternalServerError,
		"The service failed. A change that was asked for may have been carried out. Look before you repeat it, and give its operators the request id.",
	},
}

// byName finds a row by what ErrorInfo calls it.
var byName = func() map[string]spec {
	m := make(map[string]spec, len(specs))
	for r, row := range specs {
		m[Name(r)] = row
	}
	return m
}()

// Name is the reason as ErrorInfo carries it: the enum's name without prefix.
func Name(r teamtokenv1.ErrorReason) string {
	return strings.TrimPrefix(r.String(), "ERROR_REASON_")
}

// Violation is one field of the request that is wrong, and how.
type Violation struct{ Field, Description string }

// Error is a failed call, as its caller is told and, in Cause, as it was.
type Error struct {
	Reason     teamtokenv1.ErrorReason
	Outcome    Outcome
	RetryAfter time.Duration // how long to wait before a retry; 0 says nothing
	Message    string        // what the caller reads; empty for the reason's own text
	Violations []Violation
	Cause      error // for the log, never for the caller
}

// Error is what a log may show.
func (e *Error) Error() string {
	s := Name(e.Reason)
	if e.Outcome != "" {
		s += " (" + string(e.Outcome) + ")"
	}
	if e.Cause != nil {
		s = fmt.Sprintf("%s: %v", s, e.Cause)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// GRPCStatus is what the caller is told.
func (e *Error) GRPCStatus() *status.Status {
	r, ok := specs[e.Reason]
	if !ok {
		r = specs[teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL]
	}
	if e.Message != "" {
		r.text = e.Message
	}
	info := &errdetails.ErrorInfo{Domain: domain, Reason: Name(e.Reason)}
	if e.Outcome != "" {
		info.Metadata = map[string]string{outcomeKey: string(e.Outcome)}
	}
	details := []protoadapt.MessageV1{info}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, bad)
	}
	st, err := status.New(r.code, r.text).WithDetails(details...)
	if err != nil { // only for messages that do not marshal, and these do
		return status.New(r.code, r.text)
	}
	return st
}

// Panic is the error of a call that panicked with p. Only what the runtime says
// is kept of p, and its type otherwise: it may hold anything.
func Panic(p any, outcome Outcome) *Error {
	cause := fmt.Errorf("panic of type %T\n%s", p, debug.Stack())
	if e, ok := p.(runtime.Error); ok {
		cause = fmt.Errorf("panic: %w\n%s", e, debug.Stack())
	}
	return &Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL, Outcome: outcome, Cause: cause}
}

// Details are the parts of a status that this package put there, and of a
// status that it did not make, nothing.
type Details struct {
	Reason, Outcome, RequestID string
	RetryAfter                 time.Duration
	Violations                 []*errdetails.BadRequest_FieldViolation
}

// FromStatus takes a status apart.
func FromStatus(st *status.Status) Details {
	var d Details
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			d.Reason, d.Outcome = detail.GetReason(), detail.GetMetadata()[outcomeKey]
		case *errdetails.RetryInfo:
			d.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			d.RequestID = detail.GetRequestId()
		case *errdetails.BadRequest:
			d.Violations = detail.GetFieldViolations()
		}
	}
	return d
}

// Describe is what the records of a call say of how it ended: of one without an error, that its
// outcome is good.
func Describe(err error, good Outcome) (codes.Code, Details) {
	if err == nil {
		return codes.OK, Details{Outcome: string(good)}
	}
	st := status.Convert(err)
	return st.Code(), FromStatus(st)
}

// HTTPStatus is the HTTP status of a reason, by its name in ErrorInfo. ok is
// false for a name that is none of ours.
func HTTPStatus(name string) (code int, ok bool) {
	r, ok := byName[name]
	return r.http, ok
}
