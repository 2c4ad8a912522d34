package simulator_test

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

var (
	secretForm = regexp.MustCompile(`^[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9]{67}$`)
	idForm     = regexp.MustCompile(`^at-[A-Za-z0-9]{16}$`)
)

// noon is when every test with a clock of its own begins.
var noon = time.Date(2026, 4, 6, 12, 0, 0, 123_456_789, time.UTC)

// A clock that goes on only when told.
type clock struct{ nanoseconds atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.nanoseconds.Store(noon.UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.nanoseconds.Load()) }

func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

const (
	malformed = `{"errors":[{"status":"422","title":"unprocessable entity",` +
		`"detail":"The request body is not a document of an authentication token"}]}`
	unauthorized = `{"errors":[{"status":"401","title":"unauthorized"}]}`
	notFound     = `{"errors":[{"status":"404","title":"not found"}]}`
	badRequest   = `{"errors":[{"status":"400","title":"bad request"}]}`
)

func failedValidation(reason string) string {
	return `{"errors":[{"status":"422","title":"invalid attributes","detail":"Validation failed: ` + reason + `"}]}`
}

// A team with a legacy token and one named "ci".
type team struct {
	*rig
	legacy, ci simulator.Minted
}

func startTeam(t *testing.T) team {
	t.Helper()
	r := start(t, simulator.Options{Now: newClock().now, Rate: -1})
	r.do("POST", legacyPath, "")
	legacy := r.last()
	r.do("POST", namedPath, `{"data":{"attributes":{"description":"ci"}}}`)
	return team{r, legacy, r.last()}
}

// living names the tokens that live, in the order of their making.
func (tm team) living() string {
	var names []string
	for _, m := range tm.Minted() {
		switch {
		case !m.Live:
		case m.ID == tm.legacy.ID:
			names = append(names, "legacy")
		case m.ID == tm.ci.ID:
			names = append(names, "ci")
		default:
			names = append(names, "new")
		}
	}
	return strings.Join(names, " ")
}

// expand writes out the ids in a request of a table.
func (tm team) expand(request string) (method, path string) {
	ids := strings.NewReplacer(
		"{legacy}", tm.legacy.ID, "{ci}", tm.ci.ID, "{user}", tm.TokenID(tm.UserToken()),
		"{team}", simulator.SeedTeam, "{other}", simulator.Teams()[1].ID, "{no-team}", "team-0000000000000000",
		"{acme}", simulator.Organization)
	method, path, _ = strings.Cut(ids.Replace(request), " ")
	return method, path
}

