package clients

import (
	"context"
	"net/http"
	"strconv"
	"strings"
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

func createWith(options tfe.TeamTokenCreateOptions) call {
	return func(ctx context.Context, c *client) (any, error) { return c.CreateWithOptions(ctx, team, options) }
}

func createUntil(expiry time.Time) call {
	return createWith(tfe.TeamTokenCreateOptions{ExpiredAt: &expiry})
}

func createNamed(description string) call {
	return createWith(tfe.TeamTokenCreateOptions{Description: &description})
}

// An id is that of a token which is there only once the test runs.
type id func(*client) string

func nth(n int) id         { return func(c *client) string { return c.sim.Minted()[n-1].ID } }
func plain(text string) id { return func(*client) string { return text } }

func usersOwn(c *client) string         { return c.sim.TokenID(c.sim.UserToken()) }
func organizationsOwn(c *client) string { return c.sim.TokenID(c.sim.OrganizationToken()) }

func readByID(token id) call {
	return func(ctx context.Context, c *client) (any, error) { return c.ReadByID(ctx, token(c)) }
}

func removeByID(token id) call {
	return func(ctx context.Context, c *client) (any, error) { return nil, c.DeleteByID(ctx, token(c)) }
}

// use presents the nth secret that there was to upstream itself, and returns the
// status of the answer.
func use(n int) call {
	return func(ctx context.Context, c *client) (any, error) {
		url := c.upstream + "/api/v2/organizations/" + simulator.Organization
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+c.sim.Minted()[n-1].Secret.Reveal())
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

	// Program is what it comes to through the program, where that differs from
	// upstream, and is meant to.
	Program *answer
}

// says is an error of which go-tfe makes the text, from the title and the detail
// that it was answered.
type says string

func (s says) Error() string        { return string(s) }
func (s says) Is(target error) bool { return target.Error() == string(s) }

func fails(title, detail string) answer {
	if detail != "" {
		title += "\n\n" + detail
	}
	return answer{Err: says(title)}
}

// expect makes a call, and ends the test if it comes to anything else.
func (c *client) expect(t *testing.T, what string, f call, want answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if want.Program != nil && c.url != c.upstream {
		want = *want.Program
	}
	want.Program = nil
	v, err := f(ctx, c)
	if diff := cmp.Diff(want, answer{Value: c.named(v), Err: err}, cmpopts.EquateErrors()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// listed is a page of a list, with its tokens by name.
type listed struct {
	tfe.Pagination
	IDs []string
}

// named is what a call returned, with ids and secrets by name.
func (c *client) named(v any) any {
	var got *tfe.TeamToken
	switch v := v.(type) {
	case *tfe.TeamToken:
		got = v
	case *tfe.TeamTokenList:
		if v == nil {
			return nil
		}
		page := listed{Pagination: *v.Pagination}
		for _, token := range v.Items {
			page.IDs = append(page.IDs, c.idOf(token.ID))
		}
		return page
	default:
		return v
	}
	if got == nil {
		return nil
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
)

// through returns the answer with what the program answers instead.
func (a answer) through(program answer) answer {
	a.Program = &program
	return a
}

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

func (a answer) about(description string) answer {
	return a.but(func(t *tfe.TeamToken) { t.Description = &description })
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
	past := fails("invalid attributes", "Validation failed: Expired at must be in the future")
	taken := fails("invalid attributes", "Validation failed: Description has already been taken")
	rejected := fails("unprocessable entity", "The upstream refused what was asked for. Nothing was changed. "+
		"Check the expiry against what the organization allows.")
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
			{createWith(tfe.TeamTokenCreateOptions{}), described("id 1", inTwoYears).with("secret 1")},
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
			{createUntil(time.Unix(0, 0)), past.through(
				fails("bad request", "/data/attributes/expired-at: must be in the future"))},
			{createUntil(clock.Add(-time.Hour)), past.through(rejected)}, // which upstream alone can know
			{use(1), lives},
		}},
		{"a description makes one more token, and kills none", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{createNamed("ci"), described("id 2", inTwoYears).about("ci").with("secret 2")},
			{createNamed("cd"), described("id 3", inTwoYears).about("cd").with("secret 3")},
			{use(1), lives},
			{use(2), lives},
			{use(3), lives},
		}},
		{"an empty description is one", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{createNamed(""), described("id 2", inTwoYears).about("").with("secret 2")},
			{createNamed(""), taken},
			{use(1), lives},
		}},
		{"a description and an expiry", []step{
			{
				createWith(tfe.TeamTokenCreateOptions{Description: new("ci"), ExpiredAt: &soon}),
				described("id 1", soon).about("ci").with("secret 1"),
			},
			{readByID(nth(1)), described("id 1", soon).about("ci")},
		}},
		{"a description that is taken is refused in the vendor's words, and its token lives on", []step{
			{createNamed("ci"), described("id 1", inTwoYears).about("ci").with("secret 1")},
			{createNamed("ci"), taken},
			{use(1), lives},
		}},
		{"a description is free again once its token is deleted", []step{
			{createNamed("ci"), described("id 1", inTwoYears).about("ci").with("secret 1")},
			{removeByID(nth(1)), done},
			{createNamed("ci"), described("id 2", inTwoYears).about("ci").with("secret 2")},
		}},
		{"a description and an expiry in the past", []step{
			{createWith(tfe.TeamTokenCreateOptions{Description: new("ci"), ExpiredAt: new(time.Unix(0, 0))}), past.through(
				fails("bad request", "/data/attributes/expired-at: must be in the future"))},
			{
				createWith(tfe.TeamTokenCreateOptions{Description: new("ci"), ExpiredAt: new(clock.Add(-time.Hour))}),
				past.through(rejected),
			},
			{createNamed("ci"), described("id 1", inTwoYears).about("ci").with("secret 1")},
		}},
		{"upstream sets no limit to a description, the program does", []step{
			{
				createNamed(strings.Repeat("x", 1025)),
				described("id 1", inTwoYears).about(strings.Repeat("x", 1025)).with("secret 1").through(
					fails("bad request", "/data/attributes/description: must not be longer than 1024 bytes")),
			},
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
		{"ReadByID shows no secret, of either kind of token", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{createNamed("ci"), described("id 2", inTwoYears).about("ci").with("secret 2")},
			{readByID(nth(1)), described("id 1", inTwoYears)},
			{use(2), lives},
			{readByID(nth(2)), described("id 2", inTwoYears).about("ci").usedAt(clock)},
		}},
		{"Read does not find a token with a description", []step{
			{createNamed("ci"), described("id 1", inTwoYears).about("ci").with("secret 1")},
			{read, notFound},
			{remove, notFound},
			{use(1), lives},
		}},
		{"ReadByID of no token", []step{
			{readByID(plain("at-0000000000000000")), notFound},
			{readByID(plain("at_1")), notFound.through(
				fails("bad request", "token_id: must be 1 to 64 letters, digits and hyphens"))},
		}},
		{"ReadByID of a token that was replaced", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{create, described("id 2", inTwoYears).with("secret 2")},
			{readByID(nth(1)), notFound},
		}},
		{"the program shows the tokens of teams alone", []step{
			{readByID(usersOwn), described("the user's", time.Time{}).usedAt(clock).but(func(t *tfe.TeamToken) {
				t.Team = nil
			}).through(notFound)},
			{readByID(organizationsOwn), described("the organization's", time.Time{}).but(func(t *tfe.TeamToken) {
				t.Team = nil
			}).through(notFound)},
		}},
		{"a team's id stands for its token upstream, and for none in the program", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{readByID(plain(team)), described("id 1", inTwoYears).through(notFound)},
			{removeByID(plain(team)), done.through(notFound)},
			{use(1), dead.through(lives)},
		}},
		{"DeleteByID kills that token alone", []step{
			{create, described("id 1", inTwoYears).with("secret 1")},
			{createNamed("ci"), described("id 2", inTwoYears).about("ci").with("secret 2")},
			{removeByID(nth(2)), done},
			{use(1), lives},
			{use(2), dead},
			{removeByID(nth(2)), notFound},
			{removeByID(nth(1)), done},
			{use(1), dead},
			{read, notFound},
		}},
		{"DeleteByID of no token", []step{
			{removeByID(plain("at-0000000000000000")), notFound},
			{removeByID(plain("at_1")), notFound.through(
				fails("bad request", "token_id: must be 1 to 64 letters, digits and hyphens"))},
		}},
		{"the program deletes the tokens of teams alone", []step{
			{removeByID(organizationsOwn), done.through(notFound)},
			{removeByID(usersOwn), done.through(notFound)},
		}},
		{"a team that does not exist", []step{
			{func(ctx context.Context, c *client) (any, error) {
				return c.CreateWithOptions(ctx, "team-0000000000000000", tfe.TeamTokenCreateOptions{Description: new("ci")})
			}, notFound},
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
		{
			"organization", (*simulator.Simulator).OrganizationToken,
			tfe.CreatedByChoice{Organization: &tfe.Organization{Name: simulator.Organization}},
		},
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

				bad := newClient(t, s, row.credential(s.sim.Minted()[0].Secret.Reveal()))
				bad.expect(t, "create", create, row.want)
				bad.expect(t, "create with an expiry", createUntil(clock.Add(time.Hour)), row.want)
				bad.expect(t, "read", read, row.want)
				bad.expect(t, "delete", remove, row.want)
				bad.expect(t, "create with a description", createNamed("ci"), row.want)
				bad.expect(t, "read by id", readByID(nth(1)), row.want)
				bad.expect(t, "delete by id", removeByID(nth(1)), row.want)
				bad.expect(t, "list", list(nil), row.want)

				good.expect(t, "use", use(1), lives)
				if made := len(s.sim.Minted()); made != 1 {
					t.Errorf("%d tokens were made, want the first alone", made)
				}
			})
		})
	}
}

