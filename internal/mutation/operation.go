package mutation

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Kind is what an operation does. Kinds can be joined to a set.
type Kind uint8

// The kinds.
const (
	Generate   Kind = 1 << iota // replaces the team's token
	Delete                      // revokes the team's token
	Create                      // makes one more token of the team, with a description
	DeleteByID                  // revokes one token, which can't come back
)

// methods are the RPCs that the kinds are stored and logged as.
var methods = map[Kind]string{
	Generate: "GenerateToken", Delete: "DeleteToken", Create: "CreateNamedToken", DeleteByID: methodDeleteByID,
}

const methodDeleteByID = "DeleteTokenByID"

// Operation is one change of a team.
type Operation struct {
	Kind            Kind
	Team            upstream.TeamID
	TokenID         upstream.TokenID // DeleteByID
	ExpectedTokenID string           // Generate, Delete: that the team's token must have; empty allows any
	Description     string           // Create
	ExpiresAt       time.Time        // Generate, Create; zero leaves that to the upstream
}

// Result is the token that an operation made, and its secret. Both are zero where it
// made none.
type Result struct {
	Token  upstream.Token
	Secret secret.Text

	liveAt time.Time // an instant at which the token was the team's, or there
}

// Upstream is what the engine needs of the Team Token API. Its errors are
// *upstream.Error.
type Upstream interface {
	CreateToken(ctx context.Context, team upstream.TeamID, expiredAt time.Time) (upstream.Token, secret.Text, error)
	ReadToken(ctx context.Context, team upstream.TeamID) (upstream.Token, error)
	DeleteToken(ctx context.Context, team upstream.TeamID) error
	CreateNamedToken(
		ctx context.Context, team upstream.TeamID, description string, expiredAt time.Time,
	) (upstream.Token, secret.Text, error)
	ReadTokenByID(ctx context.Context, id upstream.TokenID) (upstream.Token, error)
	DeleteTokenByID(ctx context.Context, id upstream.TokenID) error
	ListTokens(ctx context.Context, organization upstream.Organization, l upstream.ListOptions) (upstream.Page, error)
	ListOrganizations(ctx context.Context) ([]upstream.Organization, error)
}

// method is what the errors of an operation mean.
func (op Operation) method() outcome.Method {
	if op.Kind == DeleteByID {
		return outcome.MutateToken
	}
	return outcome.MutateTeam
}

// stored is the operation as the store has it while it is under way.
func (op Operation) stored(key Key, rateKey string, auditRecord json.RawMessage) state.Operation {
	return state.Operation{
		Method: methods[op.Kind], Team: op.Team.String(), TokenID: op.TokenID.String(), ExpectedTokenID: op.ExpectedTokenID,
		Description: op.Description, RateKey: rateKey, Caller: key.Owner, IdempotencyKey: key.ID, AuditRecord: auditRecord,
	}
}

// restore is the operation that was stored. Its expiry was not: nothing that is
// resolved is sent again.
func restore(s state.Operation) (Operation, error) {
	op := Operation{ExpectedTokenID: s.ExpectedTokenID, Description: s.Description}
	for kind, method := range methods {
		if method == s.Method {
			op.Kind = kind
		}
	}
	if op.Kind == 0 {
		return op, errUnknownMethod
	}
	var err error
	if op.Team, err = upstream.ParseTeamID(s.Team); err == nil && op.Kind == DeleteByID {
		op.TokenID, err = upstream.ParseTokenID(s.TokenID)
	}
	return op, err
}

var errUnknownMethod = errors.New("an operation of a method that this version does not know")

// send asks the upstream for the operation, once.
func (e *Engine) send(ctx context.Context, op Operation) (r Result, err error) {
	switch op.Kind {
	case Generate:
		r.Token, r.Secret, err = e.upstream.CreateToken(ctx, op.Team, op.ExpiresAt)
	case Create:
		r.Token, r.Secret, err = e.upstream.CreateNamedToken(ctx, op.Team, op.Description, op.ExpiresAt)
	case Delete:
		err = e.upstream.DeleteToken(ctx, op.Team)
	case DeleteByID:
		err = e.upstream.DeleteTokenByID(ctx, op.TokenID)
	}
	return r, err
}

