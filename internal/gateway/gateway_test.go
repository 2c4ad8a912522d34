package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

func at(s string) *timestamppb.Timestamp {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return timestamppb.New(t)
}

// The documents are the upstream's, member for member and in its order.
func TestDocuments(t *testing.T) {
	today := func() *teamtokenv1.TeamToken {
		return &teamtokenv1.TeamToken{
			Id: "at-6yEmxNAhaoQLH1Da", TeamId: "team-BUHBEM97xboT8TVz", CreatedAt: at("2023-11-29T19:18:09.976Z"),
			CreatedBy: &teamtokenv1.Creator{Id: "user-62goNpx1ThQf689e", Kind: teamtokenv1.Creator_KIND_USER},
		}
	}
	with := func(change func(*teamtokenv1.TeamToken)) *teamtokenv1.TeamToken {
		token := today()
		change(token)
		return token
	}
	const team = `"team":{"data":{"id":"team-BUHBEM97xboT8TVz","type":"teams"}}`
	const byUser = `"relationships":{` + team + `,"created-by":{"data":{"id":"user-62goNpx1ThQf689e","type":"users"}}}`
	const head = `{"data":{"id":"at-6yEmxNAhaoQLH1Da","type":"authentication-tokens","attributes":{"created-at":"2023-11-29T19:18:09.976Z",`

	for _, row := range []struct {
		name    string
		message proto.Message
		want    string
	}{
		{
			"the vendor's sample",
			&teamtokenv1.GenerateTokenResponse{
				TeamToken: &teamtokenv1.TeamToken{Id: "4111797", CreatedAt: at("2017-11-29T19:18:09.976Z")}, Secret: "a.atlasv1.b",
			},
			`{"data":{"id":"4111797","type":"authentication-tokens","attributes":{"created-at":"2017-11-29T19:18:09.976Z",` +
				`"last-used-at":null,"description":null,"token":"a.atlasv1.b"}}}`,
		},
		{
			"the vendor's sample, read again",
			&teamtokenv1.GetTokenResponse{TeamToken: &teamtokenv1.TeamToken{Id: "4111797", CreatedAt: at("2017-11-29T19:18:09.976Z")}},
			`{"data":{"id":"4111797","type":"authentication-tokens","attributes":{"created-at":"2017-11-29T19:18:09.976Z",` +
				`"last-used-at":null,"description":null,"token":null}}}`,
		},
		{
			"today's, that never expires", &teamtokenv1.GenerateTokenResponse{TeamToken: today(), Secret: "a.atlasv1.b"},
			head + `"last-used-at":null,"expired-at":null,"description":null,"token":"a.atlasv1.b"},` + byUser + `}}`,
		},
		{
			"today's, read again", &teamtokenv1.GetTokenResponse{TeamToken: today()},
			head + `"last-used-at":null,"expired-at":null,"description":null,"token":null},` + byUser + `}}`,
		},
		{
			"one that is used and expires",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) {
				t.LastUsedAt, t.ExpiredAt = at("2023-12-01T00:00:00Z"), at("2026-04-06T12:00:00Z")
			})},
			head + `"last-used-at":"2023-12-01T00:00:00.000Z","expired-at":"2026-04-06T12:00:00.000Z","description":null,"token":null},` +
				byUser + `}}`,
		},
		{
			"one that expires and names no team",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) {
				t.TeamId, t.CreatedBy, t.ExpiredAt = "", nil, at("2026-04-06T12:00:00Z")
			})},
			head + `"last-used-at":null,"expired-at":"2026-04-06T12:00:00.000Z","description":null,"token":null}}}`,
		},
		{
			"one that names its creator and no team",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) {
				t.TeamId, t.CreatedBy = "", &teamtokenv1.Creator{Id: "acme", Kind: teamtokenv1.Creator_KIND_ORGANIZATION}
			})},
			head + `"last-used-at":null,"description":null,"token":null},` +
				`"relationships":{"created-by":{"data":{"id":"acme","type":"organizations"}}}}}`,
		},
		{
			"one made by a team",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) {
				t.CreatedBy = &teamtokenv1.Creator{Id: "team-Y7RyjccPVBKVEdp7", Kind: teamtokenv1.Creator_KIND_TEAM}
			})},
			head + `"last-used-at":null,"expired-at":null,"description":null,"token":null},"relationships":{` + team +
				`,"created-by":{"data":{"id":"team-Y7RyjccPVBKVEdp7","type":"teams"}}}}}`,
		},
		{
			"one made by a kind that is not known",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) {
				t.CreatedBy = &teamtokenv1.Creator{Id: "robot-1"}
			})},
			head + `"last-used-at":null,"expired-at":null,"description":null,"token":null},"relationships":{` + team + `}}}`,
		},
		{
			"an empty description, which is one",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) { t.Description = proto.String("") })},
			head + `"last-used-at":null,"expired-at":null,"description":"","token":null},` + byUser + `}}`,
		},
		{
			"a description of markup, as it is",
			&teamtokenv1.GetTokenResponse{TeamToken: with(func(t *teamtokenv1.TeamToken) { t.Description = proto.String(`<a&"b">`) })},
			head + `"last-used-at":null,"expired-at":null,"description":"<a&\"b\">","token":null},` + byUser + `}}`,
		},
		{
			"nothing known but the id", &teamtokenv1.GetTokenResponse{TeamToken: &teamtokenv1.TeamToken{Id: "tt-1"}},
			`{"data":{"id":"tt-1","type":"authentication-tokens","attributes":{"created-at":null,"last-used-at":null,"description":null,"token":null}}}`,
		},
		{"a deletion", &teamtokenv1.DeleteTokenResponse{}, ``},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := marshaler{}.Marshal(row.message)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if len(got) > 0 && !json.Valid(got) {
				t.Error("it is not JSON")
			}
		})
	}
	if b, err := (marshaler{}).Marshal(&teamtokenv1.TeamToken{}); err == nil {
		t.Errorf("a message that is no answer gives %s", b)
	}
}

