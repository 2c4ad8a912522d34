package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/page"
)

type requestKey struct{}

// request is the HTTP request behind a call, as check has read it.
type request struct {
	*http.Request
	body    []byte
	problem *problem // what it is refused for; nil if it is not
}

// requestOf is the HTTP request behind a call.
func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// requestBinder puts into a message what stands elsewhere in REST than grpc-gateway
// can be told of. The service checks it there like all else.
type requestBinder struct{ grpc.ClientConnInterface }

func (c requestBinder) Invoke(ctx context.Context, method string, req, resp any, opts ...grpc.CallOption) error {
	r := requestOf(ctx)
	err := r.problem.err(r.Request)
	if err == nil {
		err = complete(req, r)
	}
	if err != nil { // the interceptors answer with it, once they know who calls
		from, _ := caller.CredentialsFrom(ctx)
		from.Refused = err
		ctx = caller.WithCredentials(context.WithoutCancel(ctx), from) // the client may have left in the middle of the body
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	return c.ClientConnInterface.Invoke(ctx, method, req, resp, opts...)
}

// patience is how long after a call's deadline its answer is waited for.
const patience = 100 * time.Millisecond

// patientContext has a deadline that it outlasts.
type patientContext struct {
	context.Context //nolint:containedctx // it is a context

	deadline time.Time
}

func (p patientContext) Deadline() (time.Time, bool) { return p.deadline, true }

// patient returns ctx so that the in-process connection waits for the answer a little
// longer than the deadline. The interceptors keep the deadline, and they alone know
// whether anything was done before its end.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(0, time.Until(end))+patience)
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) { // the client has left
			cancel()
		}
	})
	return patientContext{longer, end}, func() { stop(); cancel() }
}

// complete reads into a message what of the request grpc-gateway does not read: the
// body, the query and the idempotency key. It returns what is wrong with them.
func complete(req any, r *request) error {
	switch req := req.(type) {
	case *teamtokenv1.GenerateTokenRequest:
		req.RequestId = requestID(r.Request)
		req.ExpectedTokenId = r.URL.Query().Get(expectedTokenID)
		return cmp.Or(rejectUnknownQuery(r, expectedTokenID), readBody(r.body, req))
	case *teamtokenv1.DeleteTokenRequest:
		if err := cmp.Or(rejectUnknownQuery(r, expectedTokenID, allowMissing), noBody(r)); err != nil {
			return err
		}
		req.ExpectedTokenId = r.URL.Query().Get(expectedTokenID)
		if value := r.URL.Query().Get(allowMissing); value != "" {
			var err error
			if req.AllowMissing, err = strconv.ParseBool(value); err != nil {
				return refused(apierror.Violation{Field: allowMissing, Description: "must be true or false"})
			}
		}
	case *teamtokenv1.CreateNamedTokenRequest:
		req.RequestId = requestID(r.Request)
		return cmp.Or(rejectUnknownQuery(r), readBody(r.body, req))
	case *teamtokenv1.DeleteTokenByIDRequest:
		return cmp.Or(rejectUnknownQuery(r), noBody(r))
	case *teamtokenv1.ListTokensRequest:
		return bindList(req, r)
	}
	return nil
}

// noBody refuses a deletion whose body says something: a guard that stands there, and not
// in the query, would be none. Some clients send an empty document.
func noBody(r *request) error {
	switch string(bytes.TrimSpace(r.body)) {
	case "", "{}", "null":
		return nil
	default:
		return refused(apierror.Violation{Description: "a deletion has no body: what it depends on stands in the query"})
	}
}

// readBody reads the body into a message.
func readBody(body []byte, req any) error {
	if err := (marshaler{}).Unmarshal(body, req); err != nil {
		return refused(apierror.Violation{Description: err.Error()})
	}
	return nil
}

// The query's names for the guards of a change, which are the fields'.
const (
	expectedTokenID = "expected_token_id"
	allowMissing    = "allow_missing"
)

// noQueryParser leaves the query alone: grpc-gateway would put a parameter into any
// field of its name, where the upstream has other names, and answers a bad value
// with words of its own. What is read of a query is read in this file.
type noQueryParser struct{}

func (noQueryParser) Parse(proto.Message, url.Values, *utilities.DoubleArray) error { return nil }

// refused is the error of a change that is not made.
func refused(v ...apierror.Violation) error {
	return &apierror.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Outcome: apierror.NotApplied, Violations: v,
	}
}

// rejectUnknownQuery refuses a change whose query holds anything but one value of each of
// names: a guard that is misspelt, or empty, would be no guard.
func rejectUnknownQuery(r *request, names ...string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	description := ""
	for name, values := range r.URL.Query() { // check has seen that it is well-formed
		switch {
		case !slices.Contains(names, name):
			description = "the query may hold " + cmp.Or(strings.Join(names, " and "), "nothing") + " here"
		case len(values) != 1 || values[0] == "":
			description = "the query's parameters must have one value each"
		}
	}
	if description == "" {
		return nil
	}
	return refused(apierror.Violation{Description: description})
}

// requestID is the Idempotency-Key, without the quotes that a string has in a
// structured field (RFC 9651), as the IETF's draft has the key: both forms are the
// same key. An escape stays, and is refused: no key needs one. A key that is empty
// is not taken for absent.
func requestID(r *http.Request) string {
	values := r.Header.Values(idempotencyKey)
	if len(values) == 0 {
		return ""
	}
	key := values[0]
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	return cmp.Or(key, "(empty)")
}

// bindList reads the query as the upstream has it, and nothing else of it.
func bindList(req *teamtokenv1.ListTokensRequest, r *request) error {
	query := r.URL.Query()
	req.Query, req.Sort, req.ExpiryStatus = query.Get("q"), query.Get("sort"), nil
	if status := query.Get("filter[expiry_status]"); status != "" {
		req.ExpiryStatus = strings.Split(status, ",")
	}
	var violations []apierror.Violation
	size, err := strconv.ParseInt(query.Get(pageSize), 10, 32)
	if query.Get(pageSize) == "" {
		size, err = page.DefaultSize, nil
	}
	if err != nil || size < 1 || size > page.MaxSize {
		violations = append(violations, apierror.Violation{
			Field: "page_size", Description: fmt.Sprintf("must be a number from 1 to %d", page.MaxSize),
		})
	}
	number, err := page.Number(query.Get(pageNumber))
	if err != nil {
		violations = append(violations, apierror.Violation{Field: "page_token", Description: err.Error()})
	}
	if violations != nil {
		return &apierror.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Violations: violations}
	}
	req.PageSize = int32(size)
	req.PageToken = page.Page{Number: number, Size: int(size)}.Token()
	return nil
}

// The query's names for a page.
const (
	pageNumber = "page[number]"
	pageSize   = "page[size]"
)
