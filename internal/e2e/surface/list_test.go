package surface_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// clock is a simulator's time, which goes on only when it is told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// kindOfLife is when a token of the list's tests expires: one in five of each.
type kindOfLife int

const (
	forever  kindOfLife = iota
	over                // has expired
	days                // within 7 days
	weeks               // within 30 days, and not within 7
	months              // later
	numKinds = 5
)

var lives = [numKinds]time.Duration{over: time.Hour, days: 3 * 24 * time.Hour, weeks: 20 * 24 * time.Hour, months: 90 * 24 * time.Hour}

// made is what a test knows of a token that it made.
type made struct {
	team string // its name
	life kindOfLife
}

const numTokens = 45

// fill makes 45 named tokens of all teams, by three creators, with each kind of
// life, and uses five of them.
func fill(t *testing.T, f *harness.Server, sim *simulator.Simulator, now *clock) map[string]made {
	t.Helper()
	creators := []secret.Text{sim.UserToken(), sim.OwnerToken(), sim.OrganizationToken()}
	tokens := map[string]made{}
	secrets := make([]string, numTokens)
	for i := range numTokens {
		team, life := simulator.Teams()[i%len(simulator.Teams())], kindOfLife(i%numKinds)
		req := &teamtokenv1.CreateNamedTokenRequest{TeamId: team.ID, Description: new(fmt.Sprintf("token %d", i))}
		if life != forever {
			// In another order than they are made in.
			req.ExpiredAt = timestamppb.New(now.Now().Add(lives[life] + time.Duration(i*7%numTokens)*time.Second))
		}
		resp, err := f.Client.CreateNamedToken(harness.As(t.Context(), creators[i%len(creators)]), req)
		if err != nil {
			t.Fatal(err)
		}
		tokens[resp.GetTeamToken().GetId()] = made{team.Name, life}
		secrets[i] = resp.GetSecret()
	}
	for i := range 5 {
		now.advance(time.Minute)
		ctx := harness.As(t.Context(), secret.New(secrets[i*11%numTokens]))
		_, err := f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		if status.Code(err) != codes.NotFound { // it authenticates, and may see nothing
			t.Fatal(err)
		}
	}
	now.advance(2 * time.Hour)
	return tokens
}

// listPage is the upstream's document of a list.
type listPage struct {
	Data []struct {
		ID         string
		Attributes struct{ Token *string }
	}
	Links map[string]*string
	Meta  struct{ Pagination map[string]*int }
}

// list gets a page over REST.
func list(t *testing.T, f *harness.Server, credential secret.Text, address string) (page listPage, body string) {
	t.Helper()
	req := harness.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil))
	req.Header.Set("Authorization", "Bearer "+credential.Reveal())
	resp := harness.Must(f.HTTP.Do(req))
	defer resp.Body.Close()
	b := harness.Must(io.ReadAll(resp.Body))
	if err := json.Unmarshal(b, &page); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v\n%s", address, resp.Status, err, b)
	}
	return page, string(b)
}

