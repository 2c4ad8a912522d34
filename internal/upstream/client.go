package upstream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// Options is what a Client needs. All but Credential and Tracer must be set.
type Options struct {
	// Address is the scheme and host of the upstream, `https://app.terraform.io`.
	Address string
	// Transport gives the transport of the next request: it may change when the
	// trusted CAs do.
	Transport func() http.RoundTripper
	// Credential is the service's own. Nil means that each call brings its
	// caller's, see calls.Call.
	Credential Credential
	// Timeout bounds one request, from dialling to the last byte of the answer.
	Timeout time.Duration
	// UserAgent names this program and its version.
	UserAgent string
	// OnAttempt is told of every request that ended, with its call's context.
	OnAttempt func(context.Context, Attempt)
	// RateLimiter says when each request may be sent.
	RateLimiter RateLimiter
	// Tracer, if set, makes a span of each request, which the upstream is told of.
	Tracer trace.Tracer
}

// RateLimiter keeps requests within what the upstream takes.
type RateLimiter interface {
	// Wait waits until a request may be sent. Its error says that this does not fit
	// into ctx: a Throttled, an Exhausted, or a RateLimited.
	Wait(ctx context.Context, mutates bool) *Error
	// SetLimit is told how many requests in a second the upstream takes with the
	// credential of ctx. Only a good answer says so: any other may be about somebody
	// whom the upstream does not know, or not the upstream's own at all.
	SetLimit(ctx context.Context, perSecond float64)
	// Block is told for how long the upstream takes none.
	Block(ctx context.Context, d time.Duration)
}

// Credential is a bearer secret that may be rotated while it is in use.
type Credential interface {
	// Get returns the present secret. It is called for each request.
	Get() secret.Text
	// Refresh looks now whether there is a new one, and reports it. It is called
	// when the upstream does not accept the present one.
	Refresh() bool
}

// Attempt is one request to the upstream, when it has ended.
type Attempt struct {
	Method    string
	Template  string        // its path, with the ids' names in their place
	Status    int           // 0 where there was no answer
	Failure   string        // the name of a Kind; empty if it went well
	RequestID string        // the upstream's id of it, if it gave a well-formed one
	Duration  time.Duration // from before the connection to after the answer
	Host      string        // the upstream's
	Port      int
}

// Client calls one upstream. It is safe for concurrent use.
type Client struct {
	options Options
	base    url.URL
	circuit *gobreaker.TwoStepCircuitBreaker[answer]
}

// New returns a Client, or an error that says what is wrong with the address.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Address)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return nil, fmt.Errorf("upstream address %q is not of the form https://HOST", o.Address)
	}
	return &Client{options: o, base: url.URL{Scheme: base.Scheme, Host: base.Host}, circuit: newCircuit()}, nil
}

// CircuitOpen reports whether the upstream is not asked at present, since it could
// not be reached several times in a row.
func (c *Client) CircuitOpen() bool { return c.circuit.State() == gobreaker.StateOpen }

// Lease is for how long changes may be made that go on without their caller.
type Lease interface {
	// Done is closed when it is over; nil if it never is.
	Done() <-chan struct{}
	// Err says whether it is over by now: a process that stood still has not closed
	// Done yet when it goes on.
	Err() error
}

// Send is how the requests of a context are sent.
type Send struct {
	// Lease bounds changes, which go on when the context ends. Nil does not.
	Lease Lease
	// NoWait has a call not wait after a 429: it is its error, with the time to wait.
	NoWait bool
	// Change says that reads are part of a change, and go with it.
	Change bool
	// Reserved says that the rate limiter has room already for one request: the first
	// that finds it true, and sets it to false.
	Reserved *atomic.Bool
}

type sendKey struct{}

// WithSend returns a context whose requests are sent as s says.
func WithSend(ctx context.Context, s Send) context.Context {
	return context.WithValue(ctx, sendKey{}, s)
}

// SendFrom is how the requests of ctx are sent.
func SendFrom(ctx context.Context) Send {
	s, _ := ctx.Value(sendKey{}).(Send)
	return s
}

// CreateToken makes the team's token, which revokes the one before, and returns
// the only copy of its secret. A zero expiredAt leaves the expiry to the upstream.
func (c *Client) CreateToken(ctx context.Context, team TeamID, expiredAt time.Time) (Token, secret.Text, error) {
	return c.create(ctx, team, request{template: teamTemplate, path: teamPath(team), body: encodeRequest(nil, expiredAt)})
}

// CreateNamedToken makes one more token of the team and returns the only copy of
// its secret. A description that is taken is a DescriptionTaken.
func (c *Client) CreateNamedToken(
	ctx context.Context, team TeamID, description string, expiredAt time.Time,
) (Token, secret.Text, error) {
	return c.create(ctx, team, request{
		template: teamTemplate + "s", path: teamPath(team) + "s", body: encodeRequest(&description, expiredAt), optional: true,
	})
}

