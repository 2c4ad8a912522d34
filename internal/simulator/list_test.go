package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

type listing struct {
	Data []struct {
		ID         string
		Attributes struct {
			Description *string
			Token       any
		}
	}
	Links map[string]*string
	Meta  struct {
		Pagination map[string]any
	}
}

func list(t *testing.T, r *rig, query url.Values) listing {
	t.Helper()
	got := r.do("GET", listPath+"?"+query.Encode(), "")
	var l listing
	if err := json.Unmarshal([]byte(got.body), &l); err != nil || got.status != 200 {
		t.Fatalf("%d, %v: %s", got.status, err, got.body)
	}
	return l
}

func TestListFiltersAndSorts(t *testing.T) {
	now := newClock()
	r := start(t, simulator.Options{Now: now.now, Rate: -1, DefaultTTL: -1})
	teams := simulator.Teams() // platform, payments, Data Science
	in := func(d time.Duration) string {
		return `,"expired-at":"` + now.now().Add(d).UTC().Format(time.RFC3339Nano) + `"`
	}
	day := 24 * time.Hour
	for i, token := range []struct {
		team    int
		name    string
		expires string
	}{
		{0, "never", ""},
		{2, "gone", in(time.Hour)},
		{1, "in8days", in(8 * day)},
		{2, "in3days", in(3 * day)},
		{0, "in31days", in(31 * day)},
		{1, "revoked", in(2 * day)},
	} {
		by := r.OwnerToken() // team-…
		if i%2 == 1 {
			by = r.UserToken() // user-…
		}
		r.as(by, "POST", "/api/v2/teams/"+teams[token.team].ID+"/authentication-tokens",
			`{"data":{"attributes":{"description":"`+token.name+`"`+token.expires+`}}}`)
	}
	minted := r.Minted()
	r.do("DELETE", "/api/v2/authentication-tokens/"+minted[5].ID, "")
	r.as(minted[4].Secret, "GET", "/api/v2/account/details", "")
	now.advance(2 * time.Hour)
	r.as(minted[3].Secret, "GET", "/api/v2/account/details", "")

	for query, want := range map[string]string{
		"":                                    "gone in3days in8days in31days never",
		"sort=expired-at":                     "gone in3days in8days in31days never",
		"sort=-expired-at":                    "never in31days in8days in3days gone",
		"sort=team-name":                      "gone in3days in8days never in31days",
		"sort=-team-name":                     "never in31days in8days gone in3days",
		"sort=created-by":                     "never in8days in31days gone in3days",
		"sort=-created-by":                    "gone in3days never in8days in31days",
		"sort=last-used-at":                   "in31days in3days never gone in8days",
		"sort=-last-used-at":                  "never gone in8days in3days in31days",
		"q=PAY":                               "in8days",
		"q=a sci":                             "gone in3days",
		"q=p":                                 "in8days in31days never",
		"q=p&sort=-team-name":                 "never in31days in8days",
		"q=nothing":                           "",
		"filter[expiry_status]=":              "gone in3days in8days in31days never",
		"filter[expiry_status]=active":        "in3days in8days in31days never",
		"filter[expiry_status]=expired":       "gone",
		"filter[expiry_status]=no_expiration": "never",
		"filter[expiry_status]=expiring_in_7_days":    "in3days",
		"filter[expiry_status]=expiring_in_30_days":   "in3days in8days",
		"filter[expiry_status]=expired,no_expiration": "gone never",
		"filter[expiry_status]=active&q=p":            "in8days in31days never",
	} {
		t.Run(query, func(t *testing.T) {
			values, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, token := range list(t, r, values).Data {
				got = append(got, *token.Attributes.Description)
				if token.Attributes.Token != nil {
					t.Error("a list must not show a secret")
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestListPages(t *testing.T) {
	r := start(t, simulator.Options{Rate: -1})
	create := func(n int) {
		for range n {
			body := fmt.Sprintf(`{"data":{"attributes":{"description":"%d"}}}`, len(r.Minted()))
			if got := r.do("POST", namedPath, body); got.status != 201 {
				t.Fatalf("%d", got.status)
			}
		}
	}
	tokens := 0
	for _, row := range []struct {
		tokens       int
		number, size string
		want         string // of the page: number, size, previous, next, pages, tokens
		first, n     int    // what is on it
	}{
		{0, "", "", "1 20 <nil> <nil> 1 0", 0, 0},
		{20, "", "", "1 20 <nil> <nil> 1 20", 0, 20},
		{21, "", "", "1 20 <nil> 2 2 21", 0, 20},
		{21, "2", "", "2 20 1 <nil> 2 21", 20, 1},
		{21, "2", "5", "2 5 1 3 5 21", 5, 5},
		{21, "5", "5", "5 5 4 <nil> 5 21", 20, 1},
		{21, "9", "5", "9 5 8 <nil> 5 21", 0, 0},
		{21, "0", "0", "1 20 <nil> 2 2 21", 0, 20},
		{21, "-1", "x", "1 20 <nil> 2 2 21", 0, 20},
		{101, "1", "100", "1 100 <nil> 2 2 101", 0, 100},
		{101, "2", "1000", "2 100 1 <nil> 2 101", 100, 1},
	} {
		create(row.tokens - tokens)
		tokens = row.tokens
		query := url.Values{"sort": {"team-name"}} // one team: the order of making
		if row.number != "" {
			query.Set("page[number]", row.number)
		}
		if row.size != "" {
			query.Set("page[size]", row.size)
		}
		got := list(t, r, query)
		p := got.Meta.Pagination
		page := fmt.Sprintf("%v %v %v %v %v %v",
			p["current-page"], p["page-size"], p["prev-page"], p["next-page"], p["total-pages"], p["total-count"])
		if page != row.want {
			t.Errorf("page %q of size %q of %d tokens: %s, want %s", row.number, row.size, row.tokens, page, row.want)
		}
		if len(got.Data) != row.n {
			t.Errorf("%s: %d tokens, want %d", page, len(got.Data), row.n)
		} else if row.n > 0 && got.Data[0].ID != r.Minted()[row.first].ID {
			t.Errorf("%s: does not begin with token %d", page, row.first)
		}

		to := func(number any) string {
			return r.url + listPath + fmt.Sprintf("?page%%5Bnumber%%5D=%v&page%%5Bsize%%5D=%v&sort=team-name", number, p["page-size"])
		}
		for name, number := range map[string]any{
			"self": p["current-page"], "first": 1, "prev": p["prev-page"], "next": p["next-page"], "last": p["total-pages"],
		} {
			link, ok := got.Links[name]
			switch {
			case !ok:
				t.Errorf("%s: no link %s", page, name)
			case number == nil && link != nil:
				t.Errorf("%s: link %s is %s, want null", page, name, *link)
			case number != nil && (link == nil || *link != to(number)):
				t.Errorf("%s: link %s is not %s", page, name, to(number))
			}
		}
	}
}

func TestListIsByteForByteTheVendors(t *testing.T) {
	r := start(t, simulator.Options{Now: newClock().now, Rate: -1})
	r.as(r.UserToken(), "POST", legacyPath, "")
	self := r.url + listPath + `?page%5Bnumber%5D=1\u0026page%5Bsize%5D=20`
	want := `{"data":[{"id":"` + r.last().ID + `","type":"authentication-tokens",` +
		`"attributes":{"created-at":"2026-04-06T12:00:00.123Z","last-used-at":null,"expired-at":"2028-04-05T12:00:00.123Z",` +
		`"description":null,"token":null},` +
		`"relationships":{"team":{"data":{"id":"` + simulator.SeedTeam + `","type":"teams"}},` +
		`"created-by":{"data":{"id":"user-62goNpx1ThQf689e","type":"users"}}}}],` +
		`"links":{"self":"` + self + `","first":"` + self + `","prev":null,"next":null,"last":"` + self + `"},` +
		`"meta":{"pagination":{"current-page":1,"page-size":20,"prev-page":null,"next-page":null,` +
		`"total-pages":1,"total-count":1}}}`
	if got := r.do("GET", listPath, "").body; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
