package service

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// violations collects what is wrong with a request, field by field, and gives
// the checked values on the way.
type violations []reason.Violation

func (v *violations) add(field, description string) {
	*v = append(*v, reason.Violation{Field: field, Description: description})
}

func (v *violations) teamID(field, s string) upstream.TeamID {
	id, err := upstream.ParseTeamID(s)
	if err != nil {
		v.add(field, err.Error())
	}
	return id
}

func (v *violations) expectedTokenID(field, s string) {
	if s == "" {
		return
	}
	if _, err := upstream.ParseTokenID(s); err != nil {
		v.add(field, err.Error())
	}
}

func (v *violations) requestID(field, s string) {
	if s != "" && !requestid.Valid(s) {
		v.add(field, "must be 1 to 128 letters, digits and `._:-`")
	}
}

// expiry is zero where none was asked for.
func (v *violations) expiry(field string, t *timestamppb.Timestamp, now time.Time) time.Time {
	switch {
	case t == nil:
		return time.Time{}
	case t.CheckValid() != nil:
		v.add(field, "must be a time between the years 1 and 9999")
	case !t.AsTime().After(now):
		v.add(field, "must be in the future")
	}
	return t.AsTime()
}

// err is nil if there are no violations.
func (v violations) err(k callKind) error {
	if len(v) == 0 {
		return nil
	}
	return &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Outcome: k.notApplied(), Violations: v,
	}
}
