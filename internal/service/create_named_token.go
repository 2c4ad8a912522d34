package service

import (
	"context"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/state"
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
	what := change{method: methodCreateNamedToken, subject: team.String()}
	if req.GetRequestId() == "" { // nobody can ask for it again
		what.undelivered = s.discardLate
	}
	return fly(ctx, s, what, func(ctx context.Context) (*teamtokenv1.CreateNamedTokenResponse, error) {
		made, err := s.issue(ctx, req,
			state.Operation{Method: methodCreateNamedToken, Team: team.String(), Description: req.GetDescription()},
			creation{s, team, req.GetDescription(), expiredAt})
		if err != nil {
			return nil, err
		}
		return &teamtokenv1.CreateNamedTokenResponse{TeamToken: toProto(made.token), Secret: made.secret.Reveal()}, nil
	})
}