func (c *Client) create(ctx context.Context, team TeamID, r request) (Token, secret.Text, error) {
	r.method, r.mutates = http.MethodPost, true
	answer, err := c.call(ctx, r)
	if err != nil {
		return Token{}, secret.Text{}, err
	}
	token, text, err := decodeNewToken(answer.body)
	switch {
	case err == nil: // a document with an end is whole, whatever came after it
	case answer.status == http.StatusAccepted: // it may still be carried out, or not
		return Token{}, secret.Text{}, &Error{Kind: NoResponse, Status: answer.status, RequestID: answer.requestID, Cause: err}
	case answer.cut != nil:
		return Token{}, secret.Text{}, answer.invalid(answer.cut)
	default:
		return Token{}, secret.Text{}, answer.invalid(err)
	}
	if token.TeamID != "" && token.TeamID != team.id {
		// An answer to another request: what became of this one is not known, and
		// that secret is not for this caller.
		c.closeIdle()
		return Token{}, secret.Text{}, &Error{Kind: NoResponse, Status: answer.status, RequestID: answer.requestID, Cause: errOtherTeam}
	}
	return token, text, nil
}

// closeIdle gives up connections on which answers may be out of step.
func (c *Client) closeIdle() {
	if t, ok := c.options.Transport().(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// ReadToken describes the team's token.
func (c *Client) ReadToken(ctx context.Context, team TeamID) (Token, error) {
	return c.read(ctx, request{template: teamTemplate, path: teamPath(team)})
}

// ReadTokenByID describes any token: its TeamID is empty if it is not a team's.
func (c *Client) ReadTokenByID(ctx context.Context, id TokenID) (Token, error) {
	return c.read(ctx, request{template: tokenTemplate, path: tokenPath(id), optional: true})
}

func (c *Client) read(ctx context.Context, r request) (Token, error) {
	r.method = http.MethodGet
	answer, err := c.call(ctx, r)
	if err != nil {
		return Token{}, err
	}
	token, _, err := decodeToken(answer.body)
	if err != nil {
		return Token{}, answer.invalid(err)
	}
	token.Seen = answer.date
	return token, nil
}

// DeleteToken revokes the team's token.
func (c *Client) DeleteToken(ctx context.Context, team TeamID) error {
	_, err := c.call(ctx, request{template: teamTemplate, method: http.MethodDelete, path: teamPath(team), mutates: true})
	return err
}

// DeleteTokenByID revokes any token, be it a team's or not.
func (c *Client) DeleteTokenByID(ctx context.Context, id TokenID) error {
	_, err := c.call(ctx, request{
		template: tokenTemplate, method: http.MethodDelete, path: tokenPath(id), mutates: true, optional: true,
	})
	return err
}

// ListOptions says which page of which team tokens to list.
type ListOptions struct {
	Query        string   // in the team's name
	Sort         string   // empty for the upstream's order
	ExpiryStatus []string // any of these; none for all
	Page, Size   int      // from 1; 1 to 100
}

// ListTokens describes a page of the tokens of an organization's teams.
func (c *Client) ListTokens(ctx context.Context, organization Organization, l ListOptions) (Page, error) {
	query := url.Values{"page[number]": {strconv.Itoa(l.Page)}, "page[size]": {strconv.Itoa(l.Size)}}
	if l.Query != "" {
		query.Set("q", l.Query)
	}
	if l.Sort != "" {
		query.Set("sort", l.Sort)
	}
	if len(l.ExpiryStatus) > 0 {
		query.Set("filter[expiry_status]", strings.Join(l.ExpiryStatus, ","))
	}
	answer, err := c.call(ctx, request{
		template: "/api/v2/organizations/{organization}/team-tokens", method: http.MethodGet,
		path: "/api/v2/organizations/" + organization.name + "/team-tokens", query: query.Encode(), optional: true, limit: maxListBody,
	})
	if err != nil {
		return Page{}, err
	}
	page, err := decodeList(answer.body)
	if err != nil {
		return Page{}, answer.invalid(err)
	}
	page.Seen = answer.date
	return page, nil
}

// ListOrganizations are the organizations that the credential can see, the first
// hundred of them: who has more names them.
func (c *Client) ListOrganizations(ctx context.Context) ([]Organization, error) {
	answer, err := c.call(ctx, request{
		template: organizationsPath, method: http.MethodGet, path: organizationsPath, query: "page%5Bsize%5D=100",
		optional: true, limit: maxListBody,
	})
	if err != nil {
		return nil, err
	}
	organizations, err := decodeOrganizations(answer.body)
	if err != nil {
		return nil, answer.invalid(err)
	}
	return organizations, nil
}

// Ping asks for nothing, which shows how many requests the upstream takes.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, request{template: pingPath, method: http.MethodGet, path: pingPath})
	return err
}

// The paths, as metrics and traces have them: with the names of the ids.
const (
	teamTemplate      = "/api/v2/teams/{team_id}/authentication-token"
	tokenTemplate     = "/api/v2/authentication-tokens/{token_id}" //nolint:gosec // is no token
	organizationsPath = "/api/v2/organizations"
	pingPath          = "/api/v2/ping"
)

func teamPath(team TeamID) string { return "/api/v2/teams/" + team.id + "/authentication-token" }
func tokenPath(id TokenID) string { return "/api/v2/authentication-tokens/" + id.id }
