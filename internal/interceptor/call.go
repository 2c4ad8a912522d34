package interceptor

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

// What the audit says of a call for which there is no policy to decide.
const (
	allowed = "allow"
	denied  = "deny"
	pending = "pending" // the team of a token has to be known first
)

// applied is the outcome of a change that went well, for the audit: a caller
// knows it by there being no error.
const applied = reason.Applied

// call is what is known of a call that goes through the chain. The service adds
// to it what it finds out, by the functions below, even after its caller has left.
type call struct {
	chain  *Chain
	method method
	caller caller.Caller

	holds    atomic.Int64 // of the share, by the call and by a change that goes on when the caller leaves
	giveBack func()       // gives back the share; nil if there is none

	mu       sync.Mutex
	record   audit.Record
	tried    bool   // the attempt is written
	begun    bool   // or it was to be, and may be
	answered bool   // and so is what the caller was told
	unlogged bool   // refusals like it come too fast for a line each, in the log too
	late     func() // writes what became of it later, if it came before that
}

type callKey struct{}

// begin starts the record of a call.
func (c *Chain) begin(ctx context.Context, m method, p caller.Presented) (context.Context, *call) {
	k := &call{chain: c, method: m}
	k.record = audit.Record{
		CallID: requestid.New(), RequestID: requestid.FromContext(ctx), Method: m.name, Surface: string(p.Surface),
	}
	if p.Peer.IsValid() {
		k.record.Peer = p.Peer.String()
	}
	return context.WithValue(ctx, callKey{}, k), k
}

// madeBy notes who makes the call.
func (k *call) madeBy(who caller.Caller) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.caller = who
	k.record.Caller, k.record.VerifiedBy = who.ID, string(who.VerifiedBy)
}

// asked notes what the request names. It is not checked yet.
func (k *call) asked(req any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := req.(interface{ GetTeamId() string }); ok {
		k.record.Team = r.GetTeamId()
	}
	if r, ok := req.(interface{ GetOrganization() string }); ok {
		k.record.Organization = r.GetOrganization()
	}
	if r, ok := req.(interface{ GetTokenId() string }); ok {
		k.record.TokenID = r.GetTokenId()
	}
	if r, ok := req.(interface{ GetExpectedTokenId() string }); ok {
		k.record.ExpectedTokenID = r.GetExpectedTokenId()
	}
	if r, ok := req.(interface{ GetRequestId() string }); ok {
		k.record.IdempotencyKey = r.GetRequestId()
	}
}

// may asks the policy, and returns the refusal if that says no.
func (k *call) may() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record.Decision = allowed
	if k.chain.options.Policy == nil {
		return nil
	}
	d := k.decide(k.record.Team)
	if k.record.Decision == denied {
		e := k.method.refused(teamtokenv1.ErrorReason_ERROR_REASON_CALLER_NOT_ALLOWED)
		e.Cause = d.Err
		return e
	}
	return nil
}

// decide asks the policy about a team, and notes the answer.
func (k *call) decide(team string) policy.Decision {
	d := k.chain.options.Policy().Decide(policy.Request{
		Caller: k.caller, Method: k.method.name, Team: team, Organization: k.record.Organization, Now: time.Now(),
	})
	k.record.Rule = d.Rule
	switch {
	case d.Allowed:
		k.record.Decision = allowed
	case d.Pending:
		k.record.Decision = pending
	default:
		k.record.Decision = denied
	}
	return d
}

// attempt writes down that the call is about to be carried out, or returns why
// it may not be.
func (k *call) attempt(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record.Event, k.record.Time = audit.EventAttempt, time.Now()
	k.begun = true
	if err := k.chain.options.Audit.Attempt(ctx, &k.record); err != nil {
		e := k.method.refused(teamtokenv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE)
		e.Cause = err
		return e
	}
	k.tried = true
	return nil
}

// ended writes down what the caller is about to be told.
func (k *call) ended(resp any, err error, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	event := audit.EventOutcome
	if !k.tried || k.record.Decision == denied {
		event = audit.EventRefusal
	}
	k.result(event, resp, err, k.method.outcome(applied))
	if event == audit.EventRefusal && k.record.Outcome == "" { // an error of grpc-go or HTTP has no outcome
		k.record.Outcome = string(k.method.outcome(reason.NotApplied))
	}
	k.record.Duration = d
	if k.begun {
		k.chain.options.Audit.Result(&k.record)
	} else {
		k.unlogged = k.chain.options.Audit.Refusal(&k.record)
	}
	k.answered = true
	if k.late != nil {
		k.late()
	}
}