func TestEndpoints(t *testing.T) {
	for _, row := range []struct {
		request string
		status  int
		living  string // afterwards
	}{
		{"POST /api/v2/teams/{team}/authentication-token", 201, "ci new"},
		{"POST /api/v2/teams/{other}/authentication-token", 201, "legacy ci new"},
		{"POST /api/v2/teams/{no-team}/authentication-token", 404, "legacy ci"},
		{"GET /api/v2/teams/{team}/authentication-token", 200, "legacy ci"},
		{"GET /api/v2/teams/{other}/authentication-token", 404, "legacy ci"},
		{"GET /api/v2/teams/{no-team}/authentication-token", 404, "legacy ci"},
		{"DELETE /api/v2/teams/{team}/authentication-token", 204, "ci"},
		{"DELETE /api/v2/teams/{other}/authentication-token", 404, "legacy ci"},
		{"DELETE /api/v2/teams/{no-team}/authentication-token", 404, "legacy ci"},
		{"POST /api/v2/teams/{no-team}/authentication-tokens", 404, "legacy ci"}, // others: TestBodies

		{"GET /api/v2/authentication-tokens/{legacy}", 200, "legacy ci"},
		{"GET /api/v2/authentication-tokens/{ci}", 200, "legacy ci"},
		{"GET /api/v2/authentication-tokens/{user}", 200, "legacy ci"},
		{"GET /api/v2/authentication-tokens/{team}", 200, "legacy ci"},
		{"GET /api/v2/authentication-tokens/{other}", 404, "legacy ci"},
		{"GET /api/v2/authentication-tokens/at-0000000000000000", 404, "legacy ci"},
		{"DELETE /api/v2/authentication-tokens/{legacy}", 204, "ci"},
		{"DELETE /api/v2/authentication-tokens/{ci}", 204, "legacy"},
		{"DELETE /api/v2/authentication-tokens/{team}", 204, "ci"},
		{"DELETE /api/v2/authentication-tokens/{user}", 204, "legacy ci"},
		{"DELETE /api/v2/authentication-tokens/{other}", 404, "legacy ci"},
		{"DELETE /api/v2/authentication-tokens/at-0000000000000000", 404, "legacy ci"},

		{"GET /api/v2/organizations/{acme}/team-tokens", 200, "legacy ci"},
		{"GET /api/v2/organizations/{acme}/team-tokens?sort=team_name", 400, "legacy ci"},
		{"GET /api/v2/organizations/{acme}/team-tokens?filter%5Bexpiry_status%5D=active,alive", 400, "legacy ci"},
		{"GET /api/v2/organizations/other/team-tokens", 404, "legacy ci"},
		{"GET /api/v2/organizations/{acme}", 200, "legacy ci"},
		{"GET /api/v2/organizations/other", 404, "legacy ci"},

		{"PATCH /api/v2/teams/{team}/authentication-token", 404, "legacy ci"},
		{"DELETE /api/v2/teams/{team}/authentication-tokens", 404, "legacy ci"},
		{"DELETE /api/v2/teams/{team}/authentication-token/", 404, "legacy ci"},
		{"DELETE /api/v2/teams//authentication-token", 404, "legacy ci"},
		{"DELETE /api/v2/organizations/../teams/{team}/authentication-token", 404, "legacy ci"},
		{"DELETE /api/v2/authentication-tokens/x%2F{ci}", 404, "legacy ci"},
		{"DELETE /api/v2/authentication-tokens/", 404, "legacy ci"},
		{"GET /api/v2/teams/{team}", 404, "legacy ci"},
		{"GET /api/v2", 404, "legacy ci"},
		{"GET /", 404, "legacy ci"},
	} {
		t.Run(row.request, func(t *testing.T) {
			tm := startTeam(t)
			method, path := tm.expand(row.request)
			got := tm.do(method, path, "")
			if got.status != row.status {
				t.Errorf("%d %s, want %d", got.status, got.body, row.status)
			}
			if living := tm.living(); living != row.living {
				t.Errorf("living are %q, want %q", living, row.living)
			}
			want := map[int]string{400: badRequest, 404: notFound, 204: ""}
			if body, ok := want[row.status]; ok && got.body != body {
				t.Errorf("answer %s, want %s", got.body, body)
			}
			kind := "application/vnd.api+json"
			if row.status == 204 {
				kind = ""
			}
			if got := got.header.Get("Content-Type"); got != kind {
				t.Errorf("Content-Type %q, want %q", got, kind)
			}
		})
	}
}

