// Package gateway serves the RPCs as the upstream's own REST API: its paths, its
// JSON:API documents, its status codes, so that the vendor's clients work
// against it as they are.
//
// It is strict about what comes in: it refuses a request with a percent sign in its
// path, with a body over 64 KiB or of another media type. A refused request that
// names an RPC goes through the interceptors all the same, so that its caller is
// identified and the refusal is in the audit; any other is in the log. Headers reach
// the service only by name, see headers.go; the method of a request is its method,
// whatever a header says. No answer is stored on the way.
package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// maxBody is far over any request of this API.
const maxBody = 64 << 10

// New returns the REST surface of the service that conn reaches. It logs to log
// what fails in here, and to unseen the requests that name no RPC, and so are not in
// the audit. Requests with more than maxHeaders bytes of headers are refused.
func New(conn grpc.ClientConnInterface, log *slog.Logger, unseen telemetry.Unseen, origins Origins, maxHeaders int) (http.Handler, error) {
	e := errorWriter{log, unseen}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(dropHeader),
		runtime.WithOutgoingTrailerMatcher(dropHeader),
		runtime.WithErrorHandler(e.status),
		runtime.WithRoutingErrorHandler(e.routing),
		runtime.WithForwardResponseOption(setStatus),
		runtime.WithForwardResponseRewriter(origins.withLinks),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
		runtime.SetQueryParameterParser(noQueryParser{}),
	)
	client := teamtokenv1.NewTeamTokenServiceClient(requestBinder{conn})
	if err := teamtokenv1.RegisterTeamTokenServiceHandlerClient(context.Background(), mux, client); err != nil {
		return nil, err
	}
	for path, handler := range map[string]runtime.HandlerFunc{"/api/v2/ping": ping, "/.well-known/terraform.json": discovery} {
		if err := mux.HandlePath(http.MethodGet, path, e.unlessRefused(handler)); err != nil {
			return nil, err
		}
	}
	return preflight{mux, e, maxHeaders}, nil
}

// ping answers what go-tfe asks for when a client is made: which API this is.
func ping(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	w.Header().Set("TFP-API-Version", "2.6")
	w.Header().Set("TFP-AppName", "HCP Terraform")
	w.WriteHeader(http.StatusNoContent)
}

// discovery tells Terraform where the API is.
func discovery(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	const document = `{"tfe.v2":"/api/v2/","tfe.v2.1":"/api/v2/","tfe.v2.2":"/api/v2/"}`
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(document)))
	_, _ = io.WriteString(w, document)
}

// preflight checks what is to be checked before a request is looked up.
type preflight struct {
	mux        http.Handler
	errors     errorWriter
	maxHeaders int // in bytes
}

func (f preflight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	long := headerBytes(r) > f.maxHeaders // before the request id is replaced
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
			f.errors.failed(w, r, apierror.Panic(p, outcome(r, apierror.Unknown)))
		}
	}()
	from := presented(r)
	in := new(request)
	if from.LongHeaders = long; long {
		in.problem = &problem{status: http.StatusRequestHeaderFieldsTooLarge, detail: "The headers must be shorter."}
	} else {
		in.body, in.problem = validate(r)
	}
	r = r.WithContext(caller.WithCredentials(context.WithValue(r.Context(), requestKey{}, in), from))
	if in.problem != nil { // grpc-gateway would stop at either of these by itself
		r.Header.Del("Grpc-Timeout")
		withoutQuery := *r.URL
		withoutQuery.RawQuery = ""
		r.URL = &withoutQuery
	}
	if r.Method == http.MethodHead { // of r, a copy: net/http knows that no body is to be sent
		r.Method = http.MethodGet
	}
	in.Request = r
	f.mux.ServeHTTP(w, r)
}

// presented is what the request brings that may tell who makes it: of its own
// connection and headers, none of which reach the service as metadata.
func presented(r *http.Request) caller.Credentials {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // none of a listener that is no TCP
	return caller.Credentials{
		Surface: caller.REST, Peer: peer, TLS: r.TLS, Connection: caller.ConnectionFrom(r.Context()), Header: r.Header.Values,
	}
}

// validate reads the body, and returns it, or what is wrong with the request.
func validate(r *http.Request) ([]byte, *problem) {
	if strings.Contains(r.URL.EscapedPath(), "%") {
		return nil, invalid("The path must not be percent-encoded: no id of this API needs it.")
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, invalid("The query is malformed.")
	}
	if t := r.Header.Values("Grpc-Timeout"); len(t) > 1 || len(t) == 1 && t[0] != "" && !timeout.MatchString(t[0]) {
		return nil, invalid("The header Grpc-Timeout must stand once, as a number of up to 8 digits, not 0, and a unit, one of HMSmun.")
	}
	if len(r.Header.Values(idempotencyKey)) > 1 {
		return nil, invalid("The header Idempotency-Key must not be sent twice.")
	}
	var body []byte
	var err error
	var tooLong *http.MaxBytesError
	if r.ContentLength <= maxBody {
		body, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	}
	switch {
	case r.ContentLength > maxBody, errors.As(err, &tooLong):
		return nil, &problem{status: http.StatusRequestEntityTooLarge, detail: "The body must not be longer than 64 KiB."}
	case err != nil:
		return nil, invalid("The body could not be read to its end.")
	}
	if len(body) > 0 && !jsonMedia(r.Header.Values("Content-Type")) {
		return nil, &problem{
			status: http.StatusUnsupportedMediaType, detail: "The Content-Type of a body must be application/vnd.api+json or application/json.",
		}
	}
	r.Header.Set("Content-Type", jsonapi.MediaType) // whatever it was without a body: nothing below is to look at it
	return body, nil
}

func jsonMedia(contentTypes []string) bool {
	switch len(contentTypes) {
	case 0:
		return true
	case 1:
		t, _, err := mime.ParseMediaType(contentTypes[0])
		return err == nil && (t == jsonapi.MediaType || t == "application/json")
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
		code:   apierror.Name(teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD),
		detail: detail,
	}
}