// address is where a list begins over REST.
func address(f *harness.Server, req *teamtokenv1.ListTokensRequest) string {
	query := url.Values{}
	for name, value := range map[string]string{
		"q": req.GetQuery(), "sort": req.GetSort(), "filter[expiry_status]": strings.Join(req.GetExpiryStatus(), ","),
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if req.GetPageSize() != 0 {
		query.Set("page[size]", strconv.Itoa(int(req.GetPageSize())))
	}
	return f.REST + "/api/v2/organizations/" + req.GetOrganization() + "/team-tokens?" + query.Encode()
}

// Whoever goes through all pages, by page_token or by links.next, sees every
// token that was asked for exactly once, in the order asked for.
func TestListEveryTokenOnce(t *testing.T) {
	t.Parallel()
	now := &clock{now: time.Now()}
	sim, simURL := harness.Listen(t, simulator.Options{Rate: -1, DefaultTTL: -1, Now: now.Now})
	f := harness.Start(t, harness.WithCallers(sim, simURL))
	tokens := fill(t, f, sim, now)

	type token = *teamtokenv1.TeamToken
	teamName := func(x token) string { return tokens[x.GetId()].team }
	orNever := func(at *timestamppb.Timestamp) time.Time {
		if at == nil {
			return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		return at.AsTime()
	}
	byTeam := func(a, b token) int { return strings.Compare(teamName(a), teamName(b)) }
	byCreator := func(a, b token) int { return strings.Compare(a.GetCreatedBy().GetId(), b.GetCreatedBy().GetId()) }
	byExpiry := func(a, b token) int { return orNever(a.GetExpiredAt()).Compare(orNever(b.GetExpiredAt())) }
	byUse := func(a, b token) int { return orNever(a.GetLastUsedAt()).Compare(orNever(b.GetLastUsedAt())) }
	down := func(order func(a, b token) int) func(a, b token) int {
		return func(a, b token) int { return order(b, a) }
	}
	all := func(made) bool { return true }

	for _, c := range []struct {
		name  string
		req   *teamtokenv1.ListTokensRequest
		want  func(made) bool
		order func(a, b token) int
		pages int
	}{
		{"all", &teamtokenv1.ListTokensRequest{}, all, nil, 3},
		{"pages of 15", &teamtokenv1.ListTokensRequest{PageSize: 15}, all, nil, 3},
		{"pages of 1", &teamtokenv1.ListTokensRequest{PageSize: 1}, all, nil, 45},
		{"one page of 100", &teamtokenv1.ListTokensRequest{PageSize: 100}, all, nil, 1},
		{"by team", &teamtokenv1.ListTokensRequest{Sort: "team-name"}, all, byTeam, 3},
		{"by team, reversed", &teamtokenv1.ListTokensRequest{Sort: "-team-name"}, all, down(byTeam), 3},
		{"by creator", &teamtokenv1.ListTokensRequest{Sort: "created-by"}, all, byCreator, 3},
		{"by creator, reversed", &teamtokenv1.ListTokensRequest{Sort: "-created-by"}, all, down(byCreator), 3},
		{"by expiry", &teamtokenv1.ListTokensRequest{Sort: "expired-at"}, all, byExpiry, 3},
		{"by expiry, reversed", &teamtokenv1.ListTokensRequest{Sort: "-expired-at"}, all, down(byExpiry), 3},
		{"by last use", &teamtokenv1.ListTokensRequest{Sort: "last-used-at"}, all, byUse, 3},
		{"by last use, reversed", &teamtokenv1.ListTokensRequest{Sort: "-last-used-at"}, all, down(byUse), 3},
		{
			"of a team", &teamtokenv1.ListTokensRequest{Query: "plat", PageSize: 5},
			func(m made) bool { return m.team == "platform" }, nil, 3,
		},
		{
			"of a team with a space and capitals", &teamtokenv1.ListTokensRequest{Query: "data sci", PageSize: 5},
			func(m made) bool { return m.team == "Data Science" }, nil, 3,
		},
		{
			"of no team", &teamtokenv1.ListTokensRequest{Query: "&sort=team-name#"},
			func(made) bool { return false }, nil, 1,
		},
		{
			"active", &teamtokenv1.ListTokensRequest{ExpiryStatus: []string{"active"}, PageSize: 12},
			func(m made) bool { return m.life != over }, nil, 3,
		},
		{
			"expired", &teamtokenv1.ListTokensRequest{ExpiryStatus: []string{"expired"}, PageSize: 4},
			func(m made) bool { return m.life == over }, nil, 3,
		},
		{
			"without an expiry", &teamtokenv1.ListTokensRequest{ExpiryStatus: []string{"no_expiration"}, PageSize: 4},
			func(m made) bool { return m.life == forever }, nil, 3,
		},
		{
			"expiring within 7 days", &teamtokenv1.ListTokensRequest{ExpiryStatus: []string{"expiring_in_7_days"}, PageSize: 4},
			func(m made) bool { return m.life == days }, nil, 3,
		},
		{
			"expiring within 30 days", &teamtokenv1.ListTokensRequest{ExpiryStatus: []string{"expiring_in_30_days"}, PageSize: 8},
			func(m made) bool { return m.life == days || m.life == weeks }, nil, 3,
		},
		{
			"two statuses of a team, in an order",
			&teamtokenv1.ListTokensRequest{
				Query: "p", ExpiryStatus: []string{"expired", "expiring_in_7_days"}, Sort: "-expired-at", PageSize: 3,
			},
			func(m made) bool {
				return (m.team == "platform" || m.team == "payments") && (m.life == over || m.life == days)
			},
			down(byExpiry), 3,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Organization = simulator.Organization
			var want []string
			for id, m := range tokens {
				if c.want(m) {
					want = append(want, id)
				}
			}
			sim.Reset()
			var listed []token
			var ids []string
			for token, err := range allTokens(harness.As(t.Context(), sim.UserToken()), f.Client, c.req) {
				if err != nil {
					t.Fatal(err)
				}
				listed, ids = append(listed, token), append(ids, token.GetId())
			}
			if n := len(sim.Requests()); n != c.pages {
				t.Errorf("%d requests for %d pages", n, c.pages)
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(ids))); diff != "" {
				t.Errorf("gRPC: not every token once (-want +got):\n%s", diff)
			}
			if c.order != nil {
				if !slices.IsSortedFunc(listed, c.order) {
					t.Error("gRPC: not in the order asked for")
				}
				if c.order(listed[0], listed[len(listed)-1]) == 0 {
					t.Error("all are equal in this order, so that this proves nothing")
				}
			}

			var linked []string
			pages := 0
			for next := new(address(f, c.req)); next != nil; pages++ {
				if pages > c.pages {
					t.Fatal("REST: the links do not end")
				}
				page, _ := list(t, f, sim.UserToken(), *next)
				for _, token := range page.Data {
					linked = append(linked, token.ID)
				}
				if total := page.Meta.Pagination["total-count"]; total == nil || *total != len(want) {
					t.Errorf("REST: total-count is not %d on page %d", len(want), pages+1)
				}
				next = page.Links["next"]
			}
			if pages != c.pages {
				t.Errorf("REST: %d pages, want %d", pages, c.pages)
			}
			if diff := cmp.Diff(ids, linked); diff != "" {
				t.Errorf("REST gives others than gRPC (-gRPC +REST):\n%s", diff)
			}
		})
	}
}

