package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/outcome"
)

// GetToken describes the team's token.
func (s *Service) GetToken(
	ctx context.Context, req *teamtokenv1.GetTokenRequest,
) (*teamtokenv1.GetTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	if err := v.err(outcome.ReadTeam); err != nil {
		return nil, err
	}
	token, err := s.upstream.ReadToken(ctx, team)
	s.engine.CredentialAccepted(ctx, team.String(), err)
	if err != nil {
		return nil, outcome.Error(ctx, err, outcome.ReadTeam)
	}
	return &teamtokenv1.GetTokenResponse{TeamToken: toProto(token)}, nil
}
