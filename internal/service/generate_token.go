package service

import (
	"context"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// GenerateToken replaces the team's token.
func (s *Service) GenerateToken(
	ctx context.Context, req *teamtokenv1.GenerateTokenRequest,
) (*teamtokenv1.GenerateTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	expiredAt := v.expiry("expired_at", req.GetExpiredAt(), time.Now())
	v.requestID("request_id", req.GetRequestId())
	v.expectedTokenID("expected_token_id", req.GetExpectedTokenId())
	if err := v.err(mutation); err != nil {
		return nil, err
	}
	return fly(ctx, s, func(ctx context.Context) (*teamtokenv1.GenerateTokenResponse, error) {
		return s.once(ctx, req, func() (*teamtokenv1.GenerateTokenResponse, error) {
			free, err := s.turns.take(ctx, team)
			if err != nil {
				return nil, err
			}
			defer free()
			if err := s.expect(ctx, team, req.GetExpectedTokenId()); err != nil {
				return nil, err
			}
			token, text, err := s.upstream.CreateToken(ctx, team, expiredAt)
			if err != nil {
				return nil, translate(ctx, err, mutation)
			}
			return &teamtokenv1.GenerateTokenResponse{TeamToken: toProto(token), Secret: text.Reveal()}, nil
		})
	})
}