// Each page says where in the list it is.
func TestListPages(t *testing.T) {
	t.Parallel()
	now := &clock{now: time.Now()}
	sim, simURL := harness.Listen(t, simulator.Options{Rate: -1, DefaultTTL: -1, Now: now.Now})
	f := harness.Start(t, harness.WithCallers(sim, simURL))
	fill(t, f, sim, now)
	ctx := harness.As(t.Context(), sim.UserToken())

	t.Run("gRPC", func(t *testing.T) {
		token := ""
		for number, want := range []int{20, 20, 5} {
			resp, err := f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: simulator.Organization, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.GetTeamTokens()) != want || resp.GetTotalSize() != numTokens {
				t.Errorf("page %d: %d tokens of %d", number+1, len(resp.GetTeamTokens()), resp.GetTotalSize())
			}
			if token = resp.GetNextPageToken(); (token == "") != (number == 2) {
				t.Errorf("page %d: next_page_token %q", number+1, token)
			}
		}
	})

	base := f.REST + "/api/v2/organizations/acme/team-tokens"
	for _, c := range []struct {
		name, query         string
		tokens, size        int
		number, prev, next  int // 0 where there is none
		totalPages, matches int
		keeps               url.Values // what each link repeats of the query
	}{
		{"the first, which nobody named", "", 20, 20, 1, 0, 2, 3, 45, nil},
		{"the first", "page[number]=1&page[size]=20", 20, 20, 1, 0, 2, 3, 45, nil},
		{"the middle", "page[number]=2&page[size]=20", 20, 20, 2, 1, 3, 3, 45, nil},
		{"the last", "page[number]=3&page[size]=20", 5, 20, 3, 2, 0, 3, 45, nil},
		{"behind the last", "page[number]=4&page[size]=20", 0, 20, 4, 3, 0, 3, 45, nil},
		{"the only", "page[size]=100", 45, 100, 1, 0, 0, 1, 45, nil},
		{"the last is full", "page[number]=3&page[size]=15", 15, 15, 3, 2, 0, 3, 45, nil},
		{
			"with a query", "page[number]=2&page[size]=2&q=data+sci&sort=-team-name&filter[expiry_status]=expired,active",
			2, 2, 2, 1, 3, 6, 11,
			url.Values{"q": {"data sci"}, "sort": {"-team-name"}, "filter[expiry_status]": {"expired,active"}},
		},
		{"of nothing", "q=nobody", 0, 20, 1, 0, 0, 1, 0, url.Values{"q": {"nobody"}}},
	} {
		t.Run("REST/"+c.name, func(t *testing.T) {
			page, body := list(t, f, sim.UserToken(), base+"?"+c.query)
			if len(page.Data) != c.tokens || page.Data == nil {
				t.Errorf("%d tokens, want %d, in %s", len(page.Data), c.tokens, body)
			}
			orNull := func(n int) *int {
				if n == 0 {
					return nil
				}
				return &n
			}
			want := map[string]*int{
				"current-page": &c.number, "page-size": &c.size, "prev-page": orNull(c.prev), "next-page": orNull(c.next),
				"total-pages": &c.totalPages, "total-count": &c.matches,
			}
			if diff := cmp.Diff(want, page.Meta.Pagination); diff != "" {
				t.Errorf("meta.pagination (-want +got):\n%s", diff)
			}
			for name, number := range map[string]int{"self": c.number, "first": 1, "prev": c.prev, "next": c.next, "last": c.totalPages} {
				link, there := page.Links[name]
				if !there || (link == nil) != (number == 0) {
					t.Errorf("links.%s is not there, or null where it must not be, or the other way round", name)
					continue
				}
				if link == nil {
					continue
				}
				path, query, _ := strings.Cut(*link, "?")
				wanted := url.Values{"page[number]": {strconv.Itoa(number)}, "page[size]": {strconv.Itoa(c.size)}}
				for key, values := range c.keeps {
					wanted[key] = values
				}
				if diff := cmp.Diff(wanted, harness.Must(url.ParseQuery(query))); path != base || diff != "" {
					t.Errorf("links.%s is %s (-want +got):\n%s", name, *link, diff)
				}
			}
		})
	}

	t.Run("a page_token goes with its page_size", func(t *testing.T) {
		first, err := f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: simulator.Organization, PageSize: 20})
		if err != nil {
			t.Fatal(err)
		}
		for size, want := range map[int32]codes.Code{20: codes.OK, 0: codes.OK, 21: codes.InvalidArgument, 10: codes.InvalidArgument} {
			sim.Reset()
			_, err := f.Client.ListTokens(ctx, &teamtokenv1.ListTokensRequest{
				Organization: simulator.Organization, PageSize: size, PageToken: first.GetNextPageToken(),
			})
			if status.Code(err) != want {
				t.Errorf("page_size %d: %v, want %v", size, err, want)
			}
			if want == codes.OK {
				continue
			}
			if d := apierror.FromStatus(status.Convert(err)); len(d.Violations) != 1 || d.Violations[0].GetField() != "page_token" {
				t.Errorf("page_size %d: %v", size, d)
			}
			if n := len(sim.Requests()); n != 0 {
				t.Errorf("page_size %d: %d requests upstream", size, n)
			}
		}
	})
}

