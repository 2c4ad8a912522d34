package simulator

import (
	"net/http"
	"strconv"
	"time"
)

// limit counts each user's requests in fixed windows of one second. A window
// opens with the first request after the last one has ended. So a client that
// keeps an even pace is never refused, and the wait that a refusal names is
// always long enough.
type limit struct {
	rate    int               // negative: no limit
	windows map[string]window // by user, or by address where nobody authenticated
}

type window struct {
	opened time.Time
	used   int
}

// take counts a request. If there is one too many, it returns how long the user
// has to wait.
func (l *limit) take(user string, now time.Time) (remaining int, wait time.Duration) {
	if l.rate < 0 {
		return 0, 0
	}
	w := l.windows[user]
	if now.Sub(w.opened) >= time.Second {
		w = window{opened: now}
	}
	if w.used == l.rate {
		return 0, w.opened.Add(time.Second).Sub(now)
	}
	w.used++
	l.windows[user] = w
	return l.rate - w.used, 0
}

// head writes the vendor's three headers; none where there is no limit.
func (l *limit) head(h http.Header, remaining int, wait time.Duration) {
	if l.rate < 0 {
		return
	}
	up := (wait + time.Millisecond - 1).Truncate(time.Millisecond)
	h.Set("X-RateLimit-Limit", strconv.Itoa(l.rate))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(remaining))
	h.Set("X-RateLimit-Reset", strconv.FormatFloat(up.Seconds(), 'f', 3, 64))
}
