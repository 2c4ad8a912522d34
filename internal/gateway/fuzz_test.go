package gateway

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
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
