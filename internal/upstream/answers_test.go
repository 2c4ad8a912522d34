package upstream_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

const (
	teamOfAnswer = "team-6p5jTwJQXwqZBncC"
	newSecret    = "abcdefghijklmn.atlasv1.0123456789"
	tokenJSON    = `{"data":{"id":"at-6yEmxNAhaoQLH1Da","type":"authentication-tokens","attributes":{"token":"` + newSecret + `"}}}`
	takenJSON    = `{"errors":[{"status":"422","title":"invalid attributes","detail":"Validation failed: Description has already been taken"}]}`
)

func gzipped(parts ...string) string {
	var b bytes.Buffer
	for _, part := range parts {
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, part)
		_ = w.Close()
	}
	return b.String()
}

func deflated(text string) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// said is an answer as it goes over the wire. A header of "Connection: close" ends it.
func said(status string, headers, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, strings.ReplaceAll(headers, "\n", "\r\n"), len(body), body)
}

// speaker answers each request with the same bytes, and closes.
func speaker(t *testing.T, answer string) (address string, heads *atomic.Pointer[http.Header], requests *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heads, requests = &atomic.Pointer[http.Header]{}, &atomic.Int64{}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		header := r.Header.Clone()
		heads.Store(&header)
		requests.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String(), heads, requests
}

