package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/outcome"
)

// DeleteTokenByID revokes a token of a team. Whose it is is read first.
func (s *Service) DeleteTokenByID(
	ctx context.Context, req *teamtokenv1.DeleteTokenByIDRequest,
) (*teamtokenv1.DeleteTokenByIDResponse, error) {
	var v violations
	id := v.tokenID("token_id", req.GetTokenId())
	if err := v.err(outcome.MutateToken); err != nil {
		return nil, err
	}
	_, team, err := s.authorizedToken(ctx, id, outcome.MutateToken)
	if err != nil {
		return nil, outcome.NotSent(err)
	}
	if _, err := s.engine.Do(ctx, mutation.Operation{Kind: mutation.DeleteByID, Team: team, TokenID: id}, mutation.Key{}); err != nil {
		return nil, err
	}
	return &teamtokenv1.DeleteTokenByIDResponse{}, nil
}