// Every row is a body, and what becomes of it as one of either POST.
func TestBodies(t *testing.T) {
	const made = ""
	nameless := failedValidation("Description can't be null")
	taken := failedValidation("Description has already been taken")
	undated := failedValidation("Expired at is not an ISO 8601 date and time")
	past := failedValidation("Expired at must be in the future")
	for _, row := range []struct{ body, generate, createNamed string }{
		{``, made, malformed},
		{`{"data":{}}`, made, nameless},
		{`{"data":{"type":""}}` + "\n", made, nameless}, // go-tfe v1's
		{`{"data":{"type":"authentication-token"}}`, made, nameless},
		{`{"data":{"type":"authentication-tokens"}}`, made, nameless},
		{`{"data":{"attributes":null}}`, made, nameless},
		{`{"data":{"attributes":{"description":null,"expired-at":null}}}`, made, nameless},
		{`{"data":{"attributes":{"description":"ci"}}}`, made, taken},
		{`{"data":{"attributes":{"description":"cd"}}}`, made, made},
		{`{"data":{"attributes":{"description":""}}}`, made, made},
		{`{"jsonapi":{},"data":{"links":1,"attributes":{"description":"cd","x":[]}}}`, made, made},
		{`{"data":{"attributes":{"description":"cd","expired-at":"2026-04-06T12:00:00.124Z"}}}`, made, made},
		{`{"data":{"attributes":{"description":"cd","expired-at":"2026-04-06T12:00:00.123Z"}}}`, past, past},
		{`{"data":{"attributes":{"description":"cd","expired-at":"2026-04-06T13:00:00+02:00"}}}`, past, past},
		{`{"data":{"attributes":{"description":"cd","expired-at":"tomorrow"}}}`, undated, undated},
		{`{"data":{"attributes":{"description":"cd","expired-at":""}}}`, undated, undated},
		{`{"data":{"attributes":{"description":"cd","expired-at":1}}}`, malformed, malformed},
		{`{"data":{"attributes":{"description":1}}}`, malformed, malformed},
		{`{"data":{"attributes":["cd"]}}`, malformed, malformed},
		{`{"data":{"type":"teams","attributes":{"description":"cd"}}}`, malformed, malformed},
		{`{"data":{"type":1,"attributes":{"description":"cd"}}}`, malformed, malformed},
		{`{"data":[{"attributes":{"description":"cd"}}]}`, malformed, malformed},
		{`{"data":null}`, malformed, malformed},
		{`{"Data":{"attributes":{"description":"cd"}}}`, malformed, malformed},
		{`{}`, malformed, malformed},
		{`null`, malformed, malformed},
		{`{"data":{}}{}`, malformed, malformed},
		{`{"data":{`, malformed, malformed},
	} {
		for path, want := range map[string]string{legacyPath: row.generate, namedPath: row.createNamed} {
			tm := startTeam(t)
			got := tm.do("POST", path, row.body)
			status, living := 422, "legacy ci"
			switch {
			case want == made && path == legacyPath:
				status, living = 201, "ci new"
			case want == made:
				status, living = 201, "legacy ci new"
			}
			if got.status != status || tm.living() != living || want != made && got.body != want {
				t.Errorf("%s to %s: %d %s with %q living, want %d %s with %q",
					row.body, path, got.status, got.body, tm.living(), status, want, living)
			}
		}
	}
}

func TestWhoMay(t *testing.T) {
	for _, request := range []string{
		"POST /api/v2/teams/{team}/authentication-token",
		"GET /api/v2/teams/{team}/authentication-token",
		"DELETE /api/v2/teams/{team}/authentication-token",
		"POST /api/v2/teams/{team}/authentication-tokens",
		"GET /api/v2/authentication-tokens/{ci}",
		"DELETE /api/v2/authentication-tokens/{ci}",
		"GET /api/v2/organizations/{acme}/team-tokens",
		"GET /api/v2/organizations/{acme}", // from here on a team may, too
		"GET /api/v2/account/details",
	} {
		teamsToo := strings.HasSuffix(request, "{acme}") || strings.HasSuffix(request, "details")
		for _, who := range []string{"owners", "user", "organization", "legacy", "ci", "revoked", "unknown", "nobody"} {
			tm := startTeam(t)
			tm.do("POST", namedPath, `{"data":{"attributes":{"description":"revoked"}}}`)
			revoked := tm.last()
			tm.do("DELETE", "/api/v2/authentication-tokens/"+revoked.ID, "")
			credential := map[string]secret.Text{
				"owners":       tm.OwnerToken(),
				"user":         tm.UserToken(),
				"organization": tm.OrganizationToken(),
				"legacy":       tm.legacy.Secret,
				"ci":           tm.ci.Secret,
				"revoked":      revoked.Secret,
				"unknown":      secret.New("x" + tm.ci.Secret.Reveal()),
			}[who]
			method, path := tm.expand(request)
			got := tm.as(credential, method, path, `{"data":{"attributes":{"description":"cd"}}}`)

			allowed := true
			switch who {
			case "legacy", "ci":
				if allowed = teamsToo; !allowed && (got.status != 404 || got.body != notFound) {
					t.Errorf("%s by %s: %d %s, want 404", request, who, got.status, got.body)
				}
			case "revoked", "unknown", "nobody":
				if allowed = false; got.status != 401 || got.body != unauthorized {
					t.Errorf("%s by %s: %d %s, want 401", request, who, got.status, got.body)
				}
			}
			if allowed && got.status >= 300 {
				t.Errorf("%s by %s: %d %s", request, who, got.status, got.body)
			}
			if !allowed && tm.living() != "legacy ci" {
				t.Errorf("%s by %s: %q living", request, who, tm.living())
			}
		}
	}
}

