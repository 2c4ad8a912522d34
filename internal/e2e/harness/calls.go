package harness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	h2 "golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// Callers by the URI of their certificate. The victim may do everything, and is whom others
// would like to be.
const (
	Victim       = "spiffe://teamtoken.test/ns/ci/sa/victim"
	NoisyCaller  = "spiffe://teamtoken.test/noisy"
	HonestCaller = "spiffe://teamtoken.test/honest"
)

// Asking is a request for the token of the seed's team, by its idempotency key.
func Asking(requestID string) *teamtokenv1.GenerateTokenRequest {
	return &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam, RequestId: requestID}
}

// from is a dialer whose connections come from an address of loopback.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
}

// Answered is what became of one call, on either surface.
type Answered struct {
	Code    string // of gRPC, or the HTTP status
	Reason  string
	Outcome string
	Lines   []audit.Record      // of the audit
	Sent    []simulator.Request // to the upstream
}

// Client makes calls on both surfaces, from one place with one identity.
type Client struct {
	f       *Server
	sim     *simulator.Simulator
	conn    *grpc.ClientConn
	HTTP    *http.Client
	REST    string
	Headers http.Header // of every call, on both surfaces
}

// As is a client that connects with this TLS, nil for the clear, from this address.
func (f *Server) As(t *testing.T, sim *simulator.Simulator, config *tls.Config, address string, headers ...string) *Client {
	t.Helper()
	c := &Client{f: f, sim: sim, REST: f.REST, Headers: http.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		c.Headers.Add(headers[i], headers[i+1])
	}
	dial := from(address).DialContext
	c.conn = f.DialAs(t, config, grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
		return dial(ctx, "tcp", target)
	}))
	c.HTTP = f.NewHTTPClient(t, config)
	c.HTTP.Transport.(*RecordingTransport).RoundTripper.(*http.Transport).DialContext = dial
	return c
}

// Call makes a call of an RPC on a surface, with the fields of its message.
func (c *Client) Call(t *testing.T, surface string, method protoreflect.MethodDescriptor, fields map[string]any) Answered {
	t.Helper()
	if surface == "rest" {
		verb, path, body := RESTRequest(string(method.Name()), fields)
		return c.Request(t, verb, "/api/v2"+path, body)
	}
	id, before := requestid.New(), len(c.sim.Requests())
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal(Must(json.Marshal(fields)), in); err != nil {
		t.Fatal(err)
	}
	md := metadata.Pairs(requestid.Header, id)
	for name, values := range c.Headers {
		md.Append(name, values...)
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), Patience)
	defer cancel()
	err := c.conn.Invoke(ctx, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()), in, out)
	d := apierror.FromStatus(status.Convert(err))
	return c.answer(t, id, before, Answered{Code: status.Code(err).String(), Reason: d.Reason, Outcome: d.Outcome})
}

