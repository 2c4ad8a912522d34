package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	strictjson "github.com/go-jose/go-jose/v4/json"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// marshaler writes the answers, and reads the requests, as JSON:API documents.
type marshaler struct{}

var _ runtime.Marshaler = marshaler{}

func (marshaler) ContentType(any) string { return jsonapi.MediaType }

func (marshaler) Marshal(v any) ([]byte, error) {
	switch m := v.(type) {
	case newTokenResponse:
		return encode(jsonapi.Document[resource]{Data: toResource(m.GetTeamToken(), new(m.GetSecret()))})
	case interface{ GetTeamToken() *teamtokenv1.TeamToken }:
		return encode(jsonapi.Document[resource]{Data: toResource(m.GetTeamToken(), nil)})
	case jsonapi.List:
		return encode(m)
	case *teamtokenv1.DeleteTokenResponse, *teamtokenv1.DeleteTokenByIDResponse:
		return nil, nil
	default:
		return nil, fmt.Errorf("no document for %T", v)
	}
}

// newTokenResponse is an answer that shows a new token's secret.
type newTokenResponse interface {
	GetTeamToken() *teamtokenv1.TeamToken
	GetSecret() string
}

func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}

// NewDecoder reads nothing: what is wrong with a body has to go through the
// interceptors, and grpc-gateway would answer it by itself. See complete.
func (marshaler) NewDecoder(io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(any) error { return nil })
}

// Unmarshal reads what a request may hold. No body at all is a request for a
// token with nothing said about it, as in the vendor's sample.
func (marshaler) Unmarshal(b []byte, v any) error {
	var a attributes
	if len(bytes.TrimSpace(b)) > 0 {
		var err error
		if a, err = decodeAttributes(b); err != nil {
			return err
		}
	}
	switch m := v.(type) {
	case *teamtokenv1.GenerateTokenRequest:
		if a.description != nil {
			return errors.New("data.attributes.description: a token with a description is made at authentication-tokens")
		}
		m.ExpiredAt = a.expiredAt
	case *teamtokenv1.CreateNamedTokenRequest:
		m.Description, m.ExpiredAt = a.description, a.expiredAt
	default:
		return fmt.Errorf("no document for %T", v)
	}
	return nil
}

// attributes are those that a request may set.
type attributes struct {
	description *string
	expiredAt   *timestamppb.Timestamp
}

var errNotDocument = errors.New("the body is not a JSON:API document with a data object")

// decodeAttributes reads a request document. What it does not know in it is an
// error, and so is a member that stands twice: an expiry that is misspelt, or
// stands in the wrong place, would make a token that lives for years. Its errors
// name members, and quote nothing.
func decodeAttributes(b []byte) (attributes, error) {
	top, err := members(b, "the body", "data", "jsonapi", "meta", "links", "included")
	if err != nil {
		return attributes{}, err
	}
	if top["data"] == nil {
		return attributes{}, errNotDocument
	}
	data, err := members(top["data"], "data", "type", "id", "attributes", "relationships", "links", "meta")
	if err != nil {
		return attributes{}, err
	}
	var kind *string
	if value := data["type"]; value != nil && json.Unmarshal(value, &kind) != nil ||
		kind != nil && *kind != "" && *kind != jsonapi.Tokens && *kind != jsonapi.LegacyToken {
		return attributes{}, errors.New("data.type: must be authentication-tokens")
	}
	var a attributes
	if value := data["attributes"]; value == nil || string(value) == "null" {
		return a, nil
	}
	set, err := members(data["attributes"], "data.attributes",
		"description", "expired-at", "created-at", "last-used-at", "token")
	if err != nil {
		return attributes{}, err
	}
	for name, value := range set {
		if string(value) == "null" {
			continue
		}
		switch name {
		case "description":
			if json.Unmarshal(value, &a.description) != nil {
				return attributes{}, errors.New("data.attributes.description: must be a string or null")
			}
		case "expired-at":
			var at time.Time
			if json.Unmarshal(value, &at) != nil {
				return attributes{}, errors.New("data.attributes.expired-at: must be an RFC 3339 time or null")
			}
			a.expiredAt = timestamppb.New(at)
		default: // the upstream's to say
			return attributes{}, errors.New("data.attributes: only description and expired-at can be set")
		}
	}
	return a, nil
}

// members takes a JSON object apart. A name that is none of known, to the
// letter, is an error, and so is one that stands twice.
func members(b []byte, what string, known ...string) (map[string]json.RawMessage, error) {
	notObject := fmt.Errorf("%s: must be a JSON object", what)
	if what == "the body" {
		notObject = errNotDocument
	}
	var found map[string]json.RawMessage
	if json.Unmarshal(b, &found) != nil || found == nil {
		return nil, notObject
	}
	for name := range found {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: may hold %s only", what, strings.Join(known, ", "))
		}
	}
	if strictjson.Unmarshal(b, &found) != nil { // which is all that it minds besides
		return nil, fmt.Errorf("%s: a member stands twice", what)
	}
	return found, nil
}

type resource = jsonapi.Resource[jsonapi.Token]

var creatorTypes = map[teamtokenv1.Creator_Kind]string{
	teamtokenv1.Creator_KIND_USER:         jsonapi.Users,
	teamtokenv1.Creator_KIND_TEAM:         jsonapi.Teams,
	teamtokenv1.Creator_KIND_ORGANIZATION: jsonapi.Organizations,
}

// toResource writes t as the upstream wrote it. The upstream's documents come in
// two ages: today's name the team and have an `expired-at`, null for a token
// that never expires; those of the vendor's sample have neither.
func toResource(t *teamtokenv1.TeamToken, secret *string) resource {
	r := resource{ID: t.GetId(), Type: jsonapi.Tokens, Attributes: jsonapi.Token{
		CreatedAt: date(t.GetCreatedAt()), LastUsedAt: date(t.GetLastUsedAt()), Description: t.Description, Token: secret,
	}}
	if team := t.GetTeamId(); team != "" {
		r.Relationships.Team = relation(team, jsonapi.Teams)
	}
	if t.GetTeamId() != "" || t.GetExpiredAt() != nil {
		r.Attributes.ExpiredAt = date(t.GetExpiredAt())
	}
	if by := t.GetCreatedBy(); by.GetKind() != teamtokenv1.Creator_KIND_UNSPECIFIED {
		r.Relationships.CreatedBy = relation(by.GetId(), creatorTypes[by.GetKind()])
	}
	return r
}

func relation(id, kind string) jsonapi.Relation {
	return jsonapi.Relation{Data: jsonapi.Identifier{ID: id, Type: kind}}
}

func date(t *timestamppb.Timestamp) *string {
	if t == nil {
		return nil
	}
	return jsonapi.Date(t.AsTime())
}

// encode is json.Marshal without the escapes that are for HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
