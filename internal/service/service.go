package service

import (
	"context"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Upstream is what the service reads of the Team Token API. Its errors are
// *upstream.Error.
type Upstream interface {
	ReadToken(ctx context.Context, team upstream.TeamID) (upstream.Token, error)
	ReadTokenByID(ctx context.Context, id upstream.TokenID) (upstream.Token, error)
	ListTokens(ctx context.Context, organization upstream.Organization, l upstream.ListOptions) (upstream.Page, error)
}

// Limits are what requests are held against.
type Limits struct {
	// MaxTokenTTL caps the life that a token may be asked for, and is asked for
	// where the caller and DefaultTokenTTL say nothing.
	MaxTokenTTL time.Duration
	// DefaultTokenTTL is asked for where the caller says nothing.
	DefaultTokenTTL time.Duration
}

// Service implements TeamTokenService. It is safe for concurrent use.
type Service struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer

	upstream Upstream
	engine   *mutation.Engine
	limits   Limits
}

// New returns a service that reads from u, and has changes carried out by e.
func New(u Upstream, e *mutation.Engine, l Limits) *Service {
	return &Service{upstream: u, engine: e, limits: l}
}
