package clients

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// ownDocument is the OpenAPI document that the program serves.
func ownDocument(t *testing.T, from string) routers.Router {
	t.Helper()
	address, err := url.Parse(from + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := openapi3.NewLoader().LoadFromURI(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := document.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document)
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// The program's own OpenAPI document has every method, and what it says of requests and
// of answers is so: what it allows is taken, what it does not is refused, and every
// answer, good or bad, is one that it has, and no other.
func TestOwnOpenAPI(t *testing.T) {
	onEach(t, []surface{withService}, func(t *testing.T, s server) {
		router := ownDocument(t, s.url)
		const legacyToken, named = "/teams/" + team + "/authentication-token", "/teams/" + team + "/authentication-tokens"
		const list = "/organizations/" + simulator.Organization + "/team-tokens"
		fails := func(f simulator.Fault) *simulator.Fault { f.Times = 1; return &f }
		covered := map[string]bool{}
		for _, row := range []struct {
			request string
			body    string
			headers []string
			fault   *simulator.Fault
			status  int
			against bool // the document has something against the request
		}{
			{request: "POST " + legacyToken, status: 201},
			{request: "POST " + legacyToken, body: `{"data":{"type":"authentication-tokens"}}`, status: 201},
			{request: "POST " + legacyToken, body: `{"data":{"type":"authentication-token","attributes":{"expired-at":"2101-01-02T03:04:05Z"}}}`, status: 201},
			{request: "POST " + legacyToken, body: `{"data":{"type":"authentication-tokens","attributes":{"expired-at":null}}}`, status: 201},
			{request: "POST " + legacyToken, body: `{"data":{"type":"authentication-tokens","attributes":{"expires-at":null}}}`, status: 400, against: true},
			{request: "POST " + legacyToken, body: `{"data":{"type":"teams"}}`, status: 400, against: true},
			{request: "POST " + legacyToken, body: `{}`, status: 400, against: true},
			{request: "POST " + legacyToken, headers: []string{"Idempotency-Key", "once"}, status: 201},
			{request: "POST " + legacyToken, headers: []string{"Idempotency-Key", "not a key"}, status: 400, against: true},
			{request: "POST " + legacyToken, headers: []string{"Grpc-Timeout", "1x"}, status: 400, against: true},
			{request: "POST " + legacyToken + "?expected_token_id=at-0000000000000000", status: 409},
			{request: "POST /teams/team-0000000000000000/authentication-token", status: 404},
			{request: "POST /teams/team-1/authentication-token", status: 400, against: true},
			{request: "POST " + legacyToken, fault: fails(simulator.Fault{Status: 403}), status: 403},
			{request: "POST " + legacyToken, fault: fails(simulator.Fault{Status: 401}), status: 500},
			{request: "GET " + legacyToken, status: 200},
			{request: "GET /teams/team-0000000000000000/authentication-token", status: 404},
			{request: "POST " + named, body: `{"data":{"type":"authentication-tokens","attributes":{"description":"one"}}}`, status: 201},
			{request: "POST " + named, body: `{"data":{"type":"authentication-tokens","attributes":{"description":"one"}}}`, status: 422},
			{request: "POST " + named, body: `{"data":{"type":"authentication-tokens"}}`, status: 400, against: true},
			{request: "GET " + list, status: 200},
			{request: "GET " + list + "?page[size]=1&page[number]=2&sort=-expired-at&q=o&filter[expiry_status]=active,expired", status: 200},
			{request: "GET " + list + "?page[size]=101", status: 400, against: true},
			{request: "GET " + list + "?sort=colour", status: 400, against: true},
			{request: "GET /organizations/nobody/team-tokens", status: 404},
			{request: "GET /authentication-tokens/{id}", status: 200},
			{request: "GET /authentication-tokens/at-0000000000000000", status: 404},
			{request: "DELETE /authentication-tokens/{id}", status: 204},
			{request: "DELETE " + legacyToken + "?allow_missing=perhaps", status: 400, against: true},
			{request: "DELETE " + legacyToken + "?allow_missing=true", status: 204},
			{request: "DELETE " + legacyToken, status: 404},
			{request: "GET /ping", status: 204},
		} {
			t.Run(row.request+" "+row.body, func(t *testing.T) {
				method, path, _ := strings.Cut(row.request, " ")
				if minted := s.sim.Minted(); len(minted) > 0 {
					path = strings.ReplaceAll(path, "{id}", minted[len(minted)-1].ID)
				}
				if row.fault != nil {
					s.sim.Inject(*row.fault)
				}
				request := func() *http.Request {
					r, err := http.NewRequestWithContext(t.Context(), method, s.url+api+path, strings.NewReader(row.body))
					if err != nil {
						t.Fatal(err)
					}
					if row.body != "" {
						r.Header.Set("Content-Type", "application/vnd.api+json")
					} else {
						r.Body = nil
					}
					for i := 0; i < len(row.headers); i += 2 {
						r.Header.Set(row.headers[i], row.headers[i+1])
					}
					return r
				}
				route, params, err := router.FindRoute(request())
				if err != nil {
					t.Fatal(err)
				}
				covered[route.Operation.OperationID] = true
				input := &openapi3filter.RequestValidationInput{
					Request: request(), PathParams: params, Route: route,
					Options: &openapi3filter.Options{
						SkipSettingDefaults: true, IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
					},
				}
				if err := openapi3filter.ValidateRequest(t.Context(), input); (err != nil) != row.against {
					t.Errorf("the document has against the request: %v", err)
				}
				resp, err := http.DefaultClient.Do(request())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != row.status {
					t.Errorf("%s, want %d: %s", resp.Status, row.status, body)
				}
				answer := &openapi3filter.ResponseValidationInput{
					RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Options: input.Options,
				}
				answer.SetBodyBytes(body)
				if err := openapi3filter.ValidateResponse(t.Context(), answer); err != nil {
					t.Errorf("the document has against the answer: %v\n%s", err, body)
				}
			})
		}
		methods := map[string]bool{"Ping": true}
		of := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().Get(0).Methods()
		for i := range of.Len() {
			methods[string(of.Get(i).Name())] = true
		}
		if diff := cmp.Diff(methods, covered); diff != "" {
			t.Errorf("methods, and those that the document has and the rows call:\n%s", diff)
		}
	})
}
