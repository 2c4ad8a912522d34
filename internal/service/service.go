package service

import (
	"context"
	"log/slog"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Upstream is what the service needs of the Team Token API. Its errors are
// *upstream.Error.
type Upstream interface {
	CreateToken(ctx context.Context, team upstream.TeamID, expiredAt time.Time) (upstream.Token, secret.Text, error)
	ReadToken(ctx context.Context, team upstream.TeamID) (upstream.Token, error)
	DeleteToken(ctx context.Context, team upstream.TeamID) error
}

// Service implements TeamTokenService. It is safe for concurrent use.
type Service struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer

	upstream Upstream
	log      *slog.Logger
	flights  flights
	turns    turns
	records  records
}

// New returns a service in front of u, which logs to log what no caller is told.
func New(u Upstream, log *slog.Logger) *Service {
	return &Service{upstream: u, log: log}
}

// Drain waits for the changes that are under way, or for the end of ctx.
func (s *Service) Drain(ctx context.Context) { s.flights.drain(ctx) }
