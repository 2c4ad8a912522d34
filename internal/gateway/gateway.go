// Package gateway serves the RPCs as the upstream's own REST API: its paths, its
// JSON:API documents, its status codes, so that the vendor's clients work
// against it as they are.
//
// It is strict about what comes in. A request with a percent sign in its path,
// with a body over 64 KiB or of another media type, is refused before it is
// looked up. Headers reach the service only by name, see headers.go; the method
// of a request is its method, whatever a header says. No answer is stored on
// the way.
package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/requestid"
)

// maxBody is far over any request of this API.
const maxBody = 64 << 10

// New returns the REST surface of the service that conn reaches. It logs to log
// the requests that do not reach it.
func New(conn grpc.ClientConnInterface, log *slog.Logger) (http.Handler, error) {
	e := errorWriter{log}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithErrorHandler(e.status),
		runtime.WithRoutingErrorHandler(e.routing),
		runtime.WithForwardResponseOption(setStatus),
		runtime.WithForwardResponseRewriter(withLinks),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
		runtime.SetQueryParameterParser(ignored{}),
	)
	client := teamtokenv1.NewTeamTokenServiceClient(completed{conn})
	if err := teamtokenv1.RegisterTeamTokenServiceHandlerClient(context.Background(), mux, client); err != nil {
		return nil, err
	}
	if err := mux.HandlePath(http.MethodGet, "/api/v2/ping", ping); err != nil {
		return nil, err
	}
	if err := mux.HandlePath(http.MethodGet, "/.well-known/terraform.json", discovery); err != nil {
		return nil, err
	}
	return front{mux, e}, nil
}

// ping answers what go-tfe asks for when a client is made: which API this is.
func ping(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	w.Header().Set("TFP-API-Version", "2.6")
	w.Header().Set("TFP-AppName", "HCP Terraform")
	w.WriteHeader(http.StatusNoContent)
}

// discovery tells Terraform where the API is.
func discovery(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"tfe.v2":"/api/v2/","tfe.v2.1":"/api/v2/","tfe.v2.2":"/api/v2/"}`)
}

// front checks what is to be checked before a request is looked up.
type front struct {
	mux    http.Handler
	errors errorWriter
}

func (f front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(requestid.Header)
	if !requestid.Valid(id) || len(r.Header.Values(requestid.Header)) > 1 {
		id = requestid.New()
		r.Header.Set(requestid.Header, id)
	}
	h := w.Header()
	h.Set(requestid.Header, id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			f.errors.failed(w, r, reason.Panic(p, outcome(r, reason.Unknown)))
		}
	}()
	if p := check(r); p != nil {
		f.errors.refuse(w, r, *p)
		return
	}
	f.mux.ServeHTTP(w, r.WithContext(caller.WithPresented(withRequest(r), presented(r))))
}

// presented is what the request brings that may tell who makes it: of its own
// connection and headers, none of which reach the service as metadata.
func presented(r *http.Request) caller.Presented {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // none of a listener that is no TCP
	return caller.Presented{
		Surface: caller.REST, Peer: peer, TLS: r.TLS, Connection: caller.ConnectionFrom(r.Context()), Header: r.Header.Values,
	}
}

// check reads the body, and returns what is wrong with the request, if anything.
func check(r *http.Request) *problem {
	if strings.Contains(r.URL.EscapedPath(), "%") {
		return invalid("The path must not be percent-encoded: no id of this API needs it.")
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return invalid("The query is malformed.")
	}
	if t := r.Header.Get("Grpc-Timeout"); t != "" && !timeout.MatchString(t) {
		return invalid("The header Grpc-Timeout must be a number of up to 8 digits, not 0, and a unit, one of HMSmun.")
	}
	if len(r.Header.Values(idempotencyKey)) > 1 {
		return invalid("The header Idempotency-Key must not stand twice.")
	}
	if len(r.Header.Values("Authorization")) > 1 { // of two credentials none is believed
		r.Header.Del("Authorization")
	}
	var body []byte
	var err error
	var tooLong *http.MaxBytesError
	if r.ContentLength <= maxBody {
		body, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	}
	switch {
	case r.ContentLength > maxBody, errors.As(err, &tooLong):
		return &problem{status: http.StatusRequestEntityTooLarge, detail: "The body must not be longer than 64 KiB."}
	case err != nil:
		return invalid("The body could not be read to its end.")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) > 0 && !jsonMedia(r.Header.Values("Content-Type")) {
		return &problem{
			status: http.StatusUnsupportedMediaType, detail: "The Content-Type of a body must be application/vnd.api+json or application/json.",
		}
	}
	r.Header.Set("Content-Type", mediaType) // whatever it was without a body: nothing below is to look at it
	return nil
}

func jsonMedia(contentTypes []string) bool {
	switch len(contentTypes) {
	case 0:
		return true
	case 1:
		t, _, err := mime.ParseMediaType(contentTypes[0])
		return err == nil && (t == mediaType || t == "application/json")
	default:
		return false
	}
}

// setStatus answers what the upstream answers: 201 with a new token, 204 to a
// deletion.
func setStatus(_ context.Context, w http.ResponseWriter, m proto.Message) error {
	switch m.(type) {
	case *teamtokenv1.GenerateTokenResponse, *teamtokenv1.CreateNamedTokenResponse:
		w.WriteHeader(http.StatusCreated)
	case *teamtokenv1.DeleteTokenResponse, *teamtokenv1.DeleteTokenByIDResponse:
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

func invalid(detail string) *problem {
	return &problem{
		status: http.StatusBadRequest,
		code:   reason.Name(teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD),
		detail: detail,
	}
}
