package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// problem is what goes wrong with a request, as a JSON:API error document.
type problem struct {
	status  int
	code    string // the reason, empty for what is wrong with HTTP alone
	detail  string
	outcome string
	fields  []field // one error object for each, or one in all
}

type field struct{ name, detail string }

type errorDocument struct {
	Errors []errorObject `json:"errors"`
}

// errorObject has `status` as a string: the vendor's clients lose the details of
// one that is a number.
type errorObject struct {
	Status string      `json:"status"`
	Code   string      `json:"code,omitempty"`
	Title  string      `json:"title"`
	Detail string      `json:"detail,omitempty"`
	Source *source     `json:"source,omitempty"`
	Meta   errorOrigin `json:"meta"`
}

type source struct {
	Pointer   string `json:"pointer,omitempty"`
	Parameter string `json:"parameter,omitempty"`
	Header    string `json:"header,omitempty"`
}

type errorOrigin struct {
	RequestID string `json:"request_id"`
	Outcome   string `json:"outcome,omitempty"`
}

// sources is where in a REST request a field of the message stands.
var sources = map[string]source{
	"team_id":           {Parameter: "team_id"},
	"expected_token_id": {Parameter: "expected_token_id"},
	"allow_missing":     {Parameter: allowMissing},
	"token_id":          {Parameter: "token_id"},
	"organization":      {Parameter: "organization"},
	"query":             {Parameter: "q"},
	"sort":              {Parameter: "sort"},
	"expiry_status":     {Parameter: "filter[expiry_status]"},
	"page_size":         {Parameter: pageSize},
	"page_token":        {Parameter: pageNumber},
	"description":       {Pointer: "/data/attributes/description"},
	"expired_at":        {Pointer: "/data/attributes/expired-at"},
	"request_id":        {Header: idempotencyKey},
}

func writeProblem(w http.ResponseWriter, p problem) {
	object := errorObject{
		Status: strconv.Itoa(p.status),
		Code:   p.code,
		Title:  cmp.Or(titles[p.code], title(p.status)),
		Detail: p.detail,
		Meta:   errorOrigin{RequestID: w.Header().Get(requestid.Header), Outcome: p.outcome},
	}
	var doc errorDocument
	for _, f := range p.fields {
		one := object
		one.Detail = f.detail
		at, ok := sources[f.name]
		if ok {
			one.Source = &at
		}
		if name := cmp.Or(at.Parameter, at.Header, at.Pointer, f.name); name != "" {
			one.Detail = name + ": " + f.detail
		}
		doc.Errors = append(doc.Errors, one)
	}
	if len(doc.Errors) == 0 {
		doc.Errors = []errorObject{object}
	}
	body, err := encode(doc)
	if err != nil { // strings alone
		body = nil
	}
	h := w.Header()
	h.Set("Content-Type", jsonapi.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if p.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(body) // the client may have left
}

// err is p as the interceptors take it, for a request that is refused with it; nil
// if there is no problem. What is wrong with HTTP alone has no reason.
func (p *problem) err(r *http.Request) error {
	switch {
	case p == nil:
		return nil
	case p.code == "":
		return status.Error(codeOf(p.status), p.detail)
	default:
		return &apierror.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD,
			Outcome: outcome(r, apierror.NotApplied), Violations: []apierror.Violation{{Description: p.detail}},
		}
	}
}

func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		return codes.ResourceExhausted
	default:
		return codes.InvalidArgument
	}
}

// title is the vendor's word for the status: `not found`, `unauthorized`.
func title(status int) string { return strings.ToLower(http.StatusText(status)) }

// titles are the vendor's words for a reason, where it has its own.
var titles = map[string]string{
	apierror.Name(teamtokenv1.ErrorReason_ERROR_REASON_DESCRIPTION_TAKEN): "invalid attributes",
}

// errorWriter answers what goes wrong. An RPC's own failure was logged where it
// happened; a request that never got there is logged here.
type errorWriter struct {
	log    *slog.Logger
	unseen telemetry.Unseen
}

