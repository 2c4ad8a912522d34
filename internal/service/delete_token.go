package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// DeleteToken revokes the team's token.
func (s *Service) DeleteToken(
	ctx context.Context, req *teamtokenv1.DeleteTokenRequest,
) (*teamtokenv1.DeleteTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	v.expectedTokenID("expected_token_id", req.GetExpectedTokenId())
	if err := v.err(changeTeam); err != nil {
		return nil, err
	}
	return fly(ctx, s, change{"DeleteToken", team.String()}, func(ctx context.Context) (*teamtokenv1.DeleteTokenResponse, error) {
		free, err := s.turns.take(ctx, team, places(req.GetExpectedTokenId()))
		if err != nil {
			return nil, err
		}
		defer free()
		if err := s.expect(ctx, team, req.GetExpectedTokenId()); err != nil {
			if req.GetAllowMissing() && isNotFound(err) { // a retry of a deletion that was carried out
				return &teamtokenv1.DeleteTokenResponse{}, nil
			}
			return nil, err
		}
		err = s.upstream.DeleteToken(ctx, team)
		if req.GetAllowMissing() && isNotFound(err) {
			err = nil
		}
		if err != nil {
			return nil, translate(ctx, err, changeTeam)
		}
		return &teamtokenv1.DeleteTokenResponse{}, nil
	})
}