func TestDocuments(t *testing.T) {
	const (
		byTeam = `"team":{"data":{"id":"team-BUHBEM97xboT8TVz","type":"teams"}}`
		byUser = `"created-by":{"data":{"id":"user-62goNpx1ThQf689e","type":"users"}}`
	)
	now := newClock()
	r := start(t, simulator.Options{Now: now.now, Rate: -1})

	made := r.as(r.UserToken(), "POST", legacyPath, "")
	legacy := r.last()
	if !idForm.MatchString(legacy.ID) || !secretForm.MatchString(legacy.Secret.Reveal()) {
		t.Fatal("the id or the secret is not of the vendor's form")
	}
	if !legacy.CreatedAt.Equal(noon.Truncate(time.Millisecond)) || legacy.Description != nil {
		t.Errorf("%+v", legacy)
	}
	now.advance(time.Second)
	r.as(legacy.Secret, "GET", "/api/v2/account/details", "")
	r.as(r.OrganizationToken(), "POST", namedPath,
		`{"data":{"attributes":{"description":"a<b","expired-at":"2026-05-06T12:00:00.9876+02:00"}}}`)
	named := r.last()
	if named.Description == nil || *named.Description != "a<b" {
		t.Errorf("%+v", named)
	}

	user, organization := r.TokenID(r.UserToken()), r.TokenID(r.OrganizationToken())
	read := func(id string) reply { return r.do("GET", "/api/v2/authentication-tokens/"+id, "") }
	for _, row := range []struct {
		name string
		got  reply
		id   string
		want []string
	}{
		{"legacy, made", made, legacy.ID, []string{
			`"created-at":"2026-04-06T12:00:00.123Z","last-used-at":null,"expired-at":"2028-04-05T12:00:00.123Z"`,
			`"description":null,"token":"` + legacy.Secret.Reveal() + `"},"relationships":{` + byTeam, byUser,
		}},
		{"legacy, used and read", r.do("GET", legacyPath, ""), legacy.ID, []string{
			`"created-at":"2026-04-06T12:00:00.123Z","last-used-at":"2026-04-06T12:00:01.123Z"`,
			`"expired-at":"2028-04-05T12:00:00.123Z"`,
			`"description":null,"token":null},"relationships":{` + byTeam, byUser,
		}},
		{"named", read(named.ID), named.ID, []string{
			`"created-at":"2026-04-06T12:00:01.123Z","last-used-at":null,"expired-at":"2026-05-06T10:00:00.987Z"`,
			`"description":"a\u003cb","token":null},"relationships":{` + byTeam,
			`"created-by":{"data":{"id":"acme","type":"organizations"}}`,
		}},
		{"a user's", read(user), user, []string{
			`"created-at":"2026-04-06T12:00:00.123Z","last-used-at":"2026-04-06T12:00:00.123Z","expired-at":null`,
			`"description":null,"token":null},"relationships":{` + byUser,
		}},
		{"an organization's", read(organization), organization, []string{
			`"created-at":"2026-04-06T12:00:00.123Z","last-used-at":"2026-04-06T12:00:01.123Z","expired-at":null`,
			`"description":null,"token":null},"relationships":{` + byUser,
		}},
	} {
		want := `{"data":{"id":"` + row.id + `","type":"authentication-tokens","attributes":{` + strings.Join(row.want, ",") + `}}}`
		if row.got.body != want {
			hide := strings.NewReplacer(legacy.Secret.Reveal(), secret.Redacted)
			t.Errorf("%s:\n got %s\nwant %s", row.name, hide.Replace(row.got.body), hide.Replace(want))
		}
	}

	r.do("POST", legacyPath, "")
	if got := r.do("GET", legacyPath, "").member(t, "data", "relationships", "created-by", "data", "type"); got != "teams" {
		t.Errorf("what the owners' team makes was created by %v", got)
	}
}

func TestCredentialsCanBeDeletedToo(t *testing.T) {
	r := start(t, simulator.Options{})
	id := r.TokenID(r.OrganizationToken())
	if got := r.as(r.OrganizationToken(), "DELETE", "/api/v2/authentication-tokens/"+id, ""); got.status != 204 {
		t.Fatalf("%d", got.status)
	}
	if got := r.as(r.OrganizationToken(), "GET", legacyPath, ""); got.status != 401 {
		t.Errorf("a deleted credential: %d", got.status)
	}
	if got := r.do("GET", "/api/v2/authentication-tokens/"+id, ""); got.status != 404 {
		t.Errorf("its id: %d", got.status)
	}
	if r.TokenID(r.OrganizationToken()) != "" {
		t.Error("its id must be forgotten")
	}
}

