package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// CreateNamedToken makes one more token of the team.
func (s *Service) CreateNamedToken(
	ctx context.Context, req *teamtokenv1.CreateNamedTokenRequest,
) (*teamtokenv1.CreateNamedTokenResponse, error) {
	var v violations
	team := v.teamID("team_id", req.GetTeamId())
	v.description("description", req.Description)
	expiredAt := v.expiry("expired_at", req.GetExpiredAt(), s.options)
	v.requestID("request_id", req.GetRequestId())
	if err := v.err(changeTeam); err != nil {
		return nil, err
	}
	return fly(ctx, s, change{"CreateNamedToken", team.String()}, func(ctx context.Context) (*teamtokenv1.CreateNamedTokenResponse, error) {
		current := func(id string) (upstream.Token, error) {
			tokenID, _ := upstream.ParseTokenID(id) // the upstream client lets no other through
			return s.upstream.ReadTokenByID(ctx, tokenID)
		}
		made, err := s.once(ctx, req, current, func() (issued, error) {
			free, err := s.turns.take(ctx, team, shared)
			if err != nil {
				return issued{}, err
			}
			defer free()
			token, text, err := s.upstream.CreateNamedToken(ctx, team, req.GetDescription(), expiredAt)
			if err != nil {
				return issued{}, translate(ctx, err, changeTeam)
			}
			return issued{token, text}, nil
		})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.CreateNamedTokenResponse{TeamToken: toProto(made.token), Secret: made.secret.Reveal()}, nil
	})
}
