package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/page"
	"github.com/teamtoken/teamtoken/internal/reason"
)

type requestKey struct{}

func withRequest(r *http.Request) context.Context {
	return context.WithValue(r.Context(), requestKey{}, r)
}

// requestOf is the HTTP request behind a call.
func requestOf(ctx context.Context) *http.Request {
	r, _ := ctx.Value(requestKey{}).(*http.Request)
	return r
}

// completed puts into a message what stands elsewhere in REST than grpc-gateway
// can be told of. The service checks it there like all else.
type completed struct{ grpc.ClientConnInterface }

func (c completed) Invoke(ctx context.Context, method string, req, resp any, opts ...grpc.CallOption) error {
	r := requestOf(ctx)
	switch req := req.(type) {
	case *teamtokenv1.GenerateTokenRequest:
		req.RequestId = requestID(r)
		req.ExpectedTokenId = r.URL.Query().Get(expectedTokenID)
		if err := only(r, expectedTokenID); err != nil {
			return err
		}
	case *teamtokenv1.DeleteTokenRequest:
		if err := only(r, expectedTokenID, allowMissing); err != nil {
			return err
		}
		req.ExpectedTokenId = r.URL.Query().Get(expectedTokenID)
		if value := r.URL.Query().Get(allowMissing); value != "" {
			var err error
			if req.AllowMissing, err = strconv.ParseBool(value); err != nil {
				return refused(reason.Violation{Field: allowMissing, Description: "must be true or false"})
			}
		}
	case *teamtokenv1.CreateNamedTokenRequest:
		req.RequestId = requestID(r)
		if err := only(r); err != nil {
			return err
		}
	case *teamtokenv1.DeleteTokenByIDRequest:
		if err := only(r); err != nil {
			return err
		}
	case *teamtokenv1.ListTokensRequest:
		if err := list(req, r); err != nil {
			return err
		}
	}
	return c.ClientConnInterface.Invoke(ctx, method, req, resp, opts...)
}

// The query's names for the guards of a change, which are the fields'.
const (
	expectedTokenID = "expected_token_id"
	allowMissing    = "allow_missing"
)

// ignored leaves the query alone: grpc-gateway would put a parameter into any
// field of its name, where the upstream has other names, and answers a bad value
// with words of its own. What is read of a query is read in this file.
type ignored struct{}

func (ignored) Parse(proto.Message, url.Values, *utilities.DoubleArray) error { return nil }

// refused is the error of a change that is not made.
func refused(v ...reason.Violation) error {
	return &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Outcome: reason.NotApplied, Violations: v,
	}
}

// only refuses a change whose query holds anything but one value of each of
// names: a guard that is misspelt, or empty, would be no guard.
func only(r *http.Request, names ...string) error {
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
	return refused(reason.Violation{Description: description})
}

// requestID is the Idempotency-Key. One that is empty is not taken for absent.
func requestID(r *http.Request) string {
	values := r.Header.Values(idempotencyKey)
	switch {
	case len(values) == 0:
		return ""
	case values[0] == "":
		return "(empty)"
	default:
		return values[0]
	}
}

// list reads the query as the upstream has it, and nothing else of it.
func list(req *teamtokenv1.ListTokensRequest, r *http.Request) error {
	query := r.URL.Query()
	req.Query, req.Sort, req.ExpiryStatus = query.Get("q"), query.Get("sort"), nil
	if status := query.Get("filter[expiry_status]"); status != "" {
		req.ExpiryStatus = strings.Split(status, ",")
	}
	var violations []reason.Violation
	size, err := strconv.ParseInt(query.Get(pageSize), 10, 32)
	if query.Get(pageSize) == "" {
		size, err = page.DefaultSize, nil
	}
	if err != nil || size < 1 || size > page.MaxSize {
		violations = append(violations, reason.Violation{
			Field: "page_size", Description: fmt.Sprintf("must be a number from 1 to %d", page.MaxSize),
		})
	}
	number, err := page.Number(query.Get(pageNumber))
	if err != nil {
		violations = append(violations, reason.Violation{Field: "page_token", Description: err.Error()})
	}
	if violations != nil {
		return &reason.Error{Reason: teamtokenv1.ErrorReason_ERROR_REASON_INVALID_FIELD, Violations: violations}
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
