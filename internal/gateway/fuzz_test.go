package gateway

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/caller"
)

// errorTexts are all that Unmarshal says. None of them holds a part of a body.
var errorTexts = map[string]bool{
	"the body is not a JSON:API document with a data object":                                   true,
	"data.type: must be authentication-tokens":                                                 true,
	"the body: may hold data, jsonapi, meta, links, included only":                             true,
	"the body: a member stands twice":                                                          true,
	"data: must be a JSON object":                                                              true,
	"data: may hold type, id, attributes, relationships, links, meta only":                     true,
	"data: a member stands twice":                                                              true,
	"data.attributes: must be a JSON object":                                                   true,
	"data.attributes: may hold description, expired-at, created-at, last-used-at, token only":  true,
	"data.attributes: a member stands twice":                                                   true,
	"data.attributes: only description and expired-at can be set":                              true,
	"data.attributes.description: must be a string or null":                                    true,
	"data.attributes.description: a token with a description is made at authentication-tokens": true,
	"data.attributes.expired-at: must be an RFC 3339 time or null":                             true,
}

// Whatever body comes is taken or refused. What is refused leaves the message as
// it was, and its error quotes nothing. What is taken sets the attributes alone,
// the expiry to a time that the body could name.
func FuzzRequestDocument(f *testing.F) {
	for _, s := range []string{
		// The vendor's sample, its clients, and its documentation.
		``, `{"data":{"type":""}}` + "\n", `{"data":{"type":"authentication-tokens"}}`,
		`{"data":{"type":"authentication-token","attributes":{"expired-at":"2026-04-06T12:00:00.000Z"}}}`,
		`{"data":{"type":"authentication-tokens","attributes":{"description":"ci","expired-at":null}}}`,
		// Their neighbours.
		`{"data":{"attributes":{"description":null,"expired-at":"2099-01-01T00:00:00+02:00"}}}`,
		`{"data":{"attributes":{"expired_at":"2099-01-01T00:00:00Z"}}}`, `{"data":{"attributes":{"expired-at":1}}}`,
		`{"data":{"attributes":{"description":{}}}}`, `{"data":{"type":"teams"}}`, `{"data":{"type":1}}`, `{"data":[]}`, `{"data":null}`,
		`{"data":{"attributes":{"expired-at":"0000-01-01T00:00:00Z"}}}`, `{"data":{"attributes":{"expired-at":"9999-12-31T23:59:59-23:59"}}}`,
		`{"data":{},"data":{"attributes":{}}}`, `{"data":{}}{}`, `null`, `[`, `"`, " \n", "\x00", "\xef\xbb\xbf{}", strings.Repeat("[", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		legacy := &teamtokenv1.GenerateTokenRequest{TeamId: "team-BUHBEM97xboT8TVz", RequestId: "r", ExpectedTokenId: "at-1"}
		named := &teamtokenv1.CreateNamedTokenRequest{TeamId: "team-BUHBEM97xboT8TVz", RequestId: "r"}
		read(t, body, legacy, func() *timestamppb.Timestamp { at := legacy.GetExpiredAt(); legacy.ExpiredAt = nil; return at })
		read(t, body, named, func() *timestamppb.Timestamp {
			at := named.GetExpiredAt()
			named.ExpiredAt, named.Description = nil, nil
			return at
		})
	})
}

// read has m read body. take takes back what a body may set, and returns the
// expiry of it.
func read(t *testing.T, body []byte, m proto.Message, take func() *timestamppb.Timestamp) {
	t.Helper()
	was := proto.CloneOf(m)
	if err := (marshaler{}).Unmarshal(body, m); err != nil {
		if !proto.Equal(m, was) {
			t.Errorf("a refused body set %v", m)
		}
		if !errorTexts[err.Error()] {
			t.Errorf("%q may quote the body", err)
		}
		return
	}
	at := take()
	if !proto.Equal(m, was) {
		t.Errorf("the body set more than it may: %v", m)
	}
	if at == nil {
		return
	}
	if !strings.Contains(string(body), `"`) {
		t.Errorf("a body that holds no string set the expiry %v", at)
	}
	// JSON's years are 0 to 9999 in any zone, a Timestamp's are 1 to 9999 in
	// UTC: what lies between, the service refuses under the field's name.
	year := at.AsTime().Year()
	if at.CheckValid() != nil && year >= 1 && year <= 9999 || year < -1 || year > 10000 {
		t.Errorf("the expiry is %v", at)
	}
}