func list(options *tfe.TeamTokenListOptions) call {
	return func(ctx context.Context, c *client) (any, error) { return c.List(ctx, simulator.Organization, options) }
}

// A list's tokens are of each creator, each team and each time of expiry. They are
// made at upstream itself, since the program lends its caller no other credential.
func makeList(t *testing.T, s server) {
	t.Helper()
	for i, token := range []struct {
		credential        secret.Text
		team, description string
		life              time.Duration
	}{
		{s.sim.UserToken(), "platform", "", 2 * 365 * 24 * time.Hour},
		{s.sim.OwnerToken(), "payments", "ci", 3 * 24 * time.Hour},
		{s.sim.OrganizationToken(), "Data Science", "", 20 * 24 * time.Hour},
		{s.sim.UserToken(), "observability", "ci", 365 * 24 * time.Hour},
	} {
		c := newClient(t, server{url: s.upstream, upstream: s.upstream, sim: s.sim}, token.credential.Reveal())
		options := tfe.TeamTokenCreateOptions{ExpiredAt: new(clock.Add(token.life))}
		if token.description != "" {
			options.Description = &token.description
		}
		if _, err := c.CreateWithOptions(t.Context(), simulator.Teams()[i].ID, options); err != nil {
			t.Fatal(err)
		}
		if simulator.Teams()[i].Name != token.team {
			t.Fatalf("team %d is %q", i, simulator.Teams()[i].Name)
		}
	}
}