func TestExpiry(t *testing.T) {
	const asked = "2026-04-07T12:00:00Z"
	const day = 24 * time.Hour
	for _, row := range []struct {
		name        string
		options     simulator.Options
		asked       string
		status      int
		expires     any           // in the document
		alive, dead time.Duration // after how long it still authenticates, and no more
	}{
		{"two years unless asked for", simulator.Options{}, "", 201, "2028-04-05T12:00:00.123Z", 729 * day, 730 * day},
		{"another default", simulator.Options{DefaultTTL: time.Hour}, "", 201, "2026-04-06T13:00:00.123Z", 0, time.Hour},
		{"never", simulator.Options{DefaultTTL: -1}, "", 201, nil, 10_000 * day, 0},
		{"as asked for", simulator.Options{}, asked, 201, "2026-04-07T12:00:00.000Z", 23 * time.Hour, day},
		{"within the cap", simulator.Options{MaxTTL: day}, asked, 201, "2026-04-07T12:00:00.000Z", 23 * time.Hour, day},
		{"beyond the cap", simulator.Options{MaxTTL: 23 * time.Hour}, asked, 422, nil, 0, 0},
		{"the cap caps the default", simulator.Options{MaxTTL: day}, "", 201, "2026-04-07T12:00:00.123Z", 23 * time.Hour, day},
		{"the cap caps never", simulator.Options{MaxTTL: day, DefaultTTL: -1}, "", 201, "2026-04-07T12:00:00.123Z", 0, day},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := newClock()
			row.options.Now, row.options.Rate = now.now, -1
			r := start(t, row.options)
			body := ""
			if row.asked != "" {
				body = `{"data":{"attributes":{"expired-at":"` + row.asked + `"}}}`
			}
			got := r.do("POST", legacyPath, body)
			if got.status != row.status {
				t.Fatalf("%d: %s", got.status, got.body)
			}
			if row.status == 422 {
				if want := failedValidation("Expired at is beyond the organization's maximum token lifetime"); got.body != want {
					t.Errorf("%s", got.body)
				}
				return
			}
			if at := got.member(t, "data", "attributes", "expired-at"); at != row.expires {
				t.Errorf("expires at %v, want %v", at, row.expires)
			}
			now.advance(row.alive)
			if got := r.as(r.last().Secret, "GET", "/api/v2/account/details", ""); got.status != 200 || r.live() != 1 {
				t.Errorf("before: %d, %d live", got.status, r.live())
			}
			if row.dead == 0 {
				return
			}
			now.advance(row.dead - row.alive)
			if got := r.as(r.last().Secret, "GET", "/api/v2/account/details", ""); got.status != 401 || r.live() != 0 {
				t.Errorf("after: %d, %d live", got.status, r.live())
			}
			if got := r.do("GET", legacyPath, ""); got.status != 200 {
				t.Errorf("an expired token still has a document: %d", got.status)
			}
		})
	}
}

func TestANameIsFreeAgainAfterItsTokenIsDeleted(t *testing.T) {
	const body = `{"data":{"attributes":{"description":"ci"}}}`
	r := start(t, simulator.Options{})
	r.do("POST", namedPath, body)
	first := r.last()
	r.do("DELETE", "/api/v2/authentication-tokens/"+first.ID, "")
	if got := r.do("POST", namedPath, body); got.status != 201 || r.last().ID == first.ID || r.live() != 1 {
		t.Errorf("%d, %d live", got.status, r.live())
	}
}

func TestChunkedBody(t *testing.T) {
	r := start(t, simulator.Options{})
	body := struct{ io.Reader }{strings.NewReader(`{"data":{"type":"authentication-tokens","attributes":{"description":"ci"}}}`)}
	request, err := http.NewRequestWithContext(t.Context(), "POST", r.url+namedPath, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.OwnerToken().Reveal())
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != 201 || *r.last().Description != "ci" {
		t.Errorf("%d", response.StatusCode)
	}
}

