package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
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
		// The policy has not allowed anything yet: to look the token up is a read.
		_, team, err := s.teamOf(ctx, id, changeToken)
		if err != nil {
			return nil, unsent(err)
		}
		_, err = s.change(ctx,
			state.Operation{Method: methodDeleteTokenByID, Team: team.String(), TokenID: id.String()}, "", deletionByID{s, id})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.DeleteTokenByIDResponse{}, nil
	})
}