// routes is the REST surface, said a second time: what may be called by a method
// and a path, and the id that the message then holds.
var routes = []struct {
	method string
	path   *regexp.Regexp
	rpc    string
	id     func(proto.Message) string
}{
	{"POST", team, "GenerateToken", func(m proto.Message) string { return m.(*teamtokenv1.GenerateTokenRequest).GetTeamId() }},
	{"DELETE", team, "DeleteToken", func(m proto.Message) string { return m.(*teamtokenv1.DeleteTokenRequest).GetTeamId() }},
	{"GET", team, "GetToken", func(m proto.Message) string { return m.(*teamtokenv1.GetTokenRequest).GetTeamId() }},
	{"POST", named, "CreateNamedToken", func(m proto.Message) string { return m.(*teamtokenv1.CreateNamedTokenRequest).GetTeamId() }},
	{"GET", token, "GetTokenByID", func(m proto.Message) string { return m.(*teamtokenv1.GetTokenByIDRequest).GetTokenId() }},
	{"DELETE", token, "DeleteTokenByID", func(m proto.Message) string { return m.(*teamtokenv1.DeleteTokenByIDRequest).GetTokenId() }},
	{"GET", organization, "ListTokens", func(m proto.Message) string { return m.(*teamtokenv1.ListTokensRequest).GetOrganization() }},
}

var (
	team         = regexp.MustCompile(`^/api/v2/teams/([^/]*)/authentication-token$`)
	named        = regexp.MustCompile(`^/api/v2/teams/([^/]*)/authentication-tokens$`)
	token        = regexp.MustCompile(`^/api/v2/authentication-tokens/([^/]*)$`)
	organization = regexp.MustCompile(`^/api/v2/organizations/([^/]*)/team-tokens$`)
)

// called is a connection that keeps what is asked of it, and answers nothing.
type called struct {
	rpc string
	req proto.Message
}

func (c *called) Invoke(ctx context.Context, method string, req, _ any, _ ...grpc.CallOption) error {
	if from, _ := caller.CredentialsFrom(ctx); from.Refused != nil { // the interceptors let none such through
		return from.Refused
	}
	c.rpc, c.req = method, req.(proto.Message)
	return (&apierror.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL}).GRPCStatus().Err()
}

func (c *called) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("there are no streams")
}

// Whatever is asked for, it reaches the RPC of its route, or none; and the id in
// the message is the segment of the path, letter by letter.
func FuzzPath(f *testing.F) {
	for _, target := range []string{
		"/api/v2/teams/team-BUHBEM97xboT8TVz/authentication-token", "/api/v2/teams/team-BUHBEM97xboT8TVz/authentication-tokens",
		"/api/v2/authentication-tokens/at-1", "/api/v2/organizations/acme/team-tokens?page[size]=2&q=a",
		"/api/v2/teams/../organizations/acme/authentication-token", "/api/v2/teams/%2e%2e/authentication-token",
		"/api/v2/teams/a%2Fb/authentication-token", "//api/v2/teams/a/authentication-token", "/api/v2/teams//authentication-token",
		"/api/v2/teams/a:b/authentication-token", "/api/v2/teams/a/authentication-token/", "/api/v2/teams/a;x=1/authentication-token",
		"*", "/api/v2/ping", "/.well-known/terraform.json", "http://other/api/v2/teams/a/authentication-token", "/api/v2/teams/.../authentication-token",
		"/api/v2/authentication-tokens/..", "/api/v2/teams/a/authentication-token?team_id=b&expected_token_id=c", "/teamtoken.v1.TeamTokenService/GenerateToken",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			f.Add(method, target)
		}
	}
	f.Add("PUT", "/api/v2/teams/a/authentication-token")
	conn := &called{}
	rest, err := New(conn, slog.New(slog.DiscardHandler), func(string, ...slog.Attr) {}, Origins{}, 32<<10)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		// As net/http's server reads it: what it would not read never comes here.
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil {
			return
		}
		*conn = called{}
		w := httptest.NewRecorder()
		rest.ServeHTTP(w, r)
		want, id := "", ""
		for _, route := range routes {
			if at := route.path.FindStringSubmatch(r.URL.EscapedPath()); at != nil && r.Method == route.method && !strings.Contains(at[1], "%") {
				want, id = "/teamtoken.v1.TeamTokenService/"+route.rpc, at[1]
				if conn.req != nil && route.id(conn.req) != id {
					t.Errorf("%s %q names %q", method, target, route.id(conn.req))
				}
			}
		}
		if conn.rpc != "" && conn.rpc != want {
			t.Errorf("%s %q reached %s, want %q", method, target, conn.rpc, want)
		}
		if w.Code < 400 && conn.rpc == "" && !strings.HasPrefix(r.URL.Path, "/api/v2/ping") && r.URL.Path != "/.well-known/terraform.json" {
			t.Errorf("%s %q is answered %d by nobody", method, target, w.Code)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q may be stored", method, target)
		}
	})
}
