// Package apidocs serves what the users of the REST surface read: its OpenAPI
// document, and a page of it. Both are the same for everybody, ask nothing of the
// service, and need nothing from anywhere else.
package apidocs

import (
	_ "embed"
	"net/http"

	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"
)

//go:embed openapi.json
var document []byte

//go:embed page.html
var page []byte

//go:embed page.js
var script []byte

//go:embed page.css
var style []byte

// policy lets the page have what is of this very origin, and nothing run or looked
// like that stands in it. Pictures may be in the style sheet itself.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves /openapi.json and /docs, and hands every other request to next as it
// came.
func Handler(next http.Handler) http.Handler {
	pages := map[string]http.Handler{
		"/openapi.json":  fixed("application/json", document),
		"/docs":          http.RedirectHandler("/docs/", http.StatusMovedPermanently),
		"/docs/":         fixed("text/html; charset=utf-8", page),
		"/docs/page.js":  fixed("text/javascript; charset=utf-8", script),
		"/docs/page.css": fixed("text/css; charset=utf-8", style),
	}
	assets := statigz.FileServer(static.FS)
	for _, name := range []string{"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"} {
		pages["/docs/"+name] = guarded(http.StripPrefix("/docs", assets))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := pages[r.URL.Path]; h != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			h.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func fixed(contentType string, content []byte) http.Handler {
	return guarded(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(content)
	}))
}

func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
		} {
			w.Header().Set(name, value)
		}
		h.ServeHTTP(w, r)
	})
}
