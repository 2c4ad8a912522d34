package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/state"
)

// DeleteTokenByID revokes a token of a team. Whose it is is read first.
func (s *Service) DeleteTokenByID(
	ctx context.Context, req *teamtokenv1.DeleteTokenByIDRequest,
) (*teamtokenv1.DeleteTokenByIDResponse, error) {
	var v violations
	id := v.tokenID("token_id", req.GetTokenId())
	if err := v.err(changeToken); err != nil {
		return nil, err
	}
	return fly(ctx, s, change{method: methodDeleteTokenByID, subject: id.String()}, func(ctx context.Context) (*teamtokenv1.DeleteTokenByIDResponse, error) {
		_, team, err := s.teamOf(budget.Changing(ctx), id, changeToken)
		if err != nil {
			return nil, unsent(err)
		}
		_, err = s.change(ctx,
			state.Change{Method: methodDeleteTokenByID, Team: team.String(), Token: id.String()}, "", deletionByID{s, id})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.DeleteTokenByIDResponse{}, nil
	})
}
