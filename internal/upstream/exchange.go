package upstream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// exchange sends r once, and reads what comes back.
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
	if lease := SendFrom(ctx).Lease; lease != nil && r.mutates {
		defer closing(lease.Done(), cancel)()
		if err := lease.Err(); err != nil { // at the last moment that there is
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
		return answer{}, &Error{Kind: NoResponse, Status: resp.StatusCode}
	}
	body, err := readBody(resp, cmp.Or(r.limit, maxBody))
	if limit, err := strconv.ParseFloat(resp.Header.Get("X-RateLimit-Limit"), 64); succeeded(resp) && err == nil {
		c.options.RateLimiter.SetLimit(ctx, limit)
	}
	return judged(r, resp, body, err)
}

func succeeded(resp *http.Response) bool { return resp.StatusCode >= 200 && resp.StatusCode < 300 }

// judged is what an answer means for a request. err is why body may not be all of it.
func judged(r request, resp *http.Response, body []byte, err error) (answer, *Error) {
	e := &Error{Status: resp.StatusCode, Cause: harmless(err)}
	if id := resp.Header.Get(requestid.Header); requestid.Valid(id) {
		e.RequestID = id
	}
	switch {
	case !succeeded(resp):
		e.Kind = kindOf(resp.StatusCode)
		switch {
		case e.Kind == RateLimited:
			e.RetryAfter = retryAfterOf(resp.Header, time.Now())
		case e.Kind == Rejected && descriptionTaken(body):
			e.Kind = DescriptionTaken
		case r.optional && unrouted(resp):
			e.Kind = Unsupported
		}
		return answer{}, e
	case r.method == http.MethodDelete: // of which the status says all
		if resp.StatusCode == http.StatusAccepted { // it may still be carried out, or not
			e.Kind = NoResponse
			return answer{}, e
		}
	case err != nil && !r.mutates:
		e.Kind = NoResponse
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
	if id := calls.From(ctx).RequestID; id != "" {
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
		return &Error{Kind: NoResponse, Cause: harmless(err)}
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