// currentAfter is the id of the team's token after the operation was carried out.
func (op Operation) currentAfter(made Result, before string) string {
	switch {
	case op.Kind == Generate:
		return made.Token.ID
	case op.Kind == Delete:
		return state.NoToken
	case op.Kind == DeleteByID && before == op.TokenID.String():
		return "" // it may be gone or not
	default:
		return state.Unchanged
	}
}

// observe reads back what became of an operation that was first sent age ago, at the
// earliest, when the team's token was before. See state.AcquireResult for the ids.
func (e *Engine) observe(ctx context.Context, op Operation, age time.Duration, before string) (observation, error) {
	begun := time.Now().Add(-age)
	switch op.Kind {
	case Create:
		return e.findByDescription(ctx, op, begun)
	case DeleteByID:
		_, err := e.upstream.ReadTokenByID(ctx, op.TokenID)
		if outcome.IsNotFound(err) {
			return observation{seen: ours}, nil
		}
		return observation{seen: notSeen}, err
	}
	token, err := e.upstream.ReadToken(ctx, op.Team)
	if err != nil && !outcome.IsNotFound(err) {
		return observation{}, err
	}
	o := observation{seen: notSeen, current: token.ID}
	if err != nil {
		o.current = state.NoToken
	}
	switch {
	case op.Kind == Delete && err != nil && (before == "" || before == state.NoToken):
		o.seen = noneBefore
	case op.Kind == Delete && err != nil:
		o.seen = ours
	case op.Kind == Generate && err == nil:
		if o.seen = judgeCurrent(token, begun, before); o.seen == ours {
			o.tokenID = token.ID
		}
	}
	return o, nil
}

// createdSince reports whether a token can have been made at begun, by our clock, or
// later. The upstream says when it was made, and what time it was when it said so, to the
// second; ok is false where it says only one of them.
func createdSince(begun, created, seen time.Time) (since, ok bool) {
	if created.IsZero() || seen.IsZero() {
		return false, false
	}
	begunThere := seen.Add(-time.Since(begun)) // at the earliest: a second may have passed since seen
	return !created.Before(begunThere.Add(-time.Millisecond)), true
}

// judgeCurrent is what the team's current token says of a Generate before which it was
// another one: empty if that is not known.
func judgeCurrent(t upstream.Token, begun time.Time, before string) sight {
	since, ok := createdSince(begun, t.CreatedAt, t.Seen)
	switch {
	case t.ID == before, ok && !since:
		return notSeen
	case !ok && before == "":
		return cantTell
	default:
		return ours
	}
}

// findByDescription looks for the token of a Create by its description, which no other
// token of the team has. It is the operation's own if it is not older than that.
func (e *Engine) findByDescription(ctx context.Context, op Operation, begun time.Time) (observation, error) {
	organizations := e.options.Organizations
	if len(organizations) == 0 {
		var err error
		if organizations, err = e.upstream.ListOrganizations(ctx); err != nil {
			return observation{}, err
		}
	}
	var denied error // HCP Terraform says 404 where it means that the list may not be seen
	for _, organization := range organizations {
		for l := (upstream.ListOptions{Page: 1, Size: listSize}); l.Page > 0; {
			page, err := e.upstream.ListTokens(ctx, organization, l)
			if outcome.IsNotFound(err) {
				denied = err
				break
			}
			if err != nil {
				return observation{}, err
			}
			found := slices.IndexFunc(page.Tokens, func(t upstream.Token) bool {
				return t.TeamID == op.Team.String() && t.Description != nil && *t.Description == op.Description
			})
			if found >= 0 {
				return judgeNamed(page.Tokens[found], begun, page.Seen), nil
			}
			l.Page = page.Next
		}
	}
	if denied != nil {
		return observation{}, denied
	}
	return observation{seen: notSeen}, nil
}

const listSize = 100

// judgeNamed is what the token with the description of a Create says of that.
func judgeNamed(t upstream.Token, begun, seen time.Time) observation {
	since, ok := createdSince(begun, t.CreatedAt, seen)
	switch {
	case !ok:
		return observation{seen: cantTell, tokenID: t.ID}
	case !since:
		return observation{seen: notSeen}
	case t.LastUsedAt.IsZero():
		return observation{seen: ours, tokenID: t.ID}
	default:
		return observation{seen: oursInUse, tokenID: t.ID}
	}
}
