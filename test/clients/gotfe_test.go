package clients

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	tfe "github.com/hashicorp/go-tfe"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// client is the vendor's, as anybody would set it up.
type client struct {
	tfe.TeamTokens
	server
	given []string // the secrets that it was given, in order
}

func newClient(t *testing.T, s server, token string) *client {
	t.Helper()
	c, err := tfe.NewClient(&tfe.Config{Address: s.url, Token: token, RetryServerErrors: true})
	if err != nil {
		t.Fatal(err)
	}
	if version := c.RemoteAPIVersion(); version != "2.6" || !c.IsCloud() {
		t.Errorf("the ping answered version %q, app %q", version, c.AppName())
	}
	return &client{TeamTokens: c.TeamTokens, server: s}
}

// call is one thing done with a client.
type call func(context.Context, *client) (any, error)

func create(ctx context.Context, c *client) (any, error) { return c.Create(ctx, team) }
func read(ctx context.Context, c *client) (any, error)   { return c.Read(ctx, team) }
func remove(ctx context.Context, c *client) (any, error) { return nil, c.Delete(ctx, team) }

func createUntil(expiry time.Time) call {
	return func(ctx context.Context, c *client) (any, error) {
		return c.CreateWithOptions(ctx, team, tfe.TeamTokenCreateOptions{ExpiredAt: &expiry})
	}
}

// use presents the nth secret that the client was given to upstream itself, and
// returns the status of the answer.
func use(n int) call {
	return func(ctx context.Context, c *client) (any, error) {
		url := c.upstream + "/api/v2/organizations/" + simulator.Organization
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+c.given[n-1])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
}

// fault has upstream fail.
func fault(f simulator.Fault) call {
	return func(_ context.Context, c *client) (any, error) {
		c.sim.Inject(f)
		return nil, nil
	}
}

// sent counts the requests of a method, for the team's token, that got to upstream.
func sent(method string) call {
	return func(_ context.Context, c *client) (any, error) {
		n := 0
		for _, r := range c.sim.Requests() {
			if r.Method == method && r.Path == path {
				n++
			}
		}
		return n, nil
	}
}

// answer is what a call came to, with ids and secrets by name.
type answer struct {
	Value any
	Err   error
}