// Request makes a REST request.
func (c *Client) Request(t *testing.T, method, path, body string) Answered {
	t.Helper()
	id, before := requestid.New(), len(c.sim.Requests())
	req, err := http.NewRequestWithContext(t.Context(), method, c.REST+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range c.Headers {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set(requestid.Header, id)
	if body != "" {
		req.Header.Set("Content-Type", "application/vnd.api+json")
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := Answered{Code: strconv.Itoa(resp.StatusCode)}
	if resp.StatusCode >= 400 {
		e := ErrorsOf(t, resp)
		a.Reason, a.Outcome = e.Code, e.Meta.Outcome
	} else if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return c.answer(t, id, before, a)
}

// answer completes a with what the upstream saw and the audit has.
func (c *Client) answer(t *testing.T, id string, before int, a Answered) Answered {
	t.Helper()
	a.Sent = c.sim.Requests()[before:]
	done := func(r audit.Record) bool { return r.Event == audit.EventOutcome || r.Event == audit.EventRefusal }
	Eventually(t, "the audit has the end of the call", func() bool {
		a.Lines = nil
		for _, r := range c.f.Audited() {
			if r.RequestID == id {
				a.Lines = append(a.Lines, r)
			}
		}
		return slices.ContainsFunc(a.Lines, done)
	})
	return a
}

// Events are those of the audit's lines, in order.
func (a Answered) Events() string {
	var names []string
	for _, r := range a.Lines {
		names = append(names, r.Event)
	}
	return strings.Join(names, " ")
}

// Last is the last line of the audit.
func (a Answered) Last() audit.Record { return a.Lines[len(a.Lines)-1] }

// As brings a credential to the calls made with ctx.
func As(ctx context.Context, credential secret.Text) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential.Reveal())
}

// RESTRequest is how a call is made over REST.
func RESTRequest(rpc string, m map[string]any) (method, path, body string) {
	team := "/teams/" + url.PathEscape(fmt.Sprint(m["team_id"])) + "/authentication-token"
	token := "/authentication-tokens/" + url.PathEscape(fmt.Sprint(m["token_id"]))
	attributes, query := map[string]any{}, url.Values{}
	for field, name := range map[string]string{"expired_at": "expired-at", "description": "description"} {
		if v, ok := m[field]; ok {
			attributes[name] = v
		}
	}
	for field, name := range map[string]string{
		"expected_token_id": "expected_token_id", "allow_missing": "allow_missing", "query": "q", "sort": "sort",
		"page_size": "page[size]", "page_token": "page[number]",
	} {
		if v, ok := m[field]; ok {
			query.Set(name, fmt.Sprint(v))
		}
	}
	if statuses, ok := m["expiry_status"].([]any); ok {
		query.Set("filter[expiry_status]", strings.Trim(strings.ReplaceAll(fmt.Sprint(statuses), " ", ","), "[]"))
	}
	if len(attributes) > 0 {
		body = string(Must(json.Marshal(map[string]any{"data": map[string]any{
			"type": "authentication-tokens", "attributes": attributes,
		}})))
	}
	if len(query) > 0 {
		team, token = team+"?"+query.Encode(), token+"?"+query.Encode()
	}
	switch rpc {
	case "GenerateToken":
		return http.MethodPost, team, body
	case "DeleteToken":
		return http.MethodDelete, team, ""
	case "CreateNamedToken":
		return http.MethodPost, team + "s", body
	case "GetTokenByID":
		return http.MethodGet, token, ""
	case "DeleteTokenByID":
		return http.MethodDelete, token, ""
	case "ListTokens":
		return http.MethodGet, "/organizations/" + url.PathEscape(fmt.Sprint(m["organization"])) + "/team-tokens?" + query.Encode(), ""
	default:
		return http.MethodGet, team, ""
	}
}

// ErrorObject is the first error object of a JSON:API error document.
type ErrorObject struct {
	Status, Code, Title, Detail string
	Source                      struct{ Pointer, Parameter, Header string }
	Meta                        struct {
		RequestID string `json:"request_id"`
		Outcome   string
	}
}

// ErrorsOf is the first error of an answer over REST, which must be a whole document of errors.
func ErrorsOf(t *testing.T, resp *http.Response) ErrorObject {
	t.Helper()
	var doc struct{ Errors []ErrorObject }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || len(doc.Errors) == 0 ||
		resp.Header.Get("Content-Type") != "application/vnd.api+json" {
		t.Fatalf("%s: not a JSON:API error document: %v", resp.Status, err)
	}
	return doc.Errors[0]
}

// HostPort is where the REST listener is, for a raw connection.
func (f *Server) HostPort() string {
	return strings.Replace(strings.TrimPrefix(strings.TrimPrefix(f.REST, "http://"), "https://"), "localhost", "127.0.0.1", 1)
}

// EventsOf are the lines of one call, and their events.
func EventsOf(f *Server, id string) (lines []audit.Record, events string) {
	a := Answered{}
	for _, r := range f.Audited() {
		if r.RequestID == id {
			a.Lines = append(a.Lines, r)
		}
	}
	return a.Lines, a.Events()
}

// Details are what an error over gRPC tells besides its code.
func Details(err error) apierror.Details { return apierror.FromStatus(status.Convert(err)) }

// Posts is how many POST requests the upstream got.
func Posts(sim *simulator.Simulator) int {
	n := 0
	for _, r := range sim.Requests() {
		if r.Method == http.MethodPost {
			n++
		}
	}
	return n
}

// Ends keeps the headers that come back on a stream, and reports whether it is over.
func Ends(fr h2.Frame, stream uint32, headers *[]string) bool {
	if fr.Header().StreamID != stream {
		return fr.Header().Type == h2.FrameGoAway
	}
	if meta, ok := fr.(*h2.MetaHeadersFrame); ok {
		for _, field := range meta.Fields {
			*headers = append(*headers, field.Name+": "+field.Value)
		}
		return meta.StreamEnded()
	}
	return fr.Header().Type == h2.FrameRSTStream
}