// A list holds no secret, even where the upstream puts one into its document.
func TestListHoldsNoSecret(t *testing.T) {
	t.Parallel()
	sim, simURL := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, simURL))
	created, err := f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{
		TeamId: simulator.SeedTeam, Description: new("ci"),
	})
	if err != nil {
		t.Fatal(err)
	}
	id, text := created.GetTeamToken().GetId(), created.GetSecret()
	document := `{"data":[{"id":"` + id + `","type":"authentication-tokens","attributes":{"description":"ci","token":"` + text + `"}}],` +
		`"meta":{"pagination":{"next-page":null,"total-count":1}}}`
	for _, c := range []struct {
		name string
		body *string
	}{{"as upstream answers", nil}, {"with the secret in it", &document}} {
		t.Run(c.name, func(t *testing.T) {
			sim.Inject(simulator.Fault{Path: "organizations/*/team-tokens", Times: 2, Body: c.body})
			req := &teamtokenv1.ListTokensRequest{Organization: simulator.Organization}
			resp, err := f.Client.ListTokens(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			page, body := list(t, f, sim.UserToken(), address(f, req))
			if len(resp.GetTeamTokens()) != 1 || resp.GetTeamTokens()[0].GetId() != id || len(page.Data) != 1 || page.Data[0].ID != id {
				t.Error("the list does not hold the token, so that this proves nothing")
			}
			if harness.Leaked(resp.String(), text) != "" || harness.Leaked(body, text) != "" || page.Data[0].Attributes.Token != nil {
				t.Error("the list holds the secret")
			}
		})
	}
}