// expect makes a call, and ends the test if it comes to anything else.
func (c *client) expect(t *testing.T, what string, f call, want answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v, err := f(ctx, c)
	if diff := cmp.Diff(want, answer{c.named(v), err}, cmpopts.EquateErrors()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// named is what a call returned, with ids and secrets by name. It keeps the
// secrets themselves for use.
func (c *client) named(v any) any {
	got, ok := v.(*tfe.TeamToken)
	if !ok {
		return v
	}
	if got == nil {
		return nil
	}
	if got.Token != "" {
		c.given = append(c.given, got.Token)
	}
	token := *got
	token.ID, token.Token = c.idOf(got.ID), c.secretOf(got.Token)
	return token
}

// The answers that there are.
var (
	done         = answer{}
	lives        = answer{Value: http.StatusOK}
	dead         = answer{Value: http.StatusUnauthorized}
	notFound     = answer{Err: tfe.ErrResourceNotFound}
	unauthorized = answer{Err: tfe.ErrUnauthorized}
	refused      = answer{Err: cmpopts.AnyError}
)

// described is the metadata of a token that has never been used.
func described(id string, expiry time.Time) answer {
	return answer{Value: tfe.TeamToken{
		ID:        id,
		CreatedAt: clock,
		ExpiredAt: expiry,
		CreatedBy: &tfe.CreatedByChoice{User: &tfe.User{ID: user}},
		Team:      &tfe.Team{ID: team},
	}}
}

// but returns the answer with one thing about its token changed.
func (a answer) but(change func(*tfe.TeamToken)) answer {
	token := a.Value.(tfe.TeamToken)
	change(&token)
	a.Value = token
	return a
}

func (a answer) with(token string) answer {
	return a.but(func(t *tfe.TeamToken) { t.Token = token })
}

func (a answer) usedAt(at time.Time) answer {
	return a.but(func(t *tfe.TeamToken) { t.LastUsedAt = at })
}

func (a answer) by(creator tfe.CreatedByChoice) answer {
	return a.but(func(t *tfe.TeamToken) { t.CreatedBy = &creator })
}

type step struct {
	do   call
	want answer
}

// What go-tfe's TeamTokens does through the program comes to what it comes to
// without.
func TestTeamTokens(t *testing.T) {
	soon := clock.Add(time.Hour)
	for _, row := range []struct {
		name  string
		steps []step
	}{
		{"Create gives a token that works", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{use(1), lives},
		}},
		{"a second Create kills the first token", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{use(1), lives},
			{create, described("id 2", inTwoYears).with("secret 2")},
			{use(1), dead},
			{use(2), lives},
		}},
		{"CreateWithOptions without any is Create", []step{
			{func(ctx context.Context, c *client) (any, error) {
				return c.CreateWithOptions(ctx, team, tfe.TeamTokenCreateOptions{})
			}, described("id 1", inTwoYears).with("secret 1")},
		}},
		{"CreateWithOptions with an expiry", []step{
			{createUntil(soon), described("id 1", soon).with("secret 1")},
			{read, described("id 1", soon)},
		}},
		{"an expiry in another time zone is the same instant", []step{
			{createUntil(soon.In(time.FixedZone("", 5*3600))), described("id 1", soon).with("secret 1")},
		}},
		{"an expiry in the past is refused, and the present token lives on", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{createUntil(time.Unix(0, 0)), refused},
			{createUntil(clock.Add(-time.Hour)), refused}, // which upstream alone can know
			{use(1), lives},
		}},
		{"Read shows no secret", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{read, described("id 1", inTwoYears)},
		}},
		{"Read tells when the token was used", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{use(1), lives},
			{read, described("id 1", inTwoYears).usedAt(clock)},
		}},
		{"Delete kills the token, and Read finds none", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{remove, done},
			{use(1), dead},
			{read, notFound},
		}},
		{"Delete of no token", []step{{remove, notFound}}},
		{"Read of no token", []step{{read, notFound}}},
		{"a team that does not exist", []step{
			{func(ctx context.Context, c *client) (any, error) { return c.Create(ctx, "team-0000000000000000") }, notFound},
			{func(ctx context.Context, c *client) (any, error) { return c.Read(ctx, "team-0000000000000000") }, notFound},
		}},
		{"as the Terraform provider: look, create, look, delete, delete", []step{
			{read, notFound},
			{create, described("id 1", inTwoYears).with("secret 1")},
			{read, described("id 1", inTwoYears)},
			{remove, done},
			{remove, notFound},
		}},
		{"a rate limit is waited for", []step{
			{fault(simulator.Fault{Status: http.StatusTooManyRequests}), done},
			{create, described("id 1", inTwoYears).with("secret 1")},
			{sent(http.MethodPost), answer{Value: 2}},
		}},
		{"a Read survives that upstream fails once", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{fault(simulator.Fault{Status: http.StatusServiceUnavailable}), done},
			{read, described("id 1", inTwoYears)},
			{sent(http.MethodGet), answer{Value: 2}},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, surfaces, func(t *testing.T, s server) {
				c := newClient(t, s, s.token)
				for i, step := range row.steps {
					c.expect(t, "step "+strconv.Itoa(i+1), step.do, step.want)
				}
			})
		})
	}
}

// A token is made by whoever holds the credential that upstream sees.
func TestCreator(t *testing.T) {
	for _, row := range []struct {
		name       string
		credential func(*simulator.Simulator) secret.Text
		creator    tfe.CreatedByChoice
	}{
		{"user", (*simulator.Simulator).UserToken, tfe.CreatedByChoice{User: &tfe.User{ID: user}}},
		{"team", (*simulator.Simulator).OwnerToken, tfe.CreatedByChoice{Team: &tfe.Team{ID: "team-6p5jTwJQXwqZBncC"}}},
		{"organization", (*simulator.Simulator).OrganizationToken,
			tfe.CreatedByChoice{Organization: &tfe.Organization{Name: simulator.Organization}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, credentialed, func(t *testing.T, s server) {
				c := newClient(t, s, row.credential(s.sim).Reveal())
				c.expect(t, "create", create, described("id 1", inTwoYears).with("secret 1").by(row.creator))
			})
		})
	}
}

// A bad credential gets nothing done, and is told so as upstream tells it.
func TestBadCredential(t *testing.T) {
	for _, row := range []struct {
		name       string
		credential func(made string) string
		want       answer
	}{
		{"unknown to upstream", func(string) string { return "wrong" }, unauthorized},
		{"may not manage tokens", func(made string) string { return made }, notFound},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, credentialed, func(t *testing.T, s server) {
				good := newClient(t, s, s.token)
				good.expect(t, "create", create, described("id 1", inTwoYears).with("secret 1"))

				bad := newClient(t, s, row.credential(good.given[0]))
				bad.expect(t, "create", create, row.want)
				bad.expect(t, "create with an expiry", createUntil(clock.Add(time.Hour)), row.want)
				bad.expect(t, "read", read, row.want)
				bad.expect(t, "delete", remove, row.want)

				good.expect(t, "use", use(1), lives)
				if made := len(s.sim.Minted()); made != 1 {
					t.Errorf("%d tokens were made, want the first alone", made)
				}
			})
		})
	}
}
