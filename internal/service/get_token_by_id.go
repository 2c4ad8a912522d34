package service

import (
	"context"
	"errors"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// GetTokenByID describes a token of a team.
func (s *Service) GetTokenByID(
	ctx context.Context, req *teamtokenv1.GetTokenByIDRequest,
) (*teamtokenv1.GetTokenByIDResponse, error) {
	var v violations
	id := v.tokenID("token_id", req.GetTokenId())
	if err := v.err(outcome.ReadToken); err != nil {
		return nil, err
	}
	token, _, err := s.authorizedToken(ctx, id, outcome.ReadToken)
	if err != nil {
		return nil, err
	}
	return &teamtokenv1.GetTokenByIDResponse{TeamToken: toProto(token)}, nil
}

// authorizedToken reads a token, and the team that it belongs to. The token of a user or
// an organization is not found, and neither is one under another id than its
// own: the upstream takes a team's id for that of its token. Nor is one of a team
// that the caller may not touch: he is not told that it is there.
func (s *Service) authorizedToken(ctx context.Context, id upstream.TokenID, m outcome.Method) (upstream.Token, upstream.TeamID, error) {
	token, err := s.upstream.ReadTokenByID(ctx, id)
	if err != nil {
		return upstream.Token{}, upstream.TeamID{}, outcome.Error(ctx, err, m)
	}
	team, err := upstream.ParseTeamID(token.TeamID)
	if err != nil || token.ID != id.String() {
		return upstream.Token{}, upstream.TeamID{}, m.NotFound(err)
	}
	s.engine.CredentialAccepted(ctx, team.String(), nil)
	if !calls.From(ctx).AuthorizeTeam(team.String()) {
		return upstream.Token{}, upstream.TeamID{}, m.NotFound(errNotCallers)
	}
	return token, team, nil
}

var errNotCallers = errors.New("the token is of a team that the caller may not touch")