// A list through the program is upstream's: the same tokens in the same order,
// and the same pages.
func TestList(t *testing.T) {
	type options = tfe.TeamTokenListOptions
	page := func(number, size int) tfe.ListOptions { return tfe.ListOptions{PageNumber: number, PageSize: size} }
	found := func(p tfe.Pagination, ids ...string) answer { return answer{Value: listed{p, ids}} }
	all := func(ids ...string) answer {
		return found(tfe.Pagination{CurrentPage: 1, TotalPages: 1, TotalCount: len(ids)}, ids...)
	}
	const sorts = "team-name, created-by, expired-at, last-used-at"
	for _, row := range []struct {
		name    string
		options *options
		want    answer
	}{
		{"no options: what expires first comes first", nil, all("id 2", "id 3", "id 4", "id 1")},
		{"empty options", &options{}, all("id 2", "id 3", "id 4", "id 1")},

		{"team-name", &options{Sort: "team-name"}, all("id 3", "id 4", "id 2", "id 1")},
		{"team-name, reversed", &options{Sort: "-team-name"}, all("id 1", "id 2", "id 4", "id 3")},
		{"created-by", &options{Sort: "created-by"}, all("id 3", "id 2", "id 1", "id 4")},
		{"created-by, reversed", &options{Sort: "-created-by"}, all("id 1", "id 4", "id 2", "id 3")},
		{"expired-at", &options{Sort: "expired-at"}, all("id 2", "id 3", "id 4", "id 1")},
		{"expired-at, reversed", &options{Sort: "-expired-at"}, all("id 1", "id 4", "id 3", "id 2")},
		{"last-used-at", &options{Sort: "last-used-at"}, all("id 3", "id 1", "id 2", "id 4")},
		{"last-used-at, reversed", &options{Sort: "-last-used-at"}, all("id 1", "id 2", "id 4", "id 3")},
		{"an order that there is not", &options{Sort: "name"}, fails("bad request", "").through(
			fails("bad request", "sort: must be one of "+sorts))},
		{"an order reversed twice", &options{Sort: "--team-name"}, fails("bad request", "").through(
			fails("bad request", "sort: must be one of "+sorts))},

		{"a part of one team's name", &options{Query: "plat"}, all("id 1")},
		{"in any case", &options{Query: "PLAT"}, all("id 1")},
		{"with a space", &options{Query: "data s"}, all("id 3")},
		{"in two teams' names", &options{Query: "pla"}, all("id 1")},
		{"in more, in order", &options{Query: "y", Sort: "team-name"}, all("id 4", "id 2")},
		{"in none", &options{Query: "none & no%20ne+"}, all()},
		{"as long as no team's name", &options{Query: strings.Repeat("x", 257)}, all().through(
			fails("bad request", "q: must not be longer than 256 bytes"))},

		{
			"the first page", &options{ListOptions: page(1, 3)},
			found(tfe.Pagination{CurrentPage: 1, NextPage: 2, TotalPages: 2, TotalCount: 4}, "id 2", "id 3", "id 4"),
		},
		{
			"the last page", &options{ListOptions: page(2, 3)},
			found(tfe.Pagination{CurrentPage: 2, PreviousPage: 1, TotalPages: 2, TotalCount: 4}, "id 1"),
		},
		{
			"a page after the last", &options{ListOptions: page(3, 3)},
			found(tfe.Pagination{CurrentPage: 3, PreviousPage: 2, TotalPages: 2, TotalCount: 4}),
		},
		{
			"a page in the middle, sorted, of what was found", &options{ListOptions: page(2, 1), Query: "a", Sort: "-team-name"},
			found(tfe.Pagination{CurrentPage: 2, PreviousPage: 1, NextPage: 3, TotalPages: 4, TotalCount: 4}, "id 2"),
		},
		{"the largest page", &options{ListOptions: page(1, 100)}, all("id 2", "id 3", "id 4", "id 1")},
		{
			"a page that is too large: upstream makes it smaller", &options{ListOptions: page(1, 101)},
			all("id 2", "id 3", "id 4", "id 1").through(
				fails("bad request", "page[size]: must be a number from 1 to 100")),
		},
		{
			"a page below the first: upstream shows the first", &options{ListOptions: page(-1, 0)},
			all("id 2", "id 3", "id 4", "id 1").through(
				fails("bad request", "page[number]: must be a number from 1 to 1000000")),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, surfaces, func(t *testing.T, s server) {
				makeList(t, s)
				c := newClient(t, s, s.token)
				c.expect(t, "use", use(3), lives)
				c.expect(t, "list", list(row.options), row.want)
			})
		})
	}
}

