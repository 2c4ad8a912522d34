package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// Options is what a Client needs. Address, Transport and Timeout must be set.
type Options struct {
	// Address is the scheme and host of the upstream, `https://app.terraform.io`.
	Address string
	// Transport gives the transport of the next request: it may change when the
	// trusted CAs do.
	Transport func() http.RoundTripper
	// Credential is the service's own. Nil means that each call brings its
	// caller's, see WithCredential.
	Credential Credential
	// Timeout bounds one request, from dialling to the last byte of the answer.
	Timeout time.Duration
	// UserAgent names this program and its version.
	UserAgent string
	// Observe, if set, is told of every request that ended, with its call's context.
	Observe func(context.Context, Attempt)
	// Pacer, if set, says when each request may be sent.
	Pacer Pacer
	// Tracer, if set, makes a span of each request, which the upstream is told of.
	Tracer trace.Tracer
}

// Pacer keeps requests within what the upstream takes.
type Pacer interface {
	// Permit waits until a request may be sent. Its error says that this does not fit
	// into ctx: a Throttled, an Exhausted, or a RateLimited.
	Permit(ctx context.Context, mutates bool) *Error
	// Learn is told how many requests in a second the upstream takes with the
	// credential of ctx. Only a good answer says so: any other may be about somebody
	// whom the upstream does not know, or not the upstream's own at all.
	Learn(ctx context.Context, perSecond float64)
	// Pause is told for how long the upstream takes none.
	Pause(ctx context.Context, d time.Duration)
}

// unpaced sends every request at once.
type unpaced struct{}

func (unpaced) Permit(context.Context, bool) *Error  { return nil }
func (unpaced) Learn(context.Context, float64)       {}
func (unpaced) Pause(context.Context, time.Duration) {}

// Credential is a bearer secret that may be rotated while it is in use.
type Credential interface {
	// Get returns the present secret. It is called for each request.
	Get() secret.Text
	// Refresh looks now whether there is a new one, and reports it. It is called
	// when the upstream does not accept the present one.
	Refresh() bool
}

// Attempt is one request to the upstream, when it has ended.
type Attempt struct {
	Method    string
	Template  string        // its path, with the ids' names in their place
	Status    int           // 0 where there was no answer
	Failure   string        // the name of a Kind; empty if it went well
	RequestID string        // the upstream's id of it, if it gave a well-formed one
	Duration  time.Duration // from before the connection to after the answer
}

// Client calls one upstream. It is safe for concurrent use.
type Client struct {
	options Options
	base    url.URL
	circuit *gobreaker.TwoStepCircuitBreaker[answer]
}

// New returns a Client, or an error that says what is wrong with the address.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Address)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return nil, fmt.Errorf("upstream address %q is not of the form https://HOST", o.Address)
	}
	if o.Observe == nil {
		o.Observe = func(context.Context, Attempt) {}
	}
	if o.Pacer == nil {
		o.Pacer = unpaced{}
	}
	return &Client{options: o, base: url.URL{Scheme: base.Scheme, Host: base.Host}, circuit: newCircuit()}, nil
}

// CircuitOpen reports whether the upstream is not asked at present, since it could
// not be reached several times in a row.
func (c *Client) CircuitOpen() bool { return c.circuit.State() == gobreaker.StateOpen }

// Life is for how long changes may be made that go on without their caller.
type Life interface {
	// Done is closed when it is over; nil if it never is.
	Done() <-chan struct{}
	// Err says whether it is over by now: a process that stood still has not closed
	// Done yet when it goes on.
	Err() error
}

type lifeKey struct{}

// WithLife returns a context whose changes go on when it ends, as all do, but not
// beyond life.
func WithLife(ctx context.Context, life Life) context.Context {
	return context.WithValue(ctx, lifeKey{}, life)
}

type withoutWaitKey struct{}

// WithoutWait returns a context whose calls do not wait after a 429: it is their
// error, with the time to wait.
func WithoutWait(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutWaitKey{}, true)
}

type credentialKey struct{}

// WithCredential returns a context whose calls use a caller's own credential,
// and never the service's.
func WithCredential(ctx context.Context, s secret.Text) context.Context {
	return context.WithValue(ctx, credentialKey{}, s)
}

// CredentialFrom returns the caller's own credential, if the call brought one.
func CredentialFrom(ctx context.Context) (secret.Text, bool) {
	s, ok := ctx.Value(credentialKey{}).(secret.Text)
	return s, ok
}

