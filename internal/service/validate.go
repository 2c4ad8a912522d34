package service

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// violations collects what is wrong with a request, field by field, and gives
// the checked values on the way.
type violations []apierror.Violation

func (v *violations) add(field, description string) {
	*v = append(*v, apierror.Violation{Field: field, Description: description})
}

func (v *violations) teamID(field, s string) upstream.TeamID {
	id, err := upstream.ParseTeamID(s)
	if err != nil {
		v.add(field, err.Error())
	}
	return id
}

func (v *violations) expectedTokenID(field, s string) {
	if s != "" {
		v.tokenID(field, s)
	}
}

func (v *violations) requestID(field, s string) {
	if s != "" && !requestid.Valid(s) {
		v.add(field, "must be 1 to 128 letters, digits and `._:-`")
	}
}

// expiry is what to ask the upstream for, zero where that is to decide.
func (v *violations) expiry(field string, t *timestamppb.Timestamp, l Limits) time.Time {
	now := time.Now()
	if t == nil {
		switch {
		case l.DefaultTokenTTL > 0:
			return now.Add(l.DefaultTokenTTL)
		case l.MaxTokenTTL > 0:
			return now.Add(l.MaxTokenTTL)
		default:
			return time.Time{}
		}
	}
	switch at := t.AsTime(); {
	case t.CheckValid() != nil:
		v.add(field, "must be a time between the years 1 and 9999")
	case !at.After(now):
		v.add(field, "must be in the future")
	case l.MaxTokenTTL > 0 && at.After(now.Add(l.MaxTokenTTL)):
		v.add(field, fmt.Sprintf("must be at most %v from now: this service allows no more", l.MaxTokenTTL))
	}
	return t.AsTime()
}

func (v *violations) tokenID(field, s string) upstream.TokenID {
	id, err := upstream.ParseTokenID(s)
	if err != nil {
		v.add(field, err.Error())
	}
	return id
}

func (v *violations) organization(field, s string) upstream.Organization {
	name, err := upstream.ParseOrganization(s)
	if err != nil {
		v.add(field, err.Error())
	}
	return name
}

// description must be there, and may be empty.
func (v *violations) description(field string, s *string) {
	switch {
	case s == nil:
		v.add(field, "is required, and may be empty: to replace the team's token without one, use GenerateToken")
	case len(*s) > maxDescription:
		v.add(field, fmt.Sprintf("must not be longer than %d bytes", maxDescription))
	}
}

// The upstream says nothing of these limits: they only keep out what is absurd.
const (
	maxDescription = 1024
	maxQuery       = 256
)

func (v *violations) oneOf(field, s string, allowed []string) {
	if !slices.Contains(allowed, s) {
		v.add(field, "must be one of "+strings.Join(allowed, ", "))
	}
}

// err is nil if there are no violations.
func (v violations) err(m outcome.Method) error {
	if len(v) == 0 {
		return nil
	}
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Outcome: m.Outcome(apierror.NotApplied), Violations: v,
	}
}
