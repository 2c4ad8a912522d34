package service

import (
	"context"
	"slices"
	"time"

	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// deedOf is the deed that was written down. Its expiry is not: nothing that is
// settled is sent again.
func (s *Service) deedOf(c state.Operation) (deed, error) {
	if c.Method == methodDeleteTokenByID {
		id, err := upstream.ParseTokenID(c.TokenID)
		return deletionByID{s, id}, err
	}
	team, err := upstream.ParseTeamID(c.Team)
	switch {
	case err != nil:
		return nil, err
	case c.Method == methodGenerateToken:
		return generation{s, team, time.Time{}}, nil
	case c.Method == methodDeleteToken:
		return deletion{s, team}, nil
	case c.Method == methodCreateNamedToken:
		return creation{s, team, c.Description, time.Time{}}, nil
	default:
		return nil, errUnknownMethod
	}
}

// generation replaces the team's token.
type generation struct {
	s         *Service
	team      upstream.TeamID
	expiredAt time.Time
}

func (generation) kind() callKind                     { return changeTeam }
func (generation) traits() traits                     { return traits{} }
func (generation) known(made issued, _ string) string { return made.token.ID }

func (g generation) send(ctx context.Context) (issued, error) {
	token, text, err := g.s.upstream.CreateToken(ctx, g.team, g.expiredAt)
	return issued{token, text}, err
}

// look sees that it was done by there being another token than before, which is
// not older than the request.
func (g generation) look(ctx context.Context, since time.Duration, known string) (trace, error) {
	begun := time.Now().Add(-since)
	token, err := g.s.upstream.ReadToken(ctx, g.team)
	switch {
	case isNotFound(err):
		return trace{present: state.NoToken}, nil
	case err != nil:
		return trace{}, err
	case token.ID == known || !youngerThan(begun, token.CreatedAt, token.Seen, known != ""):
		return trace{present: token.ID}, nil
	}
	return trace{done: true, token: token.ID, present: token.ID}, nil
}

func (generation) undo(context.Context, upstream.TokenID) error { return nil }

// youngerThan reports whether a token can have been made at begun, by our clock,
// or later. The upstream says when it was made, and what time it was when it said
// so, to the second; where it does not, other says whether the token is another
// than before, which has to do.
func youngerThan(begun, created, seen time.Time, other bool) bool {
	if created.IsZero() || seen.IsZero() {
		return other
	}
	begunThere := seen.Add(-time.Since(begun)) // at the earliest: a second may have passed since seen
	return !created.Before(begunThere.Add(-time.Millisecond))
}

// deletion revokes the team's token.
type deletion struct {
	s    *Service
	team upstream.TeamID
}

func (deletion) kind() callKind              { return changeTeam }
func (deletion) traits() traits              { return traits{suffices: true} }
func (deletion) known(issued, string) string { return state.NoToken }

func (d deletion) send(ctx context.Context) (issued, error) {
	return issued{}, d.s.upstream.DeleteToken(ctx, d.team)
}

// look finds no token where it was done. Where there was none before, that says
// nothing of the request, which may still meet the next one.
func (d deletion) look(ctx context.Context, _ time.Duration, known string) (trace, error) {
	token, err := d.s.upstream.ReadToken(ctx, d.team)
	if isNotFound(err) {
		return trace{done: known != "" && known != state.NoToken, gone: true, present: state.NoToken}, nil
	}
	return trace{present: token.ID}, err
}

func (deletion) undo(context.Context, upstream.TokenID) error { return nil }

// creation makes one more token of the team.
type creation struct {
	s           *Service
	team        upstream.TeamID
	description string
	expiredAt   time.Time
}

func (creation) kind() callKind              { return changeTeam }
func (creation) traits() traits              { return traits{orphans: true} }
func (creation) known(issued, string) string { return state.Unchanged }

func (c creation) send(ctx context.Context) (issued, error) {
	token, text, err := c.s.upstream.CreateNamedToken(ctx, c.team, c.description, c.expiredAt)
	return issued{token, text}, err
}

// look finds the token by its description, which no other of the team has, if it
// is not older than the request.
func (c creation) look(ctx context.Context, since time.Duration, _ string) (trace, error) {
	begun := time.Now().Add(-since)
	organizations, err := c.s.organizations(ctx)
	if err != nil {
		return trace{}, err
	}
	for _, organization := range organizations {
		for l := (upstream.List{Page: 1, Size: listSize}); l.Page > 0; {
			page, err := c.s.upstream.ListTokens(ctx, organization, l)
			if isNotFound(err) { // it may not be seen, and the team is not in it
				break
			}
			if err != nil {
				return trace{}, err
			}
			found := slices.IndexFunc(page.Tokens, func(t upstream.Token) bool {
				return t.TeamID == c.team.String() && t.Description != nil && *t.Description == c.description
			})
			if found >= 0 {
				t := page.Tokens[found]
				return trace{done: youngerThan(begun, t.CreatedAt, page.Seen, false), token: t.ID, used: !t.LastUsedAt.IsZero()}, nil
			}
			l.Page = page.Next
		}
	}
	return trace{}, nil
}

const listSize = 100

func (c creation) undo(ctx context.Context, token upstream.TokenID) error {
	return c.s.upstream.DeleteTokenByID(ctx, token)
}

// organizations are those in which the tokens of the credential's teams are: the
// ones that are configured, or else those that it can see.
func (s *Service) organizations(ctx context.Context) ([]upstream.Organization, error) {
	if len(s.options.Organizations) > 0 {
		return s.options.Organizations, nil
	}
	return s.upstream.ListOrganizations(ctx)
}

// deletionByID revokes one token, which can't come back: it may be asked for any
// number of times, and land whenever it likes.
type deletionByID struct {
	s  *Service
	id upstream.TokenID
}

func (deletionByID) kind() callKind { return changeToken }
func (deletionByID) traits() traits { return traits{suffices: true, narrow: true} }

// known is not, if the token was the team's one, and may be gone or not.
func (d deletionByID) known(_ issued, before string) string {
	if before == d.id.String() {
		return ""
	}
	return state.Unchanged
}

func (d deletionByID) send(ctx context.Context) (issued, error) {
	return issued{}, d.s.upstream.DeleteTokenByID(ctx, d.id)
}

func (d deletionByID) look(ctx context.Context, _ time.Duration, _ string) (trace, error) {
	_, err := d.s.upstream.ReadTokenByID(ctx, d.id)
	if isNotFound(err) {
		return trace{done: true, gone: true}, nil
	}
	return trace{}, err
}

func (deletionByID) undo(context.Context, upstream.TokenID) error { return nil }