// Fingerprint names a credential without revealing it: by 128 bits of its hash, so
// that nobody can make two credentials with one name.
func Fingerprint(credential secret.Text) string {
	sum := sha256.Sum256([]byte(credential.Reveal()))
	return hex.EncodeToString(sum[:16])
}

// CreateToken makes the team's token, which revokes the one before, and returns
// the only copy of its secret. A zero expiredAt leaves the expiry to the upstream.
func (c *Client) CreateToken(ctx context.Context, team TeamID, expiredAt time.Time) (Token, secret.Text, error) {
	return c.create(ctx, team, request{template: teamTemplate, path: teamPath(team), body: encodeRequest(nil, expiredAt)})
}

// CreateNamedToken makes one more token of the team and returns the only copy of
// its secret. A description that is taken is a DescriptionTaken.
func (c *Client) CreateNamedToken(
	ctx context.Context, team TeamID, description string, expiredAt time.Time,
) (Token, secret.Text, error) {
	return c.create(ctx, team, request{
		template: teamTemplate + "s", path: teamPath(team) + "s", body: encodeRequest(&description, expiredAt), optional: true,
	})
}

func (c *Client) create(ctx context.Context, team TeamID, r request) (Token, secret.Text, error) {
	r.method, r.mutates = http.MethodPost, true
	answer, err := c.call(ctx, r)
	if err != nil {
		return Token{}, secret.Text{}, err
	}
	token, text, err := decodeNewToken(answer.body)
	switch {
	case err == nil: // a document with an end is whole, whatever came after it
	case answer.status == http.StatusAccepted: // it may still be carried out, or not
		return Token{}, secret.Text{}, &Error{Kind: Lost, Status: answer.status, RequestID: answer.requestID, Cause: err}
	case answer.cut != nil:
		return Token{}, secret.Text{}, answer.invalid(answer.cut)
	default:
		return Token{}, secret.Text{}, answer.invalid(err)
	}
	if token.TeamID != "" && token.TeamID != team.id {
		// An answer to another request: what became of this one is not known, and
		// that secret is not for this caller.
		c.closeIdle()
		return Token{}, secret.Text{}, &Error{Kind: Lost, Status: answer.status, RequestID: answer.requestID, Cause: errOtherTeam}
	}
	return token, text, nil
}

