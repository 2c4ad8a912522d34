package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"
	tfe "github.com/hashicorp/go-tfe"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

// api is what the paths of the vendor's OpenAPI document are relative to: it has
// no servers section.
const api = "/api/v2"

// verdict is what the vendor's OpenAPI document has against an exchange, empty if
// nothing. Where it is right and the vendor's documentation or clients do
// otherwise, the row says so.
type verdict struct{ Request, Answer string }

// validating is an http.RoundTripper that holds every exchange against the
// document.
type validating struct {
	document routers.Router
	last     *verdict
	unknown  bool // the last exchange was not with an endpoint of the document
}

func newValidating(t *testing.T) *validating {
	t.Helper()
	const variable = "TEAMTOKEN_UPSTREAM_OPENAPI"
	file := os.Getenv(variable)
	if file == "" {
		t.Skip(variable + " does not name the vendor's OpenAPI document: nothing is held against it")
	}
	document, err := openapi3.NewLoader().LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document)
	if err != nil {
		t.Fatal(err)
	}
	return &validating{document: router}
}

func (v *validating) RoundTrip(r *http.Request) (*http.Response, error) {
	v.last, v.unknown = &verdict{}, false
	relative := *r.URL
	relative.Path = strings.TrimPrefix(relative.Path, api)
	route, params, err := v.document.FindRoute(&http.Request{Method: r.Method, URL: &relative})
	if err != nil {
		v.unknown = true
		return http.DefaultTransport.RoundTrip(r)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			// What it validates is what is sent.
			SkipSettingDefaults: true, IncludeResponseStatus: true,
		},
	}
	v.last.Request = complaint(openapi3filter.ValidateRequest(r.Context(), input))
	for name := range r.URL.Query() {
		if route.Operation.Parameters.GetByInAndName("query", name) == nil {
			v.last.Request = strings.TrimPrefix(v.last.Request+", "+name+": not in the document", ", ")
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Options: input.Options,
	}
	answer.SetBodyBytes(body)
	v.last.Answer = complaint(openapi3filter.ValidateResponse(r.Context(), answer))
	if declared := route.Operation.Responses.Status(resp.StatusCode); declared != nil &&
		len(declared.Value.Content) == 0 && len(body) > 0 {
		v.last.Answer = "a body where there is none in the document"
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// complaint is an error of the validator as `where: what`.
func complaint(err error) string {
	var schema *openapi3.SchemaError
	var request *openapi3filter.RequestError
	var response *openapi3filter.ResponseError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &schema):
		return strings.Join(schema.JSONPointer(), "/") + ": " + schema.SchemaField
	case errors.As(err, &request) && request.Parameter != nil:
		return request.Parameter.Name + ": " + request.Parameter.Schema.Value.Type.Slice()[0]
	case errors.As(err, &request) && errors.Is(request.Err, openapi3filter.ErrInvalidRequired):
		return "body: required"
	case errors.As(err, &request):
		return request.Reason
	case errors.As(err, &response):
		return response.Reason
	default:
		return err.Error()
	}
}

