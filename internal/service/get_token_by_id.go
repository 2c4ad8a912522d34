package service

import (
	"context"

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
// own: the upstream takes a team's id for that of its token.
func (s *Service) teamOf(ctx context.Context, id upstream.TokenID, kind callKind) (upstream.Token, upstream.TeamID, error) {
	token, err := s.upstream.ReadTokenByID(ctx, id)
	if err != nil {
		return upstream.Token{}, upstream.TeamID{}, translate(ctx, err, kind)
	}
	team, err := upstream.ParseTeamID(token.TeamID)
	if err != nil || token.ID != id.String() {
		return upstream.Token{}, upstream.TeamID{}, kind.notFound(err)
	}
	return token, team, nil
}
