package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

const (
	// requestDocument is what the vendor's clients send, and what goes upstream.
	requestDocument = `{"data":{"type":"authentication-tokens"}}`
	// credential and generated have the shape of the real ones and open nothing.
	credential = "QnbSxjjhVMHJgw.atlasv1.gxZnWIjI5j752DGqdwEUVLOFf0mtyaQ00H9bA1j90qWb254lEkQyOdfqqcq9zZL7Sm0" //nolint:gosec // it opens nothing
	generated  = "Rt7WbNqLxYzKcd.atlasv1.0fHkPzVwq3JmTe81bXuZs5CrGyL2iAoNd94QvEhUKxBWpRl6SgMt7YnFcIjDkaO1mPq"
	document   = `{"data":{"id":"at-8Jb6CkbbKZrUBCWb","type":"authentication-tokens","attributes":{` +
		`"created-at":"2026-11-23T20:00:00.000Z","last-used-at":null,"description":null,"token":"` + generated + `",` +
		`"expired-at":"2028-11-22T20:00:00.000Z"},"relationships":{"team":{"data":{"id":"` + anyTeam + `","type":"teams"}},` +
		`"created-by":{"data":{"id":"user-62goNpx1ThQf689e","type":"users"}}}}}`
)

func listen() (net.Listener, error) {
	var c net.ListenConfig
	return c.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// serveUpstream answers every request with a new token, without delay.
func serveUpstream() error {
	listener, err := listen()
	if err != nil {
		return err
	}
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("serving", "rest", "http://"+listener.Addr().String())
	before, after, _ := strings.Cut(document, anyTeam)
	length := strconv.Itoa(len(document))
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // loopback
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", jsonapi.MediaType)
		w.Header().Set("Content-Length", length)
		w.WriteHeader(http.StatusCreated)
		team := strings.Split(r.URL.Path, "/")[4]
		_, _ = io.WriteString(w, before)
		_, _ = io.WriteString(w, team) //nolint:gosec // of our own callers, and no page
		_, _ = io.WriteString(w, after)
	}))
}