// A list tells of each token all that Read tells, and of another organization
// nothing.
func TestListed(t *testing.T) {
	onEach(t, surfaces, func(t *testing.T, s server) {
		c := newClient(t, s, s.token)
		c.expect(t, "an empty list", list(nil),
			answer{Value: listed{Pagination: tfe.Pagination{CurrentPage: 1, TotalPages: 1}}})

		soon := clock.Add(time.Hour)
		c.expect(t, "create", create, described("id 1", inTwoYears).with("secret 1"))
		c.expect(t, "create", createWith(tfe.TeamTokenCreateOptions{Description: new("ci"), ExpiredAt: &soon}),
			described("id 2", soon).about("ci").with("secret 2"))
		c.expect(t, "use", use(2), lives)
		for i, want := range []answer{described("id 2", soon).about("ci").usedAt(clock), described("id 1", inTwoYears)} {
			c.expect(t, "item", func(ctx context.Context, c *client) (any, error) {
				list, err := c.List(ctx, simulator.Organization, nil)
				if err != nil {
					return nil, err
				}
				return list.Items[i], nil
			}, want)
		}

		elsewhere := func(name string) call {
			return func(ctx context.Context, c *client) (any, error) { return c.List(ctx, name, nil) }
		}
		c.expect(t, "another organization", elsewhere("elsewhere"), notFound)
		c.expect(t, "a name that none has", elsewhere("a.b"), notFound.through(
			fails("bad request", "organization: must be 1 to 40 letters, digits, `_` and `-`")))
	})
}