// refuse answers a request that names no RPC: nothing was changed by it.
func (e errorWriter) refuse(w http.ResponseWriter, r *http.Request, p problem) {
	p.outcome = string(outcome(r, apierror.NotApplied))
	e.unseen("a REST request names no method of this server",
		slog.String(telemetry.KeyRequestID, w.Header().Get(requestid.Header)), slog.String(telemetry.KeySurface, "rest"),
		slog.String(telemetry.KeyPeer, r.RemoteAddr), slog.Int(telemetry.KeyStatus, p.status), slog.String(telemetry.KeyReason, p.code))
	writeProblem(w, p)
}

// failed answers a request that this package itself failed with, maybe after the
// RPC had gone well: its caller is not to take it for one that changed nothing.
func (e errorWriter) failed(w http.ResponseWriter, r *http.Request, err *apierror.Error) {
	e.log.LogAttrs(r.Context(), slog.LevelError, "a request failed in the gateway",
		slog.String(telemetry.KeyRequestID, w.Header().Get(requestid.Header)), slog.Any(telemetry.KeyError, err))
	status, _ := apierror.HTTPStatus(apierror.Name(err.Reason))
	writeProblem(w, problem{
		status: status, code: apierror.Name(err.Reason), detail: err.GRPCStatus().Message(), outcome: string(err.Outcome),
	})
}

// outcome is o for the methods that change something.
func outcome(r *http.Request, o apierror.Outcome) apierror.Outcome {
	if r.Method == http.MethodPost || r.Method == http.MethodDelete {
		return o
	}
	return ""
}

// final is the header that keeps Envoy from sending a request again.
const final = "x-envoy-ratelimited"

// status answers what an RPC failed with.
func (e errorWriter) status(
	ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	st := status.Convert(err)
	d := apierror.FromStatus(st)
	if d.Reason == "" {
		if p := requestOf(ctx).problem; p != nil && st.Code() == codeOf(p.status) {
			p.outcome = string(outcome(r, apierror.NotApplied))
			writeProblem(w, *p)
			return
		}
		switch st.Code() {
		case codes.DeadlineExceeded, codes.Canceled: // the in-process connection did not wait for the answer
			st = (&apierror.Error{
				Reason:  teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT,
				Outcome: outcome(r, apierror.Unknown),
			}).GRPCStatus()
			d = apierror.FromStatus(st)
		default: // neither the chain nor the service fails without a reason
			e.failed(w, r, &apierror.Error{
				Reason:  teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL,
				Outcome: outcome(r, apierror.Unknown), Cause: err,
			})
			return
		}
	}
	p := problem{code: d.Reason, detail: st.Message(), outcome: d.Outcome}
	for _, v := range d.Violations {
		p.fields = append(p.fields, field{v.GetField(), v.GetDescription()})
	}
	var ours bool
	if p.status, ours = apierror.HTTPStatus(d.Reason); !ours {
		p.status, p.detail = runtime.HTTPStatusFromCode(st.Code()), ""
	}
	if md, ok := runtime.ServerMetadataFromContext(ctx); ok && len(md.HeaderMD.Get(final)) > 0 {
		w.Header().Set(final, "true")
	}
	if d.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.RetryAfter.Seconds()))))
	}
	writeProblem(w, p)
}

// routing answers a request that no RPC is for.
func (e errorWriter) routing(
	_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int,
) {
	if p := requestOf(r.Context()).problem; p != nil {
		e.refuse(w, r, *p)
		return
	}
	p := problem{status: status, detail: "There is no such path. Nothing was changed."}
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow(r.URL.Path))
		p.detail = "This path does not take this method. Nothing was changed."
	}
	e.refuse(w, r, p)
}

// unlessRefused is h, for requests with nothing wrong.
func (e errorWriter) unlessRefused(h runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, parameters map[string]string) {
		if p := requestOf(r.Context()).problem; p != nil {
			e.refuse(w, r, *p)
			return
		}
		h(w, r, parameters)
	}
}

// allow lists the methods of a path, see http.yaml.
func allow(url string) string {
	switch parent, last := path.Split(url); {
	case last == "authentication-token":
		return "DELETE, GET, HEAD, POST"
	case last == "authentication-tokens":
		return "POST"
	case path.Base(parent) == "authentication-tokens":
		return "DELETE, GET, HEAD"
	default:
		return "GET, HEAD"
	}
}
