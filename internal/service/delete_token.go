package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/outcome"
)

// DeleteToken revokes the team's token.
func (s *Service) DeleteToken(
	ctx context.Context, req *teamtokenv1.DeleteTokenRequest,
) (*teamtokenv1.DeleteTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	v.expectedTokenID("expected_token_id", req.GetExpectedTokenId())
	if err := v.err(outcome.MutateTeam); err != nil {
		return nil, err
	}
	_, err := s.engine.Do(ctx, mutation.Operation{
		Kind: mutation.Delete, Team: team, ExpectedTokenID: req.GetExpectedTokenId(),
	}, mutation.Key{})
	if req.GetAllowMissing() && outcome.IsNotFound(err) { // of the expected one as well: a retry of a deletion that was carried out
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return &teamtokenv1.DeleteTokenResponse{}, nil
}
