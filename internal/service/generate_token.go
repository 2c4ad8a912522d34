package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/state"
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
	return fly(ctx, s, change{method: methodGenerateToken, subject: team.String()}, func(ctx context.Context) (*teamtokenv1.GenerateTokenResponse, error) {
		made, err := s.issue(ctx, req,
			state.Operation{Method: methodGenerateToken, Team: team.String(), ExpectedTokenID: req.GetExpectedTokenId()},
			generation{s, team, expiredAt})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.GenerateTokenResponse{TeamToken: toProto(made.token), Secret: made.secret.Reveal()}, nil
	})
}