func TestWhatClientsLookAtFirst(t *testing.T) {
	r := start(t, simulator.Options{})
	ping := r.as(secret.Text{}, "GET", "/api/v2/ping", "")
	if ping.status != 204 || ping.body != "" {
		t.Errorf("ping: %d %q", ping.status, ping.body)
	}
	for name, want := range map[string]string{
		"TFP-API-Version":       "2.6",
		"TFP-AppName":           "HCP Terraform",
		"X-RateLimit-Limit":     "30",
		"X-RateLimit-Remaining": "29",
		"X-RateLimit-Reset":     "0.000",
	} {
		if got := ping.header.Get(name); got != want {
			t.Errorf("ping: %s is %q, want %q", name, got, want)
		}
	}
	again := r.as(secret.Text{}, "GET", "/api/v2/ping", "")
	if id := ping.header.Get("X-Request-Id"); id == "" || id == again.header.Get("X-Request-Id") {
		t.Errorf("X-Request-Id %q", id)
	}
	found := r.as(secret.Text{}, "GET", "/.well-known/terraform.json", "")
	if kind := found.header.Get("Content-Type"); found.status != 200 || kind != "application/json" ||
		found.body != `{"tfe.v2.2":"/api/v2/"}` {
		t.Errorf("%+v", found)
	}
	account := r.as(r.UserToken(), "GET", "/api/v2/account/details", "")
	if got := account.member(t, "data", "id"); got != "user-62goNpx1ThQf689e" {
		t.Errorf("the user's account is %v", got)
	}
}

func TestRateLimit(t *testing.T) {
	const details = "/api/v2/account/details"
	now := newClock()
	r := start(t, simulator.Options{Now: now.now})
	r.do("POST", legacyPath, "") // one of the owners' thirty
	team := r.last()

	for left := 28; left >= 0; left-- {
		got := r.do("GET", details, "")
		if got.status != 200 || got.header.Get("X-RateLimit-Remaining") != strconv.Itoa(left) {
			t.Fatalf("with %d left: %d, %q", left, got.status, got.header.Get("X-RateLimit-Remaining"))
		}
	}
	now.advance(400*time.Millisecond + time.Microsecond)
	got := r.do("POST", legacyPath, "")
	want := `{"errors":[{"detail":"You have exceeded the API's rate limit.","status":429,"title":"Too many requests"}]}`
	if got.status != 429 || got.body != want {
		t.Errorf("%d %s", got.status, got.body)
	}
	for name, want := range map[string]string{
		"Content-Type":          "application/vnd.api+json",
		"X-RateLimit-Limit":     "30",
		"X-RateLimit-Remaining": "0",
		"X-RateLimit-Reset":     "0.600",
	} {
		if got := got.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(r.Minted()) != 1 {
		t.Error("a refused call must change nothing")
	}

	if got := r.as(r.UserToken(), "GET", details, ""); got.status != 200 {
		t.Errorf("another user: %d", got.status)
	}
	if got := r.as(team.Secret, "GET", details, ""); got.status != 200 {
		t.Errorf("a team: %d", got.status)
	}
	now.advance(600 * time.Millisecond)
	if got := r.do("GET", details, ""); got.status != 200 || got.header.Get("X-RateLimit-Remaining") != "29" {
		t.Errorf("after the wait: %d", got.status)
	}
}

func TestRateLimitIsSharedByTheTokensOfAUser(t *testing.T) {
	const details = "/api/v2/account/details"
	r := start(t, simulator.Options{Now: newClock().now, Rate: 2})
	r.do("POST", legacyPath, "")
	legacy := r.last().Secret
	r.do("POST", namedPath, `{"data":{"attributes":{"description":"ci"}}}`)
	named := r.last().Secret
	for i, want := range []int{200, 200, 429} {
		credential := []secret.Text{legacy, named, legacy}[i]
		if got := r.as(credential, "GET", details, ""); got.status != want {
			t.Errorf("call %d of the team: %d, want %d", i, got.status, want)
		}
	}
	for i, want := range []int{401, 401, 429} {
		credential := []secret.Text{{}, secret.New("stranger"), {}}[i]
		if got := r.as(credential, "GET", details, ""); got.status != want {
			t.Errorf("call %d of strangers at one address: %d, want %d", i, got.status, want)
		}
	}
}

func TestNoRateLimit(t *testing.T) {
	r := start(t, simulator.Options{Now: newClock().now, Rate: -1})
	for range 100 {
		got := r.do("GET", "/api/v2/ping", "")
		if got.status != 204 || len(got.header.Values("X-RateLimit-Limit")) != 0 {
			t.Fatalf("%d %v", got.status, got.header)
		}
	}
}
