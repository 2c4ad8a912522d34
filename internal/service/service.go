package service

import (
	"context"
	"log/slog"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
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
	ListOrganizations(ctx context.Context) ([]upstream.Organization, error)
}

// Options are what the service needs besides its upstream. Store, Budget and Keys
// must be set, and Hold must be the store's; the rest are limits, and whom it tells.
type Options struct {
	// Store is what the replicas share.
	Store state.Store
	// Budget is the upstream client's.
	Budget *budget.Budget
	// Keys seal answers that are kept.
	Keys func() *seal.Keys
	// Hold is how long a team is held back after an unknown outcome.
	Hold time.Duration
	// MaxRecords is how many records of requests may be kept of one caller; 0 is no limit.
	MaxRecords int
	// Rejected, if set, is called for each stored value that was rejected: see
	// state.RedisOptions.
	Rejected func(ctx context.Context, kind, team string, why error)
	// Organizations are those whose lists may show a token that was lost; none stands
	// for all that the credential can see.
	Organizations []upstream.Organization
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
	// Journal, if set, is what has to be written down of the call of ctx, so that
	// another process can tell what became of it.
	Journal func(ctx context.Context) any
	// Resume, if set, returns a context of the call that a journal is of.
	Resume func(ctx context.Context, journal any) context.Context
	// Redrive, if set, is told before one more request for the same call changes
	// something: of which method that is, and which token it is about. Its error
	// keeps it from being sent.
	Redrive func(ctx context.Context, method, token string) error
	// Replayed, if set, is told how a call went that found the record of its request
	// id: answered, joined, superseded, expired or failed.
	Replayed func(ctx context.Context, kind string)
	// Pulse, if set, is told from time to time what there is to know of all replicas,
	// or that the store does not answer.
	Pulse func(state.ClusterStatus, error)
	// Settled, if set, is told what became of a call whose outcome was unknown, and
	// which token it made.
	Settled func(ctx context.Context, token string, outcome reason.Outcome)
}

// Service implements TeamTokenService. It is safe for concurrent use.
type Service struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer

	upstream   Upstream
	options    Options
	store      state.Store
	budget     *budget.Budget
	log        *slog.Logger
	flights    *flights
	running    running
	locks      lockQueues
	acceptance acceptance
	replica    string          // its name in the queues that replicas share
	background context.Context //nolint:containedctx // of what nobody waits for
	abandon    func()
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
	if o.Journal == nil {
		o.Journal = func(context.Context) any { return nil }
	}
	if o.Resume == nil {
		o.Resume = func(ctx context.Context, _ any) context.Context { return ctx }
	}
	if o.Redrive == nil {
		o.Redrive = func(context.Context, string, string) error { return nil }
	}
	if o.Replayed == nil {
		o.Replayed = func(context.Context, string) {}
	}
	if o.Rejected == nil {
		o.Rejected = func(context.Context, string, string, error) {}
	}
	if o.Pulse == nil {
		o.Pulse = func(state.ClusterStatus, error) {}
	}
	if o.Settled == nil {
		o.Settled = func(context.Context, string, reason.Outcome) {}
	}
	background, abandon := context.WithCancel(context.Background())
	return &Service{
		upstream: u, options: o, store: o.Store, budget: o.Budget, log: log, flights: newFlights(), background: background, abandon: abandon,
		acceptance: acceptance{memory{life: acceptedLife}, memory{life: refusedLife}}, replica: state.NewOwner(),
	}
}

// End has the caller of every change under way answered, that its outcome is
// unknown: what it would be told otherwise is UNAVAILABLE, by a connection that
// is closed.
func (s *Service) End() { s.flights.end() }

// Drain waits for the changes that are under way, or for the end of ctx.
func (s *Service) Drain(ctx context.Context) {
	s.flights.drain(ctx)
	s.abandon()
}

// The methods that change something, as they are written down.
const (
	methodGenerateToken    = "GenerateToken"
	methodDeleteToken      = "DeleteToken"
	methodCreateNamedToken = "CreateNamedToken"
	methodDeleteTokenByID  = "DeleteTokenByID"
)
