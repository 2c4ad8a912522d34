package service

import (
	"context"
	"errors"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// GetTokenByID describes a token of a team.
func (s *Service) GetTokenByID(
	ctx context.Context, req *teamtokenv1.GetTokenByIDRequest,
) (*teamtokenv1.GetTokenByIDResponse, error) {
	var v violations
	id := v.tokenID("token_id", req.GetTokenId())
	if err := v.err(readToken); err != nil {
		return nil, err
	}
	token, _, err := s.teamOf(ctx, id, readToken)
	if err != nil {
		return nil, err
	}
	return &teamtokenv1.GetTokenByIDResponse{TeamToken: toProto(token)}, nil
}

// teamOf reads a token, and the team that it belongs to. The token of a user or
// an organization is not found, and neither is one under another id than its
// own: the upstream takes a team's id for that of its token. Nor is one of a team
// that the caller may not touch: he is not told that it is there.
func (s *Service) teamOf(ctx context.Context, id upstream.TokenID, kind callKind) (upstream.Token, upstream.TeamID, error) {
	token, err := s.upstream.ReadTokenByID(ctx, id)
	if err != nil {
		return upstream.Token{}, upstream.TeamID{}, translate(ctx, err, kind)
	}
	team, err := upstream.ParseTeamID(token.TeamID)
	if err != nil || token.ID != id.String() {
		return upstream.Token{}, upstream.TeamID{}, kind.notFound(err)
	}
	s.acceptance.learn(ctx, team.String(), false, nil)
	if !s.options.MayTouch(ctx, team.String()) {
		return upstream.Token{}, upstream.TeamID{}, kind.notFound(errNotCallers)
	}
	return token, team, nil
}

var errNotCallers = errors.New("the token is of a team that the caller may not touch")
