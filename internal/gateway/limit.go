package gateway

import (
	"log/slog"
	"net/http"

	"github.com/teamtoken/teamtoken/internal/requestid"
)

// WithHeaderLimit refuses requests with more than limit bytes of headers, before
// next looks at any of them. Over HTTP/2 other requests share the connection, which
// goes on: net/http itself would end it.
func WithHeaderLimit(next http.Handler, limit int, log *slog.Logger) http.Handler {
	e := errorWriter{log}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if headerBytes(r) <= limit {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set(requestid.Header, requestid.New())
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		e.refuse(w, r, problem{
			status: http.StatusRequestHeaderFieldsTooLarge,
			detail: "The headers of the request are too long. Nothing was changed. Send fewer of them.",
		})
	})
}

// fieldCost is what HTTP/2 counts for each header besides its name and value.
const fieldCost = 32

// headerBytes is the size of a request's headers, as HTTP/2 counts it.
func headerBytes(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host) + 2*fieldCost
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + fieldCost
		}
	}
	return n
}
