package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/outcome"
)

// CreateNamedToken makes one more token of the team.
func (s *Service) CreateNamedToken(
	ctx context.Context, req *teamtokenv1.CreateNamedTokenRequest,
) (*teamtokenv1.CreateNamedTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	v.description("description", req.Description)
	expiresAt := v.expiry("expired_at", req.GetExpiredAt(), s.limits)
	v.requestID("request_id", req.GetRequestId())
	if err := v.err(outcome.MutateTeam); err != nil {
		return nil, err
	}
	key, err := idempotencyKey(ctx, req)
	if err != nil {
		return nil, err
	}
	made, err := s.engine.Do(ctx, mutation.Operation{
		Kind: mutation.Create, Team: team, Description: req.GetDescription(), ExpiresAt: expiresAt,
	}, key)
	if err != nil {
		return nil, err
	}
	return &teamtokenv1.CreateNamedTokenResponse{TeamToken: toProto(made.Token), Secret: made.Secret.Reveal()}, nil
}
