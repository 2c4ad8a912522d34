package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/secret"
)

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
			err.RetryAfter = max(err.RetryAfter, ratePause<<min(sent-1, 6))
			c.options.RateLimiter.Block(ctx, err.RetryAfter)
			if SendFrom(ctx).NoWait || !pause(ctx, err.RetryAfter+jitter(err.RetryAfter)) {
				return a, err
			}
		case err.Kind == Unauthorized && !refreshed && c.rotated(ctx, used):
			refreshed = true
		case !r.mutates && (err.Kind == NoResponse || err.Kind == Unreachable):
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
	s := calls.From(ctx).Credential
	if s.IsZero() && c.options.Credential != nil {
		s = c.options.Credential.Get()
	}
	return s
}

// rotated looks whether the service's own credential is another by now than the
// one used. What Refresh reports will not do: of all the calls that were under
// way, it is news to the first alone.
func (c *Client) rotated(ctx context.Context, used secret.Text) bool {
	if !calls.From(ctx).Credential.IsZero() || c.options.Credential == nil {
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
	if err := c.options.RateLimiter.Wait(ctx, r.mutates); err != nil {
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
		news = errInconclusive
	default:
		news = err
	}
	ended := Attempt{Method: r.method, Template: r.template, Status: a.status, RequestID: a.requestID, Duration: time.Since(start)}
	ended.Host, ended.Port = c.Endpoint()
	if err != nil {
		ended.Failure, ended.Status, ended.RequestID = err.Kind.String(), err.Status, err.RequestID
	}
	c.options.OnAttempt(ctx, ended)
	endSpan(span, ended)
	return a, err
}
