package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
)

// Error is a call that failed.
type Error struct {
	// Code is gRPC's.
	Code codes.Code
	// Reason is the service's; unspecified if the service did not say it, but the
	// connection or a proxy did, or if this version does not know it: see ReasonName.
	Reason     teamtokenv1.ErrorReason
	ReasonName string
	// Outcome says whether anything was changed, of a call that changes something. Where
	// the service did not say it, it is unknown.
	Outcome teamtokenv1.Outcome
	// Message says what happened, and what to do.
	Message string
	// RetryAfter is how long to wait before another call; 0 says nothing.
	RetryAfter time.Duration
	// XRequestID is the x-request-id of the call, by which it is found in the service's logs.
	// It is not the request_id of a request.
	XRequestID string
	// Violations are what is wrong with the request, by field.
	Violations []Violation

	status *status.Status
}

// Violation is a field of a request that is wrong, and how.
type Violation struct{ Field, Description string }

// Error says what happened, without any secret.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "teamtoken: %s", e.Message)
	for _, v := range e.Violations {
		fmt.Fprintf(&b, " %s: %s.", v.Field, v.Description)
	}
	fmt.Fprintf(&b, " [%v", e.Code)
	for _, word := range []string{e.ReasonName, outcomeName(e.Outcome), e.XRequestID} {
		if word != "" {
			b.WriteString(" " + word)
		}
	}
	return b.String() + "]"
}

// GRPCStatus is the status as it came.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Unwrap has errors.Is find the context's own error, if the call was cancelled or its time is over.
func (e *Error) Unwrap() error {
	switch e.Code {
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func outcomeName(o teamtokenv1.Outcome) string {
	if o == teamtokenv1.Outcome_OUTCOME_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}

// newError is the *Error of a call, or nil.
func newError(err error, changes bool) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	d := apierror.FromStatus(st)
	e := &Error{
		Code: st.Code(), ReasonName: d.Reason, Message: st.Message(), RetryAfter: d.RetryAfter, XRequestID: d.RequestID, status: st,
		Reason:  teamtokenv1.ErrorReason(teamtokenv1.ErrorReason_value["ERROR_REASON_"+d.Reason]),
		Outcome: teamtokenv1.Outcome(teamtokenv1.Outcome_value["OUTCOME_"+strings.ToUpper(d.Outcome)]),
	}
	if changes && e.Outcome == teamtokenv1.Outcome_OUTCOME_UNSPECIFIED {
		e.Outcome = teamtokenv1.Outcome_OUTCOME_UNKNOWN
	}
	for _, v := range d.Violations {
		e.Violations = append(e.Violations, Violation{v.GetField(), v.GetDescription()})
	}
	return e
}
