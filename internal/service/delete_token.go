package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/state"
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
	return fly(ctx, s, change{method: methodDeleteToken, subject: team.String()}, func(ctx context.Context) (*teamtokenv1.DeleteTokenResponse, error) {
		_, err := s.change(ctx,
			state.Operation{Method: methodDeleteToken, Team: team.String(), ExpectedTokenID: req.GetExpectedTokenId()}, "", deletion{s, team})
		if req.GetAllowMissing() && isNotFound(err) { // of the expected one as well: a retry of a deletion that was carried out
			err = nil
		}
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.DeleteTokenResponse{}, nil
	})
}
