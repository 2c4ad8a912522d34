package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// Token is what the upstream says of a token, but for its secret.
type Token struct {
	ID          string
	TeamID      string // empty where the document names no team
	Description *string
	CreatedAt   time.Time // zero where the document has none, here and below
	LastUsedAt  time.Time
	ExpiredAt   time.Time
	CreatedBy   Creator
	Seen        time.Time // by the upstream's clock, when it was read, to the second; zero if that did not say
}

// Creator is who made a token, of `users`, `teams` or `organizations`. It is zero where
// the document does not say.
type Creator = jsonapi.Identifier

// Page is a part of a list.
type Page struct {
	Tokens []Token
	Next   int       // the next page's number, or 0
	Total  int       // tokens on all pages
	Seen   time.Time // as of a Token
}

// resource is a token, as it is read: with what is used of it, so that the rest may be
// whatever it likes.
type resource struct {
	ID         string `json:"id"`
	Attributes struct {
		CreatedAt   timestamp   `json:"created-at"`
		LastUsedAt  timestamp   `json:"last-used-at"`
		ExpiredAt   timestamp   `json:"expired-at"`
		Description *string     `json:"description"`
		Token       secret.Text `json:"token"`
	} `json:"attributes"`
	Relationships jsonapi.Relationships `json:"relationships"`
}

// timestamp is an RFC 3339 time. Null, the year 1 and anything that is no time
// are zero: a new token is not thrown away for an odd date.
type timestamp struct{ time.Time }

func (t *timestamp) UnmarshalJSON(b []byte) error {
	t.Time = time.Time{}
	if len(b) < 2 || b[0] != '"' {
		return nil
	}
	at, err := time.Parse(time.RFC3339, string(b[1:len(b)-1]))
	if err == nil && at.Year() > 1 && at.Year() <= 9999 {
		t.Time = at.UTC()
	}
	return nil
}

// These say nothing of the document, which may hold a secret.
var (
	errNotDocument = errors.New("not a token document")
	errNoID        = errors.New("token document without a usable id")
	errNoSecret    = errors.New("token document without a usable secret")
	errOtherTeam   = errors.New("token document of another team")
	errTooLong     = errors.New("document longer than any of this API")
	errCoding      = errors.New("document in a content coding that is not supported")
)

// token is the resource without its secret.
func (r *resource) token() (Token, error) {
	if _, err := ParseTokenID(r.ID); err != nil {
		return Token{}, errNoID
	}
	return Token{
		ID:          r.ID,
		TeamID:      r.Relationships.Team.Data.ID,
		Description: r.Attributes.Description,
		CreatedAt:   r.Attributes.CreatedAt.Time,
		LastUsedAt:  r.Attributes.LastUsedAt.Time,
		ExpiredAt:   r.Attributes.ExpiredAt.Time,
		CreatedBy:   r.Relationships.CreatedBy.Data,
	}, nil
}

// decode reads the JSON document that body begins with. What follows the document, a
// proxy's remark for example, makes its content no less true.
func decode(body []byte, into any) error {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) // a byte order mark
	if json.Unmarshal(body, into) == nil {                // as almost always: a Decoder copies it first
		return nil
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(into)
}

// decodeToken reads a token document. The secret is empty where it holds none.
func decodeToken(body []byte) (Token, secret.Text, error) {
	var doc jsonapi.Document[resource]
	if decode(body, &doc) != nil {
		return Token{}, secret.Text{}, errNotDocument
	}
	t, err := doc.Data.token()
	if err != nil {
		return Token{}, secret.Text{}, err
	}
	return t, doc.Data.Attributes.Token, nil
}

// decodeList reads a page of a list.
func decodeList(body []byte) (Page, error) {
	var doc struct {
		Data *[]resource `json:"data"`
		Meta struct {
			Pagination struct {
				NextPage   *int `json:"next-page"`
				TotalCount int  `json:"total-count"`
			} `json:"pagination"`
		} `json:"meta"`
	}
	if decode(body, &doc) != nil || doc.Data == nil {
		return Page{}, errNotDocument
	}
	page := Page{Total: doc.Meta.Pagination.TotalCount, Tokens: make([]Token, len(*doc.Data))}
	if next := doc.Meta.Pagination.NextPage; next != nil {
		page.Next = *next
	}
	for i := range *doc.Data {
		var err error
		if page.Tokens[i], err = (*doc.Data)[i].token(); err != nil {
			return Page{}, err
		}
	}
	return page, nil
}

// decodeOrganizations reads the names of a list of organizations. One that cannot
// be a name is left out.
func decodeOrganizations(body []byte) ([]Organization, error) {
	var doc struct {
		Data *[]struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if decode(body, &doc) != nil || doc.Data == nil {
		return nil, errNotDocument
	}
	var organizations []Organization
	for _, d := range *doc.Data {
		if o, err := ParseOrganization(d.ID); err == nil {
			organizations = append(organizations, o)
		}
	}
	return organizations, nil
}

// descriptionTaken reports whether an error document says so. The status alone
// does not: every failed validation is a 422.
func descriptionTaken(body []byte) bool {
	var doc struct {
		Errors []struct {
			Detail string `json:"detail"`
		} `json:"errors"`
	}
	if decode(body, &doc) != nil {
		return false
	}
	for _, e := range doc.Errors {
		if strings.Contains(e.Detail, "Description has already been taken") {
			return true
		}
	}
	return false
}

// decodeNewToken reads a token document that must hold a secret which can stand
// in a header.
func decodeNewToken(body []byte) (Token, secret.Text, error) {
	t, s, err := decodeToken(body)
	if err != nil {
		return Token{}, secret.Text{}, err
	}
	if !secret.IsWord(s.Reveal()) || len(s.Reveal()) > maxSecretLength {
		return Token{}, secret.Text{}, errNoSecret
	}
	return t, s, nil
}

const maxSecretLength = 4096

// encodeRequest is the body that asks for a token: the vendor's clients send the
// same, and some servers refuse an empty one. A nil description asks for the
// team's token without one.
func encodeRequest(description *string, expiredAt time.Time) []byte {
	if description == nil && expiredAt.IsZero() { // as almost always
		return []byte(`{"data":{"type":"` + jsonapi.Tokens + `"}}`)
	}
	type attributes struct {
		Description *string `json:"description,omitempty"`
		ExpiredAt   *string `json:"expired-at,omitempty"`
	}
	var doc struct {
		Data struct {
			Type       string     `json:"type"`
			Attributes attributes `json:"attributes,omitzero"`
		} `json:"data"`
	}
	doc.Data.Type = jsonapi.Tokens
	doc.Data.Attributes.Description = description
	if !expiredAt.IsZero() {
		doc.Data.Attributes.ExpiredAt = jsonapi.Date(expiredAt.Truncate(time.Millisecond))
	}
	b, _ := json.Marshal(doc) // strings alone
	return b
}
