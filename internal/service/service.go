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
	CreateNamedToken(
		ctx context.Context, team upstream.TeamID, description string, expiredAt time.Time,
	) (upstream.Token, secret.Text, error)
	ReadTokenByID(ctx context.Context, id upstream.TokenID) (upstream.Token, error)
	DeleteTokenByID(ctx context.Context, id upstream.TokenID) error
	ListTokens(ctx context.Context, organization upstream.Organization, l upstream.List) (upstream.Page, error)
}

// Options are the service's own limits, and whom it tells; the zero value has none.
type Options struct {
	// MaxTokenTTL caps the life that a token may be asked for, and is asked for
	// where the caller and DefaultTokenTTL say nothing.
	MaxTokenTTL time.Duration
	// DefaultTokenTTL is asked for where the caller says nothing.
	DefaultTokenTTL time.Duration
	// MayTouch, if set, is asked once the team of a token is known that a call names
	// by its id: such a call comes here before anybody could ask.
	MayTouch func(ctx context.Context, team string) bool
	// Late, if set, is told what became of a change that ended after its caller had
	// been answered: its response, or its error.
	Late func(ctx context.Context, resp any, err error)
	// Flying, if set, is told that a change begins, which goes on without its caller;
	// it returns what is to be told that the change has ended.
	Flying func(ctx context.Context) (landed func())
}

// Service implements TeamTokenService. It is safe for concurrent use.
type Service struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer

	upstream Upstream
	options  Options
	log      *slog.Logger
	flights  *flights
	turns    turns
	records  records
}

// New returns a service in front of u, which logs to log what no caller is told.
func New(u Upstream, o Options, log *slog.Logger) *Service {
	if o.MayTouch == nil {
		o.MayTouch = func(context.Context, string) bool { return true }
	}
	if o.Late == nil {
		o.Late = func(context.Context, any, error) {}
	}
	if o.Flying == nil {
		o.Flying = func(context.Context) func() { return func() {} }
	}
	return &Service{upstream: u, options: o, log: log, flights: newFlights()}
}

// End has the caller of every change under way answered, that its outcome is
// unknown: what it would be told otherwise is UNAVAILABLE, by a connection that
// is closed.
func (s *Service) End() { s.flights.end() }

// Drain waits for the changes that are under way, or for the end of ctx.
func (s *Service) Drain(ctx context.Context) { s.flights.drain(ctx) }