// result fills in how the call ended.
func (k *call) result(event string, resp any, err error, good reason.Outcome) {
	k.record.Event, k.record.Time = event, time.Now()
	if err != nil {
		st := status.Convert(err)
		details := reason.DetailsOf(st)
		k.record.Code, k.record.Reason, k.record.Outcome = st.Code().String(), details.Reason, details.Outcome
		return
	}
	k.record.Code, k.record.Reason, k.record.Outcome = codes.OK.String(), "", string(good)
	if r, ok := resp.(interface{ GetTeamToken() *teamtokenv1.TeamToken }); ok {
		k.record.TokenID = r.GetTeamToken().GetId()
	}
}

// undelivered is the outcome of a change that went well after its caller had been
// answered: with a secret that nobody was given, or without one.
func undelivered(resp any) reason.Outcome {
	if _, ok := resp.(interface{ GetSecret() string }); ok {
		return reason.AppliedUndelivered
	}
	return applied
}

// callFrom is the call of ctx; nil outside of the chain.
func callFrom(ctx context.Context) *call {
	k, _ := ctx.Value(callKey{}).(*call)
	return k
}

// MayTouch asks the policy about the team of a token that the call of ctx names by
// its id, now that it is known.
func MayTouch(ctx context.Context, team string) bool {
	k := callFrom(ctx)
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record.Team = team
	if k.chain.options.Policy == nil {
		return true
	}
	k.decide(team)
	return k.record.Decision == allowed
}

// hold keeps the caller's share until release is called, once.
func (k *call) hold() (release func()) {
	k.holds.Add(1)
	return func() {
		if k.holds.Add(-1) == 0 && k.giveBack != nil {
			k.giveBack()
		}
	}
}

// Flying keeps the caller's share of the call of ctx until landed is called: by
// leaving, a caller could have any number of changes under way otherwise.
func Flying(ctx context.Context) (landed func()) {
	k := callFrom(ctx)
	if k == nil {
		return func() {}
	}
	return k.hold()
}

// Asked notes the upstream's id of a request that was made for the call of ctx.
func Asked(ctx context.Context, upstreamRequestID string) {
	if k := callFrom(ctx); k != nil && upstreamRequestID != "" {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.record.UpstreamRequestID = upstreamRequestID
	}
}

// Late writes down what became of a change after its caller had been answered.
func Late(ctx context.Context, resp any, err error) {
	k := callFrom(ctx)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.late = func() {
		k.result(audit.EventLate, resp, err, k.method.outcome(undelivered(resp)))
		k.record.Duration = 0 // it is that of the answer
		k.chain.options.Audit.Result(&k.record)
	}
	if k.answered {
		k.late()
	}
}

// Journal is what has to be written down of the call of ctx, so that Resume can go
// on with it, in another process too; nil outside of the chain.
func Journal(ctx context.Context) any {
	if k := callFrom(ctx); k != nil {
		return k
	}
	return nil
}

// MarshalJSON is the call as it stands in the audit.
func (k *call) MarshalJSON() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record.MarshalJSON()
}

// Resume returns a context of the call that a journal is of, for what is done for
// it when it has ended.
func (c *Chain) Resume(ctx context.Context, journal any) context.Context {
	k, here := journal.(*call)
	if !here {
		k = &call{chain: c}
		if text, err := json.Marshal(journal); err == nil {
			_ = json.Unmarshal(text, &k.record) // what can't be read is left out of the audit
		}
		if known, ok := c.methods[c.prefix+k.record.Method]; ok {
			k.method = known
		}
	}
	return requestid.NewContext(context.WithValue(ctx, callKey{}, k), k.record.RequestID)
}

// Redrive writes down that one more request is about to be made for the call of
// ctx, by which method, and about which token; or returns why it may not be.
func Redrive(ctx context.Context, method, token string) error {
	k := callFrom(ctx)
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.record
	r.Event, r.Time, r.Redrives, r.Duration = audit.EventRedrive, time.Now(), method, 0
	r.Code, r.Reason, r.Outcome = "", "", ""
	if token != "" {
		r.TokenID = token
	}
	k.chain.options.Metrics.Redriven(ctx, method)
	if err := k.chain.options.Audit.Attempt(context.WithoutCancel(ctx), &r); err != nil {
		e := k.method.refused(teamtokenv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE)
		e.Cause = err
		return e
	}
	return nil
}

// Settled writes down what became of the call of ctx, whose outcome was unknown.
func Settled(ctx context.Context, token string, outcome reason.Outcome) {
	k := callFrom(ctx)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.record
	r.Event, r.Time, r.Duration = audit.EventSettled, time.Now(), 0
	r.Code, r.Reason, r.Outcome = "", "", string(outcome)
	if token != "" {
		r.TokenID = token
	}
	k.chain.options.Metrics.Settled(ctx, string(outcome))
	k.chain.options.Audit.Result(&r)
}

var errNoCredential = errors.New("no well-formed credential for the upstream was brought")
