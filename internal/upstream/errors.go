package upstream

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Kind is what is known about a call that failed.
type Kind int

// The kinds. All but the last three are certain that nothing was changed.
const (
	Unreachable        Kind = iota // nothing was sent; or, on a read, no answer was to be had
	RateLimited                    // 429, and the wait does not fit into the deadline
	LocallyRateLimited             // the caller's own calls use up its share of the rate beyond the deadline
	Exhausted                      // the calls of all use up the rate beyond the deadline
	Unauthorized                   // 401
	Forbidden                      // 403
	NotFound                       // 404: missing, or not to be seen
	Conflict                       // 409
	Rejected                       // any other 4xx: 400 and 422 above all
	DescriptionTaken               // 422, since the team has a token with this description
	Unsupported                    // the upstream does not know the endpoint
	Redirected                     // 3xx
	Timeout                        // sent, and no answer in time
	NoResponse                     // sent, and 5xx or no answer
	ResponseInvalid                // 2xx, carried out, and the document is of no use
)

var kindNames = [...]string{
	"unreachable", "rate_limited", "throttled", "exhausted", "unauthorized", "forbidden", "not_found", "conflict", "rejected",
	"description_taken", "unavailable", "redirected", "timeout", "lost", "response_invalid",
}

// String is the kind's name in logs and metrics.
func (k Kind) String() string { return kindNames[k] }

// Error is a failed call. No part of it holds anything of the upstream's answer
// but numbers and the upstream's request id.
type Error struct {
	Kind       Kind
	Status     int           // the HTTP status, or 0 where there was no answer
	RetryAfter time.Duration // with RateLimited, Throttled and Exhausted, how long until there is room again
	RequestID  string        // the upstream's id of the request, if it gave a well-formed one
	Cause      error         // the transport's or the decoder's, if there is one
}

func (e *Error) Error() string {
	s := "upstream: " + e.Kind.String()
	if e.Status != 0 {
		s += fmt.Sprintf(", status %d", e.Status)
	}
	if e.RequestID != "" {
		s += ", request " + e.RequestID
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// kindOf is the kind of an answer by its status alone.
func kindOf(status int) Kind {
	switch {
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusUnauthorized:
		return Unauthorized
	case status == http.StatusForbidden:
		return Forbidden
	case status == http.StatusNotFound:
		return NotFound
	case status == http.StatusConflict:
		return Conflict
	case status == http.StatusRequestTimeout: // a load balancer's, which may have passed the request on
		return NoResponse
	case status >= 300 && status < 400:
		return Redirected
	case status >= 400 && status < 500:
		return Rejected
	default:
		return NoResponse
	}
}

const (
	defaultWait = time.Second
	maxWait     = time.Hour
)

// retryAfterOf reads how long a 429 asks to wait: X-RateLimit-Reset (seconds, maybe
// fractional), else Retry-After (seconds or a date), else a second. It is never
// negative, never over an hour, and never shorter than a millisecond.
func retryAfterOf(h http.Header, now time.Time) time.Duration {
	wait, ok := seconds(h.Get("X-RateLimit-Reset"))
	if !ok {
		wait, ok = seconds(h.Get("Retry-After"))
	}
	if !ok {
		if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
			wait, ok = at.Sub(now), true
		}
	}
	if !ok {
		wait = defaultWait
	}
	return min(max(wait, time.Millisecond), maxWait)
}

func seconds(s string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return 0, false
	}
	return time.Duration(min(f, maxWait.Seconds()) * float64(time.Second)), true
}