// issued is what a caller who asks for a token learns of its life.
type issued struct {
	expiredAt       time.Time
	reason, outcome string // where it is refused
}

// issues are the four ways to ask for a token, with an expiry or with nil.
func issues(t *testing.T, f *harness.Server) map[string]func(at *time.Time) issued {
	t.Helper()
	overGRPC := func(token *teamtokenv1.TeamToken, err error) issued {
		d := apierror.FromStatus(status.Convert(err))
		return issued{token.GetExpiredAt().AsTime(), d.Reason, d.Outcome}
	}
	timestamp := func(at *time.Time) *timestamppb.Timestamp {
		if at == nil {
			return nil
		}
		return timestamppb.New(*at)
	}
	overREST := func(path string, attributes map[string]any, at *time.Time) issued {
		if at != nil {
			attributes["expired-at"] = *at
		}
		body := harness.Must(json.Marshal(map[string]any{"data": map[string]any{"attributes": attributes}}))
		resp := harness.Must(f.HTTP.Post(f.REST+"/api/v2/teams/"+simulator.SeedTeam+path, "application/vnd.api+json", bytes.NewReader(body)))
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			refused := harness.ErrorsOf(t, resp)
			return issued{reason: refused.Code, outcome: refused.Meta.Outcome}
		}
		return issued{expiredAt: expiryIn(t, harness.Must(io.ReadAll(resp.Body)))}
	}
	return map[string]func(at *time.Time) issued{
		"GenerateToken over gRPC": func(at *time.Time) issued {
			resp, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{
				TeamId: simulator.SeedTeam, ExpiredAt: timestamp(at),
			})
			return overGRPC(resp.GetTeamToken(), err)
		},
		"GenerateToken over REST": func(at *time.Time) issued {
			return overREST("/authentication-token", map[string]any{}, at)
		},
		"CreateNamedToken over gRPC": func(at *time.Time) issued {
			resp, err := f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{
				TeamId: simulator.SeedTeam, Description: new("gRPC"), ExpiredAt: timestamp(at),
			})
			return overGRPC(resp.GetTeamToken(), err)
		},
		"CreateNamedToken over REST": func(at *time.Time) issued {
			return overREST("/authentication-tokens", map[string]any{"description": "REST"}, at)
		},
	}
}

