package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
)

// broken is a connection behind which nothing keeps its promises.
type broken func() error

func (b broken) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return b() }

func (broken) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// What fails here, and not in an RPC, is a whole error all the same: it has a
// reason and an outcome, it is logged, and it says nothing of its cause.
func TestTheGatewayItselfFails(t *testing.T) {
	const cause = "Canary0123456789"
	for name, b := range map[string]broken{
		"a panic":                 func() error { panic(cause) },
		"an error without reason": func() error { return errors.New(cause) },
	} {
		for method, outcome := range map[string]string{http.MethodPost: `,"outcome":"unknown"`, http.MethodGet: ``} {
			t.Run(name+"/"+method, func(t *testing.T) {
				var log bytes.Buffer
				h, err := New(b, slog.New(slog.NewJSONHandler(&log, nil)), func(string, ...slog.Attr) {}, Origins{}, 32<<10)
				if err != nil {
					t.Fatal(err)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, "/api/v2/teams/team-BUHBEM97xboT8TVz/authentication-token", nil))
				body := w.Body.String()
				if w.Code != http.StatusInternalServerError || !strings.Contains(body, `"code":"INTERNAL"`) ||
					!strings.Contains(body, `"request_id":"`+w.Header().Get("X-Request-Id")+`"`+outcome+`}`) {
					t.Errorf("%d %s", w.Code, body)
				}
				if strings.Contains(body, cause) || !strings.Contains(log.String(), `"level":"ERROR"`) {
					t.Errorf("told: %s, logged: %s", body, log.String())
				}
			})
		}
	}
}
