package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/outcome"
)

// GenerateToken replaces the team's token.
func (s *Service) GenerateToken(
	ctx context.Context, req *teamtokenv1.GenerateTokenRequest,
) (*teamtokenv1.GenerateTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	expiresAt := v.expiry("expired_at", req.GetExpiredAt(), s.limits)
	v.requestID("request_id", req.GetRequestId())
	v.expectedTokenID("expected_token_id", req.GetExpectedTokenId())
	if err := v.err(outcome.MutateTeam); err != nil {
		return nil, err
	}
	key, err := idempotencyKey(ctx, req)
	if err != nil {
		return nil, err
	}
	made, err := s.engine.Do(ctx, mutation.Operation{
		Kind: mutation.Generate, Team: team, ExpectedTokenID: req.GetExpectedTokenId(), ExpiresAt: expiresAt,
	}, key)
	if err != nil {
		return nil, err
	}
	return &teamtokenv1.GenerateTokenResponse{TeamToken: toProto(made.Token), Secret: made.Secret.Reveal()}, nil
}
