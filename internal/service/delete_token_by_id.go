package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
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
	return fly(ctx, s, change{"DeleteTokenByID", id.String()}, func(ctx context.Context) (*teamtokenv1.DeleteTokenByIDResponse, error) {
		_, team, err := s.teamOf(ctx, id, changeToken)
		if err != nil {
			return nil, unsent(err)
		}
		free, err := s.turns.take(ctx, team, shared)
		if err != nil {
			return nil, err
		}
		defer free()
		if err := s.upstream.DeleteTokenByID(ctx, id); err != nil {
			return nil, translate(ctx, err, changeToken)
		}
		return &teamtokenv1.DeleteTokenByIDResponse{}, nil
	})
}