// Times have milliseconds and a Z, and more digits only where there are more.
func TestTimes(t *testing.T) {
	for _, row := range []struct{ at, want string }{
		{"2017-11-29T19:18:09.976Z", "2017-11-29T19:18:09.976Z"},
		{"2017-11-29T19:18:09Z", "2017-11-29T19:18:09.000Z"},
		{"2017-11-29T19:18:09.9Z", "2017-11-29T19:18:09.900Z"},
		{"2017-11-29T19:18:09.9761Z", "2017-11-29T19:18:09.9761Z"},
		{"2017-11-29T19:18:09.000000001Z", "2017-11-29T19:18:09.000000001Z"},
		{"2017-11-29T21:18:09.976+02:00", "2017-11-29T19:18:09.976Z"},
		{"0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"},
		{"9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"},
	} {
		if got := date(at(row.at)); got == nil || *got != row.want {
			t.Errorf("%s gives %v, want %s", row.at, got, row.want)
		}
	}
	if got := date(nil); got != nil {
		t.Errorf("no time gives %s", *got)
	}
}

// What the vendor's clients, its sample and its documentation send is taken.
func TestRequests(t *testing.T) {
	for _, row := range []struct {
		name, body string
		want       *timestamppb.Timestamp
	}{
		{"the vendor's sample: no body", ``, nil},
		{"white space", " \r\n\t", nil},
		{"go-tfe", `{"data":{"type":""}}` + "\n", nil},
		{"go-tfe v2", `{"data":{"type":"authentication-tokens"}}`, nil},
		{"the documentation", `{"data":{"type":"authentication-token"}}`, nil},
		{"no type", `{"data":{}}`, nil},
		{"a type of null", `{"data":{"type":null}}`, nil},
		{"attributes of null", `{"data":{"attributes":null}}`, nil},
		{"no attributes", `{"data":{"attributes":{}}}`, nil},
		{"an expiry of null", `{"data":{"attributes":{"expired-at":null}}}`, nil},
		{"a description of null", `{"data":{"attributes":{"description":null}}}`, nil},
		{
			"an attribute of null that is not known", `{"data":{"attributes":{"token":null}}}`, nil, // a document sent back
		},
		{"members that are not known", `{"data":{"id":"1","relationships":{}},"jsonapi":{"version":"1.0"}}`, nil},
		{
			"an expiry", `{"data":{"type":"authentication-tokens","attributes":{"expired-at":"2026-04-06T12:00:00.000Z"}}}`,
			at("2026-04-06T12:00:00Z"),
		},
		{"an expiry without milliseconds", `{"data":{"attributes":{"expired-at":"2026-04-06T12:00:00Z"}}}`, at("2026-04-06T12:00:00Z")},
		{"an expiry in another zone", `{"data":{"attributes":{"expired-at":"2026-04-06T14:00:00+02:00"}}}`, at("2026-04-06T12:00:00Z")},
		{
			"an expiry with nanoseconds", `{"data":{"attributes":{"expired-at":"2026-04-06T12:00:00.123456789Z"}}}`,
			at("2026-04-06T12:00:00.123456789Z"),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var m teamtokenv1.GenerateTokenRequest
			if err := (marshaler{}).Unmarshal([]byte(row.body), &m); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(&m, &teamtokenv1.GenerateTokenRequest{ExpiredAt: row.want}) {
				t.Errorf("got %v, want %v", &m, row.want)
			}
		})
	}
	if err := (marshaler{}).Unmarshal([]byte(`{"data":{}}`), &teamtokenv1.DeleteTokenRequest{}); err == nil {
		t.Error("a deletion has no document")
	}
}

