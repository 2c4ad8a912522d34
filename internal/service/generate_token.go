package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// GenerateToken replaces the team's token.
func (s *Service) GenerateToken(
	ctx context.Context, req *teamtokenv1.GenerateTokenRequest,
) (*teamtokenv1.GenerateTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	expiredAt := v.expiry("expired_at", req.GetExpiredAt(), s.options)
	v.requestID("request_id", req.GetRequestId())
	v.expectedTokenID("expected_token_id", req.GetExpectedTokenId())
	if err := v.err(changeTeam); err != nil {
		return nil, err
	}
	return fly(ctx, s, change{"GenerateToken", team.String()}, func(ctx context.Context) (*teamtokenv1.GenerateTokenResponse, error) {
		current := func(string) (upstream.Token, error) { return s.upstream.ReadToken(ctx, team) }
		made, err := s.once(ctx, req, current, func() (issued, error) {
			free, err := s.turns.take(ctx, team, places(req.GetExpectedTokenId()))
			if err != nil {
				return issued{}, err
			}
			defer free()
			if err := s.expect(ctx, team, req.GetExpectedTokenId()); err != nil {
				return issued{}, err
			}
			token, text, err := s.upstream.CreateToken(ctx, team, expiredAt)
			if err != nil {
				return issued{}, translate(ctx, err, changeTeam)
			}
			return issued{token, text}, nil
		})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.GenerateTokenResponse{TeamToken: toProto(made.token), Secret: made.secret.Reveal()}, nil
	})
}
