package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// GetToken describes the team's token.
func (s *Service) GetToken(
	ctx context.Context, req *teamtokenv1.GetTokenRequest,
) (*teamtokenv1.GetTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	if err := v.err(readTeam); err != nil {
		return nil, err
	}
	token, err := s.upstream.ReadToken(ctx, team)
	s.acceptance.learn(ctx, team.String(), false, err)
	if err != nil {
		return nil, translate(ctx, err, readTeam)
	}
	return &teamtokenv1.GetTokenResponse{TeamToken: toProto(token)}, nil
}