// expiryIn is the expiry in a document, or zero.
func expiryIn(t *testing.T, document []byte) time.Time {
	t.Helper()
	var doc struct {
		Data struct {
			Attributes struct {
				ExpiredAt time.Time `json:"expired-at"`
			}
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Data.Attributes.ExpiredAt
}

// What a token's life is: at most the service's cap, by default the service's
// default, and in the end what the upstream says.
func TestTokenTTL(t *testing.T) {
	t.Parallel()
	const minute, hour, twoYears = time.Minute, time.Hour, 2 * 365 * 24 * time.Hour
	for _, c := range []struct {
		name          string
		cap, fallback string        // the settings
		upstream      time.Duration // the organization's own cap
		ask           time.Duration // 0 says nothing
		sent          time.Duration // what the upstream is asked for; 0 for nothing
		want          time.Duration // what the answer says; 0 if it refuses
	}{
		{name: "over the cap", cap: "1h", ask: hour + minute},
		{name: "over the cap, with a default", cap: "1h", fallback: "1h", ask: hour + minute},
		{name: "within the cap", cap: "1h", ask: hour - minute, sent: hour - minute, want: hour - minute},
		{name: "nothing said, a cap", cap: "1h", sent: hour, want: hour},
		{name: "nothing said, a default", fallback: "2h", sent: 2 * hour, want: 2 * hour},
		{name: "nothing said, both", cap: "3h", fallback: "2h", sent: 2 * hour, want: 2 * hour},
		{name: "more than the default", fallback: "2h", ask: 9 * hour, sent: 9 * hour, want: 9 * hour},
		{name: "nothing said, no setting", want: twoYears},
		{name: "nothing said, and the upstream shortens", upstream: 30 * minute, want: 30 * minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim, simURL := harness.Listen(t, simulator.Options{Rate: -1, MaxTTL: c.upstream})
			s := harness.WithService(sim, simURL)
			s.Env = append(s.Env, "TEAMTOKEN_MAX_TOKEN_TTL="+c.cap, "TEAMTOKEN_DEFAULT_TOKEN_TTL="+c.fallback)
			for name, issue := range issues(t, harness.Start(t, s)) {
				sim.Reset()
				before := time.Now()
				var ask *time.Time
				if c.ask > 0 {
					ask = new(before.Add(c.ask))
				}
				got := issue(ask)
				after := time.Now()
				requests := sim.Requests()
				if c.want == 0 {
					if (got != issued{got.expiredAt, "INVALID_FIELD", "not_applied"}) || len(requests) != 0 {
						t.Errorf("%s: %+v, and %d requests upstream", name, got, len(requests))
					}
					continue
				}
				if got.reason != "" || len(requests) != 1 {
					t.Errorf("%s: %+v, and %d requests upstream", name, got, len(requests))
					continue
				}
				within := func(at time.Time, life time.Duration) bool {
					return !at.Before(before.Add(life-time.Millisecond)) && !at.After(after.Add(life)) // cut to milliseconds
				}
				if sent := expiryIn(t, requests[0].Body); c.sent == 0 && !sent.IsZero() || c.sent > 0 && !within(sent, c.sent) {
					t.Errorf("%s: asked the upstream for %v, want %v from %v", name, sent, c.sent, before)
				}
				if !within(got.expiredAt, c.want) {
					t.Errorf("%s: answered %v, want %v from %v", name, got.expiredAt, c.want, before)
				}
			}
		})
	}
}

// The answer's expiry is the upstream's, whatever was asked for.
func TestTTLIsWhatTheUpstreamAnswers(t *testing.T) {
	t.Parallel()
	sim, simURL := harness.NewSimulator(t)
	document := `{"data":{"id":"at-1","type":"authentication-tokens",` +
		`"attributes":{"expired-at":"2031-02-03T04:05:06.789Z","token":"x.atlasv1.y"}}}`
	for name, issue := range issues(t, harness.Start(t, harness.WithService(sim, simURL))) {
		sim.Inject(simulator.Fault{Method: http.MethodPost, Body: &document})
		if got := issue(new(time.Now().Add(time.Hour))); !got.expiredAt.Equal(time.Date(2031, 2, 3, 4, 5, 6, 789e6, time.UTC)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