// clientOf is a client without connections.
func clientOf(t *testing.T, address string) *upstream.Client {
	t.Helper()
	transport := upstream.NewTransport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client, err := newClient(upstream.Options{
		Address: address, Credential: upstream.FixedCredential{Text: secret.New("credential")}, Timeout: 30 * time.Second,
		Transport: func() http.RoundTripper { return transport },
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// What an upstream, or a proxy before it, may answer, and what is known by it. "ok" is
// a token with its secret.
func TestUnusualAnswers(t *testing.T) {
	const typed = "Content-Type: application/vnd.api+json\n"
	bomb := gzipped(strings.Repeat(" ", 10<<20) + tokenJSON)
	whole := gzipped(tokenJSON)
	corrupt := []byte(whole)
	corrupt[len(corrupt)-6] ^= 0xff // the checksum
	bent := []byte(whole)
	bent[len(bent)/2] ^= 0xff
	for _, row := range []struct {
		name, answer string
		created      string // of CreateNamedToken
		read         string // of ReadToken
		deleted      string // of DeleteTokenByID
	}{
		{"plain", said("201 Created", typed, tokenJSON), "ok", "ok", "ok"},
		// Content codings that nobody asked for.
		{"gzip", said("201 Created", typed+"Content-Encoding: gzip\n", whole), "ok", "ok", "ok"},
		{"x-gzip, in capitals", said("201 Created", typed+"content-encoding: X-GZIP\n", whole), "ok", "ok", "ok"},
		{"gzip of two members", said("201 Created", typed+"Content-Encoding: gzip\n", gzipped(tokenJSON[:20], tokenJSON[20:])), "ok", "ok", "ok"},
		{"gzip, with something behind", said("201 Created", typed+"Content-Encoding: gzip\n", whole+"behind"), "ok", "ok", "ok"},
		{"gzip, in chunks", "HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(whole), whole), "ok", "ok", "ok"},
		{"identity", said("201 Created", typed+"Content-Encoding: identity\n", tokenJSON), "ok", "ok", "ok"},
		{"an empty coding", said("201 Created", typed+"Content-Encoding:\n", tokenJSON), "ok", "ok", "ok"},
		{"called gzip, and plain", said("201 Created", typed+"Content-Encoding: gzip\n", tokenJSON), "ok", "ok", "ok"},
		{"gzip, a bomb", said("201 Created", typed+"Content-Encoding: gzip\n", bomb), "response_invalid", "response_invalid", "ok"},
		{"gzip, cut off", said("201 Created", typed+"Content-Encoding: gzip\n", whole[:len(whole)-12]), "response_invalid", "response_invalid", "ok"},
		{"gzip, without its checksum", said("201 Created", typed+"Content-Encoding: gzip\n", whole[:len(whole)-8]), "response_invalid", "response_invalid", "ok"},
		{"gzip, another checksum", said("201 Created", typed+"Content-Encoding: gzip\n", string(corrupt)), "response_invalid", "response_invalid", "ok"},
		{"gzip, bent", said("201 Created", typed+"Content-Encoding: gzip\n", string(bent)), "response_invalid", "response_invalid", "ok"},
		{"gzip, nothing but its head", said("201 Created", typed+"Content-Encoding: gzip\n", whole[:10]), "response_invalid", "response_invalid", "ok"},
		{"gzip, empty", said("201 Created", typed+"Content-Encoding: gzip\n", ""), "response_invalid", "response_invalid", "ok"},
		{"gzip, a line lost", "HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + whole, "response_invalid", "unreachable", "ok"},
		{"gzip twice", said("201 Created", typed+"Content-Encoding: gzip, gzip\n", gzipped(whole)), "response_invalid", "response_invalid", "ok"},
		{"gzip twice, in two lines", said("201 Created", typed+"Content-Encoding: gzip\nContent-Encoding: gzip\n", gzipped(whole)), "response_invalid", "response_invalid", "ok"},
		{"deflate", said("201 Created", typed+"Content-Encoding: deflate\n", deflated(tokenJSON)), "response_invalid", "response_invalid", "ok"},
		{"br", said("201 Created", typed+"Content-Encoding: br\n", "\x0b\x02\x80"+tokenJSON+"\x03"), "response_invalid", "response_invalid", "ok"},
		{"zstd", said("201 Created", typed+"Content-Encoding: zstd\n", "\x28\xb5\x2f\xfd"+tokenJSON), "response_invalid", "response_invalid", "ok"},
		{"422 in gzip, and why", said("422 Unprocessable", typed+"Content-Encoding: gzip\n", gzipped(takenJSON)), "description_taken", "description_taken", "description_taken"},
		{"422 in gzip, cut off", said("422 Unprocessable", typed+"Content-Encoding: gzip\n", gzipped(takenJSON)[:20]), "rejected", "rejected", "rejected"},
		{"422 in br", said("422 Unprocessable", typed+"Content-Encoding: br\n", "\x0b"), "rejected", "rejected", "rejected"},
		{"404 in gzip", said("404 Not Found", typed+"Content-Encoding: gzip\n", gzipped(`{"errors":[]}`)), "not_found", "not_found", "not_found"},
		{"429 in gzip", said("429 Too Many", typed+"X-RateLimit-Reset: 3600\nContent-Encoding: gzip\n", gzipped(`{"errors":[]}`)), "rate_limited", "rate_limited", "rate_limited"},
		{"500 in gzip", said("500 Oops", typed+"Content-Encoding: gzip\n", gzipped("<html>")), "lost", "unreachable", "lost"},
		// Other statuses of success.
		{"200", said("200 OK", typed, tokenJSON), "ok", "ok", "ok"},
		{"202, with the document", said("202 Accepted", typed, tokenJSON), "ok", "ok", "lost"},
		{"202, without", said("202 Accepted", "", ""), "lost", "response_invalid", "lost"},
		{"203", said("203 Non-Authoritative Information", typed, tokenJSON), "ok", "ok", "ok"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", "response_invalid", "response_invalid", "ok"},
		// Answers before the answer.
		{"103 before", "HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + said("201 Created", typed, tokenJSON), "ok", "ok", "ok"},
		{"ten of 102 before", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10) + said("201 Created", typed, tokenJSON), "ok", "ok", "ok"},
		{"100 before, for which nobody asked", "HTTP/1.1 100 Continue\r\n\r\n" + said("201 Created", typed, tokenJSON), "ok", "ok", "ok"},
		{"103, and no more", "HTTP/1.1 103 Early Hints\r\n\r\n", "lost", "unreachable", "lost"},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "lost", "unreachable", "lost"},
		// The document, and what is round it.
		{"an end of line behind", said("201 Created", typed, tokenJSON+"\r\n"), "ok", "ok", "ok"},
		{"a remark behind", said("201 Created", typed, tokenJSON+"\n<!-- by a proxy -->"), "ok", "ok", "ok"},
		{"zeros behind", said("201 Created", typed, tokenJSON+"\x00\x00"), "ok", "ok", "ok"},
		{"a byte order mark", said("201 Created", typed, "\xef\xbb\xbf"+tokenJSON), "ok", "ok", "ok"},
		{"half a document", said("201 Created", typed, tokenJSON[:40]), "response_invalid", "response_invalid", "ok"},
		{"a remark before", said("201 Created", typed, "ok "+tokenJSON), "response_invalid", "response_invalid", "ok"},
		{"no length, and closed", "HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n" + tokenJSON, "ok", "ok", "ok"},
		{"HTTP/1.0", "HTTP/1.0 201 Created\r\n\r\n" + tokenJSON, "ok", "ok", "ok"},
		{"the document whole, the length wrong", "HTTP/1.1 201 Created\r\nContent-Length: 9999\r\n\r\n" + tokenJSON, "ok", "unreachable", "ok"},
		{"half of it, and closed", "HTTP/1.1 201 Created\r\nContent-Length: 9999\r\n\r\n" + tokenJSON[:40], "response_invalid", "unreachable", "ok"},
		{"chunks with trailers", "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" +
			fmt.Sprintf("5\r\n%s\r\n%x;ext=1\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n", tokenJSON[:5], len(tokenJSON)-5, tokenJSON[5:]), "ok", "ok", "ok"},
		{"chunks without an end", "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n", len(tokenJSON), tokenJSON), "ok", "unreachable", "ok"},
		// Headers.
		{"a charset", said("201 Created", "Content-Type: application/vnd.api+json; charset=utf-8\n", tokenJSON), "ok", "ok", "ok"},
		{"another media type", said("201 Created", "Content-Type: text/plain\n", tokenJSON), "ok", "ok", "ok"},
		{"no media type", said("201 Created", "", tokenJSON), "ok", "ok", "ok"},
		{"headers in small letters", said("201 Created", "content-type: application/vnd.api+json\nconnection: close\n", tokenJSON), "ok", "ok", "ok"},
		{"404 with a media type in capitals", said("404 Not Found", "CONTENT-TYPE: Application/Vnd.API+JSON; Charset=UTF-8\n", `{"errors":[]}`), "not_found", "not_found", "not_found"},
		{"404 of a router", said("404 Not Found", "Content-Type: text/html\n", "<html>"), "unavailable", "not_found", "unavailable"},
		{"429 with a header in small letters", said("429 Too Many", "x-ratelimit-reset: 3600\n", ""), "rate_limited", "rate_limited", "rate_limited"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			address, heads, _ := speaker(t, row.answer)
			ctx, end := context.WithTimeout(t.Context(), 20*time.Second)
			defer end()
			team, _ := upstream.ParseTeamID(teamOfAnswer)
			id, _ := upstream.ParseTokenID("at-6yEmxNAhaoQLH1Da")
			_, text, err := clientOf(t, address).CreateNamedToken(ctx, team, "x", time.Time{})
			if got := kind(err); got != row.created {
				t.Errorf("a new token: %s (%v), want %s", got, err, row.created)
			}
			if (err == nil) != (text.Reveal() == newSecret) {
				t.Errorf("it has a secret of %d bytes", len(text.Reveal()))
			}
			_, err = clientOf(t, address).ReadToken(ctx, team)
			if got := kind(err); got != row.read {
				t.Errorf("a read: %s (%v), want %s", got, err, row.read)
			}
			err = clientOf(t, address).DeleteTokenByID(ctx, id)
			if got := kind(err); got != row.deleted {
				t.Errorf("a deletion: %s (%v), want %s", got, err, row.deleted)
			}
			if got := (*heads.Load())["Accept-Encoding"]; len(got) != 1 || got[0] != "identity" {
				t.Errorf("it asks for %q", got)
			}
		})
	}
}

func kind(err error) string {
	var e *upstream.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Kind.String()
	default:
		return "another error"
	}
}

// HTTP/2, over which reads go, asks for no compression either, and reads it all the same.
func TestCompressedOverHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header["Accept-Encoding"]; len(got) != 1 || got[0] != "identity" || r.ProtoMajor != 2 && r.Method == http.MethodGet {
			t.Errorf("it asks for %q, over %s", got, r.Proto)
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, gzipped(tokenJSON))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport := upstream.NewTransport(server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
	defer transport.CloseIdleConnections()
	client, err := newClient(upstream.Options{
		Address: server.URL, Credential: upstream.FixedCredential{Text: secret.New("credential")}, Timeout: 30 * time.Second,
		Transport: func() http.RoundTripper { return transport },
	})
	if err != nil {
		t.Fatal(err)
	}
	team, _ := upstream.ParseTeamID(teamOfAnswer)
	if _, err := client.ReadToken(t.Context(), team); err != nil {
		t.Error(err)
	}
	if _, _, err := client.CreateToken(t.Context(), team, time.Time{}); err != nil {
		t.Error(err)
	}
}

type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A request that panics while the circuit is half open is a failed one: the circuit is
// tried again a second later, as after any other.
func TestAPanicDoesNotKeepTheCircuitOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := "unreachable"
		transport := roundTrips(func(*http.Request) (*http.Response, error) {
			switch now {
			case "unreachable":
				return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
			case "panic":
				panic("in the transport")
			}
			return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{}, Body: http.NoBody}, nil
		})
		client, err := newClient(upstream.Options{
			Address: "http://127.0.0.1:1", Credential: upstream.FixedCredential{Text: secret.New("credential")}, Timeout: 30 * time.Second,
			Transport: func() http.RoundTripper { return transport },
		})
		if err != nil {
			t.Fatal(err)
		}
		team, _ := upstream.ParseTeamID(teamOfAnswer)
		remove := func() (panicked any, err error) {
			defer func() { panicked = recover() }()
			return nil, client.DeleteToken(t.Context(), team)
		}
		for range 5 {
			_, _ = remove()
		}
		if !client.CircuitOpen() {
			t.Fatal("the circuit is not open")
		}
		for _, now = range []string{"panic", "panic", "unreachable", "panic"} {
			time.Sleep(1100 * time.Millisecond)
			if panicked, err := remove(); (panicked != nil) != (now == "panic") {
				t.Fatalf("%s: %v, %v", now, err, panicked)
			}
			if !client.CircuitOpen() {
				t.Errorf("after %s the circuit is not open", now)
			}
		}
		now = "well"
		time.Sleep(1100 * time.Millisecond)
		if _, err := remove(); err != nil || client.CircuitOpen() {
			t.Errorf("%v; open: %v", err, client.CircuitOpen())
		}
	})
}