// Every field of a request has its place in an error document, and there is
// none for a field that does not exist.
func TestSources(t *testing.T) {
	want := map[string]source{
		"team_id":           {Parameter: "team_id"},
		"expected_token_id": {Parameter: "expected_token_id"},
		"allow_missing":     {Parameter: "allow_missing"},
		"token_id":          {Parameter: "token_id"},
		"organization":      {Parameter: "organization"},
		"query":             {Parameter: "q"},
		"sort":              {Parameter: "sort"},
		"expiry_status":     {Parameter: "filter[expiry_status]"},
		"page_size":         {Parameter: "page[size]"},
		"page_token":        {Parameter: "page[number]"},
		"description":       {Pointer: "/data/attributes/description"},
		"expired_at":        {Pointer: "/data/attributes/expired-at"},
		"request_id":        {Header: "Idempotency-Key"},
	}
	if diff := cmp.Diff(want, sources); diff != "" {
		t.Error(diff)
	}
	fields := map[string]bool{}
	messages := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Messages()
	for i := range messages.Len() {
		if m := messages.Get(i); strings.HasSuffix(string(m.Name()), "Request") {
			for j := range m.Fields().Len() {
				fields[string(m.Fields().Get(j).Name())] = true
			}
		}
	}
	for name := range sources {
		if !fields[name] {
			t.Errorf("%s is a field of no request", name)
		}
		delete(fields, name)
	}
	for name := range fields {
		t.Errorf("%s has no source", name)
	}
}

// An error document has one object for each field, or one in all.
func TestProblems(t *testing.T) {
	for _, row := range []struct {
		name    string
		problem problem
		want    string
	}{
		{
			"of HTTP alone",
			problem{status: 404},
			`{"errors":[{"status":"404","title":"not found","meta":{"request_id":"r-1"}}]}`,
		},
		{
			"of no field",
			problem{status: 409, code: "TEAM_BUSY", detail: "Busy.", outcome: "not_applied"},
			`{"errors":[{"status":"409","code":"TEAM_BUSY","title":"conflict","detail":"Busy.",` +
				`"meta":{"request_id":"r-1","outcome":"not_applied"}}]}`,
		},
		{
			"of two fields, and one of none",
			problem{status: 400, code: "INVALID_FIELD", detail: "unused", outcome: "not_applied", fields: []field{
				{"team_id", "must be so"}, {"expired_at", "must be <later>"}, {"", "is none"}, {"other", "is odd"},
			}},
			`{"errors":[` +
				`{"status":"400","code":"INVALID_FIELD","title":"bad request","detail":"team_id: must be so",` +
				`"source":{"parameter":"team_id"},"meta":{"request_id":"r-1","outcome":"not_applied"}},` +
				`{"status":"400","code":"INVALID_FIELD","title":"bad request","detail":"/data/attributes/expired-at: must be <later>",` +
				`"source":{"pointer":"/data/attributes/expired-at"},"meta":{"request_id":"r-1","outcome":"not_applied"}},` +
				`{"status":"400","code":"INVALID_FIELD","title":"bad request","detail":"is none",` +
				`"meta":{"request_id":"r-1","outcome":"not_applied"}},` +
				`{"status":"400","code":"INVALID_FIELD","title":"bad request","detail":"other: is odd",` +
				`"meta":{"request_id":"r-1","outcome":"not_applied"}}]}`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set(requestid.Header, "r-1")
			writeProblem(w, row.problem)
			if w.Code != row.problem.status || w.Header().Get("Content-Type") != jsonapi.MediaType {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			if diff := cmp.Diff(row.want, w.Body.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	w := httptest.NewRecorder()
	writeProblem(w, problem{status: http.StatusUnauthorized})
	if got := w.Header().Get("WWW-Authenticate"); got != "Bearer" {
		t.Errorf("a 401 asks for %q", got)
	}
}