// closeIdle gives up connections on which answers may be out of step.
func (c *Client) closeIdle() {
	if t, ok := c.options.Transport().(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// ReadToken describes the team's token.
func (c *Client) ReadToken(ctx context.Context, team TeamID) (Token, error) {
	return c.read(ctx, request{template: teamTemplate, path: teamPath(team)})
}

// ReadTokenByID describes any token: its TeamID is empty if it is not a team's.
func (c *Client) ReadTokenByID(ctx context.Context, id TokenID) (Token, error) {
	return c.read(ctx, request{template: tokenTemplate, path: tokenPath(id), optional: true})
}

func (c *Client) read(ctx context.Context, r request) (Token, error) {
	r.method = http.MethodGet
	answer, err := c.call(ctx, r)
	if err != nil {
		return Token{}, err
	}
	token, _, err := decodeToken(answer.body)
	if err != nil {
		return Token{}, answer.invalid(err)
	}
	token.Seen = answer.date
	return token, nil
}

// DeleteToken revokes the team's token.
func (c *Client) DeleteToken(ctx context.Context, team TeamID) error {
	_, err := c.call(ctx, request{template: teamTemplate, method: http.MethodDelete, path: teamPath(team), mutates: true})
	return err
}

// DeleteTokenByID revokes any token, be it a team's or not.
func (c *Client) DeleteTokenByID(ctx context.Context, id TokenID) error {
	_, err := c.call(ctx, request{
		template: tokenTemplate, method: http.MethodDelete, path: tokenPath(id), mutates: true, optional: true,
	})
	return err
}

// List says which page of which team tokens to list.
type List struct {
	Query        string   // in the team's name
	Sort         string   // empty for the upstream's order
	ExpiryStatus []string // any of these; none for all
	Page, Size   int      // from 1; 1 to 100
}

// ListTokens describes a page of the tokens of an organization's teams.
func (c *Client) ListTokens(ctx context.Context, organization Organization, l List) (Page, error) {
	query := url.Values{"page[number]": {strconv.Itoa(l.Page)}, "page[size]": {strconv.Itoa(l.Size)}}
	if l.Query != "" {
		query.Set("q", l.Query)
	}
	if l.Sort != "" {
		query.Set("sort", l.Sort)
	}
	if len(l.ExpiryStatus) > 0 {
		query.Set("filter[expiry_status]", strings.Join(l.ExpiryStatus, ","))
	}
	answer, err := c.call(ctx, request{
		template: "/api/v2/organizations/{organization}/team-tokens", method: http.MethodGet,
		path: "/api/v2/organizations/" + organization.name + "/team-tokens", query: query.Encode(), optional: true, limit: maxListBody,
	})
	if err != nil {
		return Page{}, err
	}
	page, err := decodeList(answer.body)
	if err != nil {
		return Page{}, answer.invalid(err)
	}
	page.Seen = answer.date
	return page, nil
}

// ListOrganizations are the organizations that the credential can see, the first
// hundred of them: who has more names them.
func (c *Client) ListOrganizations(ctx context.Context) ([]Organization, error) {
	answer, err := c.call(ctx, request{
		template: organizationsPath, method: http.MethodGet, path: organizationsPath, query: "page%5Bsize%5D=100",
		optional: true, limit: maxListBody,
	})
	if err != nil {
		return nil, err
	}
	organizations, err := decodeOrganizations(answer.body)
	if err != nil {
		return nil, answer.invalid(err)
	}
	return organizations, nil
}

// Ping asks for nothing, which shows how many requests the upstream takes.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, request{template: pingPath, method: http.MethodGet, path: pingPath})
	return err
}

// The paths, as metrics and traces have them: with the names of the ids.
const (
	teamTemplate      = "/api/v2/teams/{team_id}/authentication-token"
	tokenTemplate     = "/api/v2/authentication-tokens/{token_id}" //nolint:gosec // is no token
	organizationsPath = "/api/v2/organizations"
	pingPath          = "/api/v2/ping"
)

func teamPath(team TeamID) string { return "/api/v2/teams/" + team.id + "/authentication-token" }
func tokenPath(id TokenID) string { return "/api/v2/authentication-tokens/" + id.id }

// request is one call, before it is sent any number of times.
type request struct {
	method, template, path, query string
	body                          []byte
	mutates                       bool
	optional                      bool  // not every upstream has the endpoint
	limit                         int64 // bytes of the answer; 0 for a token's
}

// answer is a 2xx.
type answer struct {
	status    int
	requestID string
	date      time.Time // by the upstream's clock, to the second; zero if it did not say
	body      []byte
	cut       error // why body may not be all that was sent; of a new token alone
}

func (a answer) invalid(cause error) *Error {
	return &Error{Kind: ResponseInvalid, Status: a.status, RequestID: a.requestID, Cause: cause}
}

// A read that failed on the way is sent at most this often, with these pauses.
const (
	readAttempts = 4
	readPause    = 50 * time.Millisecond // doubled each time
)

// ratePause is the least wait after a 429, doubled each time up to 3.2 s: a reset
// of 0 that comes again and again would have one call send hundreds a second.
const ratePause = 50 * time.Millisecond

// call sends r until it is answered or may not be sent again.
func (c *Client) call(ctx context.Context, r request) (answer, error) {
	refreshed := false
	for sent := 1; ; sent++ {
		used := c.credential(ctx)
		a, err := c.attempt(ctx, r, used, sent)
		if err == nil {
			return a, nil
		}
		switch {
		case err.Kind == RateLimited:
			if err.Status == 0 { // the pacer's
				return a, err
			}
			err.Wait = max(err.Wait, ratePause<<min(sent-1, 6))
			c.options.Pacer.Pause(ctx, err.Wait)
			if ctx.Value(withoutWaitKey{}) != nil || !pause(ctx, err.Wait+jitter(err.Wait)) {
				return a, err
			}
		case err.Kind == Unauthorized && !refreshed && c.rotated(ctx, used):
			refreshed = true
		case !r.mutates && (err.Kind == Lost || err.Kind == Unreachable):
			if errors.Is(err.Cause, errOpen) || sent >= readAttempts || !pause(ctx, readPause<<(sent-1)) {
				err.Kind = Unreachable
				return a, err
			}
		default:
			return a, err
		}
	}
}

// credential is what the next request goes out with: the caller's own, or the
// service's.
func (c *Client) credential(ctx context.Context) secret.Text {
	s, callers := CredentialFrom(ctx)
	if !callers && c.options.Credential != nil {
		s = c.options.Credential.Get()
	}
	return s
}

// rotated looks whether the service's own credential is another by now than the
// one used. What Refresh reports will not do: of all the calls that were under
// way, it is news to the first alone.
func (c *Client) rotated(ctx context.Context, used secret.Text) bool {
	if _, callers := CredentialFrom(ctx); callers || c.options.Credential == nil {
		return false
	}
	c.options.Credential.Refresh()
	return !c.options.Credential.Get().Equal(used)
}

// pause waits, and reports false at once if the wait does not fit into ctx.
func pause(ctx context.Context, wait time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter keeps all who wait for one reset from coming back in one moment.
func jitter(wait time.Duration) time.Duration {
	return rand.N(wait/10 + time.Millisecond) //nolint:gosec // no secret depends on it
}

// attempt sends r once, when it may be, for the n-th time.
func (c *Client) attempt(ctx context.Context, r request, credential secret.Text, n int) (answer, *Error) {
	if c.CircuitOpen() {
		return answer{}, &Error{Kind: Unreachable, Cause: errOpen}
	}
	if err := c.options.Pacer.Permit(ctx, r.mutates); err != nil {
		return answer{}, err
	}
	tell, open := c.circuit.Allow()
	if open != nil {
		return answer{}, &Error{Kind: Unreachable, Cause: errOpen}
	}
	news := errPanic
	defer func() { tell(news) }() // also of a panic: a half-open circuit would wait for this result for ever
	ctx, span := c.span(ctx, r, n)
	start := time.Now()
	a, err := c.exchange(ctx, r, credential)
	switch {
	case err == nil, err.Kind != Unreachable:
		news = nil
	case ctx.Err() != nil: // it was the caller who did not wait
		news = errNoNews
	default:
		news = err
	}
	ended := Attempt{Method: r.method, Template: r.template, Status: a.status, RequestID: a.requestID, Duration: time.Since(start)}
	if err != nil {
		ended.Failure, ended.Status, ended.RequestID = err.Kind.String(), err.Status, err.RequestID
	}
	c.options.Observe(ctx, ended)
	endSpan(span, ended)
	return a, err
}

func (c *Client) exchange(ctx context.Context, r request, credential secret.Text) (answer, *Error) {
	if err := ctx.Err(); err != nil {
		return answer{}, &Error{Kind: Unreachable, Cause: err}
	}
	progress := &progress{}
	parent := ctx
	if r.mutates {
		parent = context.WithoutCancel(ctx)
	}
	attempt, cancel := context.WithTimeout(parent, c.options.Timeout)
	defer cancel()
	if r.mutates { // the caller may leave while there is no connection, and not after that
		defer context.AfterFunc(ctx, func() {
			if !progress.connected.Load() {
				cancel()
			}
		})()
	}

	req := c.httpRequest(progress.trace(attempt), r, credential)
	if life, ok := ctx.Value(lifeKey{}).(Life); ok && r.mutates {
		defer closing(life.Done(), cancel)()
		if err := life.Err(); err != nil { // at the last moment that there is
			return answer{}, &Error{Kind: Unreachable, Cause: err}
		}
	}
	resp, err := c.options.Transport().RoundTrip(req)
	if err != nil {
		return answer{}, progress.failure(attempt, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The transport has let go of this connection: no deadline would end a read.
		return answer{}, &Error{Kind: Lost, Status: resp.StatusCode}
	}
	body, err := readBody(resp, cmp.Or(r.limit, maxBody))
	e := &Error{Status: resp.StatusCode, Cause: harmless(err)}
	if id := resp.Header.Get(requestid.Header); requestid.Valid(id) {
		e.RequestID = id
	}
	ok := resp.StatusCode >= 200 && resp.StatusCode < 300
	if limit, err := strconv.ParseFloat(resp.Header.Get("X-RateLimit-Limit"), 64); ok && err == nil {
		c.options.Pacer.Learn(ctx, limit)
	}
	switch {
	case !ok:
		e.Kind = kindOf(resp.StatusCode)
		switch {
		case e.Kind == RateLimited:
			e.Wait = waitOf(resp.Header, time.Now())
		case e.Kind == Rejected && descriptionTaken(body):
			e.Kind = DescriptionTaken
		case r.optional && unrouted(resp):
			e.Kind = Unavailable
		}
		return answer{}, e
	case r.method == http.MethodDelete: // of which the status says all
		if resp.StatusCode == http.StatusAccepted { // it may still be carried out, or not
			e.Kind = Lost
			return answer{}, e
		}
	case err != nil && !r.mutates:
		e.Kind = Lost
		if errors.Is(err, errTooLong) || errors.Is(err, errCoding) {
			e.Kind = ResponseInvalid
		}
		return answer{}, e
	}
	a := answer{status: e.Status, requestID: e.RequestID, body: body, cut: e.Cause}
	if !r.mutates {
		a.date, _ = http.ParseTime(resp.Header.Get("Date")) // else zero
	}
	return a, nil
}

// closing has then called when done is closed, until stop is called.
func closing(done <-chan struct{}, then func()) (stop func()) {
	stopped := make(chan struct{})
	go func() {
		select {
		case <-done:
			then()
		case <-stopped:
		}
	}()
	return func() { close(stopped) }
}

// unrouted reports whether an answer is a router's own, which knows no such
// path: where the API itself says 404, it says so in its own media type.
func unrouted(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return true
	case http.StatusNotFound:
		return !strings.Contains(strings.ToLower(resp.Header.Get("Content-Type")), "json")
	default:
		return false
	}
}

func (c *Client) httpRequest(ctx context.Context, r request, credential secret.Text) *http.Request {
	u := c.base
	u.Path, u.RawQuery = r.path, r.query
	req := (&http.Request{
		Method: r.method,
		URL:    &u,
		Host:   u.Host,
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header, 6),
	}).WithContext(ctx)
	if r.body != nil {
		req.ContentLength = int64(len(r.body))
		req.Body = io.NopCloser(bytes.NewReader(r.body))
		// Lets the transport begin again on a new connection where the old one
		// turns out dead before a byte was written, and only there.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
		req.Header["Content-Type"] = []string{jsonapi.MediaType}
	}
	req.Header["Authorization"] = []string{"Bearer " + credential.Reveal()}
	req.Header["Accept"] = []string{jsonapi.MediaType}
	req.Header["Accept-Encoding"] = []string{"identity"} // see plain for those who compress all the same
	req.Header["User-Agent"] = []string{c.options.UserAgent}
	if id := requestid.FromContext(ctx); id != "" {
		req.Header["X-Request-Id"] = []string{id}
	}
	if c.options.Tracer != nil {
		tell(ctx, req.Header)
	}
	return req
}

// A token's document is shorter than 1 KiB. A list has up to 100 of them.
const (
	maxBody     = 64 << 10
	maxListBody = 512 << 10
)

// readBody reads at most limit bytes of a document, before and after it is decompressed,
// and to the end where it can, so that the connection is kept.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	sent, err := readSent(resp, limit)
	if err != nil && plainText(resp.Header) {
		return sent, err
	}
	if err != nil {
		return nil, err
	}
	return plain(resp.Header, sent, limit)
}

