package simulator

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	strictjson "github.com/go-jose/go-jose/v4/json"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// An answer, whole and not yet sent.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) send(w http.ResponseWriter) { a.sendUpTo(w, len(a.body)) }

// sendUpTo sends all headers, the length of the whole body included, and the
// body's first n bytes. If there are more, it cuts the client off and does not
// return.
func (a answer) sendUpTo(w http.ResponseWriter, n int) {
	h := w.Header()
	for key, values := range a.header {
		h[key] = values
	}
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	n = min(n, len(a.body))
	_, _ = w.Write(a.body[:n]) // fails if the client has left, which is its own affair
	if n < len(a.body) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// document answers with JSON.
func document(status int, content any) answer {
	body, err := json.Marshal(content)
	if err != nil {
		panic(err) // the package's own types
	}
	return answer{status, http.Header{"Content-Type": {jsonapi.MediaType}}, body}
}

// object describes a token, without its secret.
func (t *token) object() jsonapi.Resource[jsonapi.Token] {
	related := jsonapi.Relationships{CreatedBy: jsonapi.Relation{Data: t.createdBy}}
	if t.team != nil {
		related.Team.Data = party{ID: t.team.ID, Type: jsonapi.Teams}
	}
	return jsonapi.Resource[jsonapi.Token]{ID: t.id, Type: jsonapi.Tokens, Relationships: related, Attributes: jsonapi.Token{
		CreatedAt: date(&t.createdAt), LastUsedAt: date(t.lastUsedAt), ExpiredAt: date(t.expiredAt), Description: t.description,
	}}
}

func date(t *time.Time) *string {
	if t == nil {
		return nil
	}
	return jsonapi.Date(milliseconds(*t))
}

// show answers with a token's document. The secret is in it only if the token
// was made just now.
func show(status int, t *token) answer {
	o := t.object()
	if status == http.StatusCreated {
		o.Attributes.Token = new(t.secret.Reveal())
	}
	return about(status, o)
}

// about answers with a document about one thing.
func about(status int, data any) answer {
	return document(status, jsonapi.Document[any]{Data: data})
}

type failure struct {
	Status string `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
}

func fail(status int, title, detail string) answer {
	return document(status, map[string][]failure{"errors": {{strconv.Itoa(status), title, detail}}})
}

// refusal is how the vendor, or the load balancer in front of it, puts a status
// of which there is no more to say. One that is no error has no body.
func refusal(status int) answer {
	text := http.StatusText(status)
	switch {
	case status == http.StatusTooManyRequests: // verbatim: a number here, and only here
		body := `{"errors":[{"detail":"You have exceeded the API's rate limit.","status":429,"title":"Too many requests"}]}`
		return answer{status, http.Header{"Content-Type": {jsonapi.MediaType}}, []byte(body)}
	case status >= 500:
		heading := strconv.Itoa(status) + " " + text
		body := "<html><head><title>" + heading + "</title></head><body><h1>" + heading + "</h1></body></html>\n"
		return answer{status, http.Header{"Content-Type": {"text/html"}}, []byte(body)}
	case status >= 400:
		return fail(status, strings.ToLower(text), "")
	default:
		return answer{status: status, header: http.Header{}}
	}
}

// rejected is a request that upstream understands too little of, or refuses.
type rejected struct{ title, detail string }

func (r rejected) Error() string { return r.detail }

var errMalformed = rejected{"unprocessable entity", "The request body is not a document of an authentication token"}

func errInvalid(reason string) error {
	return rejected{"invalid attributes", "Validation failed: " + reason}
}

func reject(err error) answer {
	var r rejected
	errors.As(err, &r)
	return fail(http.StatusUnprocessableEntity, r.title, r.detail)
}

// wanted is what a request for a token asks for.
type wanted struct {
	description *string
	expiredAt   *time.Time
}

// parse reads the body of a request for a token. Members have to be spelled
// exactly, and stand once; those that it does not know it ignores.
func parse(body []byte) (asked wanted, err error) {
	var document struct {
		Data *struct {
			Type       string `json:"type"`
			Attributes struct {
				Description *string `json:"description"`
				ExpiredAt   *string `json:"expired-at"`
			} `json:"attributes"`
		} `json:"data"`
	}
	if strictjson.Unmarshal(body, &document) != nil || document.Data == nil {
		return wanted{}, errMalformed
	}
	asked.description = document.Data.Attributes.Description
	switch document.Data.Type {
	case "", jsonapi.LegacyToken, jsonapi.Tokens:
	default:
		return wanted{}, errMalformed
	}
	if expiredAt := document.Data.Attributes.ExpiredAt; expiredAt != nil {
		at, err := time.Parse(time.RFC3339, *expiredAt)
		if err != nil {
			return wanted{}, errInvalid("Expired at is not an ISO 8601 date and time")
		}
		asked.expiredAt = &at
	}
	return asked, nil
}