// Requests, and what upstream and the program answer to them, are as the vendor's
// OpenAPI document has them, whatever the status.
//
// Endpoint 4, POST /teams/:team_id/authentication-tokens, is not in the document,
// so that nothing can be said of it; the last rows see to it that it is noticed
// when it comes.
func TestOpenAPI(t *testing.T) {
	const (
		legacyToken = "/teams/" + team + "/authentication-token"
		noTeam      = "/teams/team-0000000000000000/authentication-token"
		byID        = "/authentication-tokens/{id 1}"
		noID        = "/authentication-tokens/at-0000000000000000"
		tokens      = "/organizations/" + simulator.Organization + "/team-tokens"

		asked = `{"data":{"type":"authentication-tokens"}}`

		// What the document has against requests that are sent all the same.
		noBody   = "body: required"            // the documentation's sample sends none
		badType  = "data/type: enum"           // go-tfe v1 sends "", the documentation "authentication-token"
		noSort   = "sort: not in the document" // the documentation has it, and both clients
		pageText = "page[size]: integer"

		// And against answers.
		html   = `response header Content-Type has unexpected value: "text/html"` // a load balancer's, not the API's
		number = "errors/0/status: type"                                          // the documentation's own sample of a 429
	)
	transport := newValidating(t)
	type status struct{ upstream, program int }
	both := func(code int) status { return status{code, code} }
	fails := func(code int) *simulator.Fault { return &simulator.Fault{Status: code, Times: -1} }
	with := func(detail string) string {
		return `{"data":{"type":"authentication-tokens","attributes":{` + detail + `}}}`
	}
	for _, row := range []struct {
		request string
		body    string
		given   int // how many legacy tokens the team was given before
		fault   *simulator.Fault
		want    status
		against verdict // of either's answer
		alone   string  // what it has against upstream's own answer, and not against the program's
	}{
		// 1
		{request: "POST " + legacyToken, body: asked, want: both(201)},
		{request: "POST " + legacyToken, body: asked, given: 1, want: both(201)},
		{request: "POST " + legacyToken, body: with(`"expired-at":"2101-01-02T03:04:05Z"`), want: both(201)},
		{request: "POST " + legacyToken, body: with(`"expired-at":"2101-01-02T03:04:05.678+05:00"`), want: both(201)},
		{request: "POST " + legacyToken, body: with(`"expired-at":null`), want: both(201)},
		{request: "POST " + legacyToken, body: with(`"description":null`), want: both(201)},
		{request: "POST " + legacyToken, want: both(201), against: verdict{Request: noBody}},
		{request: "POST " + legacyToken, body: `{"data":{"type":""}}`, want: both(201), against: verdict{Request: badType}},
		{
			request: "POST " + legacyToken, body: `{"data":{"type":"authentication-token"}}`, want: both(201),
			against: verdict{Request: badType},
		},
		{request: "POST " + legacyToken, body: `{"data":{"type":"teams"}}`, want: status{422, 400}, against: verdict{Request: badType}},
		{request: "POST " + legacyToken, body: `{"data":{}}`, want: both(201), against: verdict{Request: "data/type: required"}},
		{request: "POST " + legacyToken, body: `{}`, want: status{422, 400}, against: verdict{Request: "data: required"}},
		{request: "POST " + legacyToken, body: `{`, want: status{422, 400}, against: verdict{Request: "failed to decode request body"}},
		{request: "POST " + legacyToken, body: with(`"expired-at":"2000-01-02T03:04:05Z"`), want: status{422, 400}},
		{request: "POST " + legacyToken, body: with(`"expired-at":"2099-01-02T03:04:05Z"`), want: both(422)},
		{
			request: "POST " + legacyToken, body: with(`"expired-at":"soon"`), want: status{422, 400},
			against: verdict{Request: "data/attributes/expired-at: format"},
		},
		{
			request: "POST " + legacyToken, body: with(`"expired-at":7`), want: status{422, 400},
			against: verdict{Request: "data/attributes/expired-at: type"},
		},
		{request: "POST " + noTeam, body: asked, want: both(404)},
		{request: "POST /teams/team-1/authentication-token", body: asked, want: status{404, 400}},
		{request: "POST " + legacyToken, body: asked, fault: fails(400), want: status{400, 422}},
		{request: "POST " + legacyToken, body: asked, fault: fails(401), want: status{401, 500}},
		{request: "POST " + legacyToken, body: asked, fault: fails(403), want: both(403)},
		{request: "POST " + legacyToken, body: asked, fault: fails(409), want: both(409)},
		{request: "POST " + legacyToken, body: asked, fault: fails(422), want: both(422)},
		{request: "POST " + legacyToken, body: asked, fault: fails(500), want: both(500), alone: html},
		{request: "POST " + legacyToken, body: asked, fault: fails(502), want: status{502, 500}, alone: html},
		{
			request: "POST " + legacyToken, body: asked, fault: &simulator.Fault{Body: new("{}")}, want: status{201, 500},
			alone: "data: required",
		},

		// 2
		{request: "DELETE " + legacyToken, given: 1, want: both(204)},
		{request: "DELETE " + legacyToken, want: both(404)},
		{request: "DELETE " + noTeam, want: both(404)},
		{request: "DELETE /teams/team-1/authentication-token", want: status{404, 400}},
		{request: "DELETE " + legacyToken, fault: fails(503), want: status{503, 500}, alone: html},

		// 3
		{request: "GET " + legacyToken, given: 1, want: both(200)},
		{request: "GET " + legacyToken, want: both(404)},
		{request: "GET " + noTeam, want: both(404)},
		{request: "GET /teams/team-1/authentication-token", want: status{404, 400}},
		{request: "GET " + legacyToken, fault: fails(401), want: status{401, 500}},
		{request: "GET " + legacyToken, fault: fails(503), want: both(503), alone: html},
		{request: "GET " + legacyToken, fault: &simulator.Fault{
			Status: 429, Times: -1, Header: map[string]string{"X-RateLimit-Reset": "90"},
		}, want: both(429), alone: number},

		// 5
		{request: "GET " + byID, given: 1, want: both(200)},
		{request: "GET " + noID, want: both(404)},
		{request: "GET /authentication-tokens/at_1", want: status{404, 400}},
		{request: "GET " + byID, given: 1, fault: fails(500), want: status{500, 503}, alone: html},

		// 6
		{request: "DELETE " + byID, given: 1, want: both(204)},
		{request: "DELETE " + noID, want: both(404)},
		{request: "DELETE /authentication-tokens/at_1", want: status{404, 400}},
		{request: "DELETE " + byID, given: 1, fault: &simulator.Fault{Method: "DELETE", Status: 500}, want: both(500), alone: html},

		// 7
		{request: "GET " + tokens, want: both(200)},
		{request: "GET " + tokens, given: 1, want: both(200)},
		{request: "GET " + tokens + "?q=plat&page%5Bnumber%5D=1&page%5Bsize%5D=5", given: 1, want: both(200)},
		{request: "GET " + tokens + "?page%5Bnumber%5D=3", given: 1, want: both(200)},
		{request: "GET " + tokens + "?filter%5Bexpiry_status%5D=active%2Cno_expiration", given: 1, want: both(200)},
		{request: "GET " + tokens + "?filter%5Bexpiry_status%5D=stale", want: both(400)},
		{request: "GET " + tokens + "?page%5Bsize%5D=101", want: status{200, 400}},
		{request: "GET " + tokens + "?page%5Bsize%5D=many", want: status{200, 400}, against: verdict{Request: pageText}},
		{request: "GET " + tokens + "?sort=-team-name", given: 1, want: both(200), against: verdict{Request: noSort}},
		{request: "GET " + tokens + "?sort=name", want: both(400), against: verdict{Request: noSort}},
		{request: "GET /organizations/elsewhere/team-tokens", want: both(404)},
		{request: "GET /organizations/a.b/team-tokens", want: status{404, 400}},
		{request: "GET " + tokens, fault: fails(503), want: both(503), alone: html},
	} {
		t.Run(row.request+" "+row.body, func(t *testing.T) {
			onEach(t, []surface{direct, withService}, func(t *testing.T, s server) {
				for range row.given {
					if got := s.exchange(t, []string{"POST " + path}, ""); got.Status != http.StatusCreated {
						t.Fatalf("a token could not be made: status %d", got.Status)
					}
				}
				if row.fault != nil {
					s.sim.Inject(*row.fault)
				}
				want, wantStatus := row.against, row.want.program
				if s.url == s.upstream {
					want.Answer, wantStatus = row.alone, row.want.upstream
				}
				if got := s.send(t, transport, row.request, row.body); got != wantStatus {
					t.Errorf("status %d, want %d", got, wantStatus)
				}
				if transport.unknown {
					t.Fatal("the document has no such endpoint")
				}
				if diff := cmp.Diff(want, *transport.last); diff != "" {
					t.Errorf("against it the document has (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// What the front of the program refuses before it is looked up is an error
// document too.
func TestOpenAPIOfRefusals(t *testing.T) {
	const request = "POST /teams/" + team + "/authentication-token"
	transport := newValidating(t)
	for _, row := range []struct {
		name    string
		surface surface
		token   string // empty for the right one
		header  http.Header
		body    string
		status  int
		against verdict
	}{
		{"no caller", withCallers, "none", nil, `{"data":{"type":"authentication-tokens"}}`, 401, verdict{}},
		{"a wrong caller", withCallers, "wrong", nil, `{"data":{"type":"authentication-tokens"}}`, 401, verdict{}},
		{
			"a form", withService, "",
			http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
			"a=b", 415,
			verdict{Request: `header Content-Type has unexpected value "application/x-www-form-urlencoded"`},
		},
		{"too long", withService, "", nil, `{"data":{"type":"authentication-tokens"}}` + strings.Repeat(" ", 64<<10), 413, verdict{}},
		{
			"two keys", withService, "",
			http.Header{"Idempotency-Key": {"a", "b"}},
			`{"data":{"type":"authentication-tokens"}}`, 400,
			verdict{},
		},
		{
			"too little time", withService, "",
			http.Header{"Grpc-Timeout": {"1S"}},
			`{"data":{"type":"authentication-tokens"}}`, 504,
			verdict{},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, []surface{row.surface}, func(t *testing.T, s server) {
				if row.token != "" {
					s.token = row.token
				}
				if row.status == http.StatusGatewayTimeout {
					s.sim.Inject(simulator.Fault{Delay: 2 * time.Second})
				}
				got := s.send(t, transport, request, row.body, row.header)
				if got != row.status {
					t.Errorf("status %d, want %d", got, row.status)
				}
				if diff := cmp.Diff(row.against, *transport.last); diff != "" {
					t.Errorf("against it the document has (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// send makes a request of the API and returns the status that it was answered
// with.
func (s server) send(t *testing.T, transport http.RoundTripper, request, body string, headers ...http.Header) int {
	t.Helper()
	method, address, _ := strings.Cut(request, " ")
	if minted := s.sim.Minted(); len(minted) > 0 {
		address = strings.ReplaceAll(address, "{id 1}", minted[0].ID)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+api+address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if s.token != "none" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	for _, header := range headers {
		for name, values := range header {
			req.Header[name] = values
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		if document, err := io.ReadAll(resp.Body); err != nil || (resp.Header.Get("Content-Type") == mediaType && !json.Valid(document)) {
			t.Errorf("no document: %v", err)
		}
	}
	return resp.StatusCode
}

// go-tfe's own requests are as the document has them, but for what the document
// alone forbids, and so are the answers that it gets.
func TestOpenAPIOfGoTFE(t *testing.T) {
	transport := newValidating(t)
	for _, row := range []struct {
		name    string
		do      call
		unknown bool
		against verdict
	}{
		{"Create", create, false, verdict{Request: "data/type: enum"}},
		{"CreateWithOptions, expiry", createUntil(clock.Add(time.Hour)), false, verdict{Request: "data/type: enum"}},
		{"CreateWithOptions, description: endpoint 4 is not in the document", createNamed("ci"), true, verdict{}},
		{"Read", read, false, verdict{}},
		{"ReadByID", readByID(nth(1)), false, verdict{}},
		{"List", list(nil), false, verdict{}},
		{"List, paged", list(&tfe.TeamTokenListOptions{
			ListOptions: tfe.ListOptions{PageNumber: 1, PageSize: 5}, Query: "plat form",
		}), false, verdict{}},
		{
			"List, sorted", list(&tfe.TeamTokenListOptions{Sort: "-created-by"}), false,
			verdict{Request: "sort: not in the document"},
		},
		{"DeleteByID", removeByID(nth(1)), false, verdict{}},
		{"Delete", remove, false, verdict{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, surfaces, func(t *testing.T, s server) {
				if _, err := create(t.Context(), newClient(t, s, s.token)); err != nil {
					t.Fatal(err)
				}
				vendors, err := tfe.NewClient(&tfe.Config{
					Address: s.url, Token: s.token, HTTPClient: &http.Client{Transport: transport},
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := row.do(t.Context(), &client{TeamTokens: vendors.TeamTokens, server: s}); err != nil {
					t.Fatal(err)
				}
				if transport.unknown != row.unknown {
					t.Errorf("not in the document: %v, want %v", transport.unknown, row.unknown)
				}
				if diff := cmp.Diff(row.against, *transport.last); diff != "" {
					t.Errorf("against it the document has (-want +got):\n%s", diff)
				}
			})
		})
	}
}