func readSent(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, errTooLong
	}
	var b bytes.Buffer
	if resp.ContentLength > 0 {
		b.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(resp.Body, limit+1))
	if err == nil && n > limit {
		err = errTooLong
	}
	return b.Bytes(), err
}

// progress is how far a request got before it failed. The transport may try
// more than one connection for it. For a change the last one counts, since over
// HTTP/1.1 it begins again only where not a byte was written.
type progress struct{ connected, wrote atomic.Bool }

func (p *progress) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { p.connected.Store(false); p.wrote.Store(false) },
		GotConn:      func(httptrace.GotConnInfo) { p.connected.Store(true) },
		WroteHeaders: func() { p.wrote.Store(true) },
	})
}

// failure tells what the end of a request without an answer means.
func (p *progress) failure(attempt context.Context, err error) *Error {
	var timeout net.Error
	switch {
	case !p.connected.Load():
		return &Error{Kind: Unreachable, Cause: err}
	case attempt.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		// The transport returns without waiting for its writer, so that bytes may
		// still leave: what it has written so far proves nothing.
		return &Error{Kind: Timeout, Cause: harmless(err)}
	case !p.wrote.Load():
		return &Error{Kind: Unreachable, Cause: harmless(err)}
	default:
		return &Error{Kind: Lost, Cause: harmless(err)}
	}
}

var errUnreadable = errors.New("unreadable HTTP answer")

// harmless is err where that is about the connection. Other errors of net/http
// quote what they could not read, which may be a secret.
func harmless(err error) error {
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errTooLong), errors.Is(err, errCoding),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	default:
		return errUnreadable
	}
}
