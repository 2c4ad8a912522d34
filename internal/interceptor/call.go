package interceptor

import (
	"context"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

// call is a call that goes through the chain.
type call struct {
	*calls.Call
	method method
	policy func() *policy.Policy
	trail  *audit.Trail
}

// newCall starts the trail of a call, and returns a context of both.
func (c *Chain) newCall(ctx context.Context, m method, requestID string, p caller.Credentials) (context.Context, *call) {
	r := audit.Record{CallID: requestid.New(), RequestID: requestID, Method: m.name, Surface: string(p.Surface)}
	if p.Peer.IsValid() {
		r.Peer = p.Peer.String()
	}
	k := &call{method: m, policy: c.options.Policy, trail: c.options.Audit.NewTrail(r)}
	k.Call = &calls.Call{RequestID: requestID, Authorizer: k}
	return calls.NewContext(audit.WithTrail(ctx, k.trail), k.Call), k
}

// setCaller notes who makes the call.
func (k *call) setCaller(who caller.Caller) {
	k.Caller = who
	k.trail.Update(func(r *audit.Record) { r.Caller, r.VerifiedBy = who.ID, string(who.VerifiedBy) })
}

// setRequest notes what the request names. It is not checked yet.
func (k *call) setRequest(req any) {
	k.trail.Update(func(r *audit.Record) {
		if req, ok := req.(interface{ GetTeamId() string }); ok {
			r.Team = req.GetTeamId()
		}
		if req, ok := req.(interface{ GetOrganization() string }); ok {
			r.Organization = req.GetOrganization()
		}
		if req, ok := req.(interface{ GetTokenId() string }); ok {
			r.TokenID = req.GetTokenId()
		}
		if req, ok := req.(interface{ GetExpectedTokenId() string }); ok {
			r.ExpectedTokenID = req.GetExpectedTokenId()
		}
		if req, ok := req.(interface{ GetRequestId() string }); ok {
			r.IdempotencyKey = req.GetRequestId()
		}
	})
}

// authorize asks the policy, and returns the refusal if that says no. A call about a
// token whose team is not known yet is pending: AuthorizeTeam decides.
func (k *call) authorize() error {
	decision, err := k.decide(k.trail.Record().Team)
	if decision != audit.DecisionDeny {
		return nil
	}
	e := k.method.newError(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_NOT_ALLOWED)
	e.Cause = err
	return e
}

// AuthorizeTeam is of calls.Authorizer.
func (k *call) AuthorizeTeam(team string) bool {
	k.trail.Update(func(r *audit.Record) { r.Team = team })
	decision, _ := k.decide(team)
	return decision == audit.DecisionAllow
}

// decide asks the policy about a team, and has the decision in the audit.
func (k *call) decide(team string) (decision string, err error) {
	decision, rule := audit.DecisionAllow, ""
	if k.policy != nil {
		d := k.policy().Decide(policy.Request{
			Caller: k.Caller, Method: k.method.name, Team: team, Organization: k.trail.Record().Organization, Now: time.Now(),
		})
		rule, err = d.Rule, d.Err
		switch {
		case d.Allowed:
		case d.Pending:
			decision = audit.DecisionPending
		default:
			decision = audit.DecisionDeny
		}
	}
	k.trail.Update(func(r *audit.Record) { r.Decision, r.Rule = decision, rule })
	return decision, err
}

// logAttempt has the audit say that the call is about to be carried out, or returns why
// it may not be.
func (k *call) logAttempt(ctx context.Context) error {
	if err := k.trail.Attempt(ctx); err != nil {
		if ctx.Err() != nil { // the audit log may be well
			return k.method.tooLate(err)
		}
		e := k.method.newError(teamtokenv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE)
		e.Cause = err
		return e
	}
	return nil
}

// applied is the outcome of a change that went well, for the audit: a caller knows it by
// there being no error.
const applied = apierror.Applied

// logOutcome has the audit say what the caller is about to be told.
func (k *call) logOutcome(resp any, err error, d time.Duration) {
	code, details := apierror.Describe(err, k.method.outcome(applied))
	e := audit.Ending{
		Code: code.String(), Reason: details.Reason, Outcome: details.Outcome, Duration: d,
		RefusedOutcome: string(k.method.outcome(apierror.NotApplied)), // an error of grpc-go or HTTP has none
	}
	if resp, ok := resp.(interface{ GetTeamToken() *teamtokenv1.TeamToken }); ok && err == nil {
		e.TokenID = resp.GetTeamToken().GetId()
	}
	k.trail.Outcome(e)
}
