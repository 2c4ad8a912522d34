package service

import (
	"context"
	"fmt"
	"strings"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/page"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// What ListTokens can be asked for, in the upstream's words.
var (
	sorts    = []string{"team-name", "created-by", "expired-at", "last-used-at"}
	statuses = []string{"active", "expiring_in_7_days", "expiring_in_30_days", "expired", "no_expiration"}
)

// ListTokens describes a page of the tokens of an organization's teams.
func (s *Service) ListTokens(
	ctx context.Context, req *teamtokenv1.ListTokensRequest,
) (*teamtokenv1.ListTokensResponse, error) {
	var v violations
	organization := v.organization("organization", req.GetOrganization())
	if len(req.GetQuery()) > maxQuery {
		v.add("query", fmt.Sprintf("must not be longer than %d bytes", maxQuery))
	}
	if order, _ := strings.CutPrefix(req.GetSort(), "-"); req.GetSort() != "" {
		v.oneOf("sort", order, sorts)
	}
	for _, status := range req.GetExpiryStatus() {
		v.oneOf("expiry_status", status, statuses)
	}
	at := v.page(req)
	if err := v.err(outcome.ReadOrganization); err != nil {
		return nil, err
	}
	found, err := s.upstream.ListTokens(ctx, organization, upstream.ListOptions{
		Query: req.GetQuery(), Sort: req.GetSort(), ExpiryStatus: req.GetExpiryStatus(), Page: at.Number, Size: at.Size,
	})
	if err != nil {
		return nil, outcome.Error(ctx, err, outcome.ReadOrganization)
	}
	resp := &teamtokenv1.ListTokensResponse{TotalSize: int32(min(found.Total, 1<<31-1))} //nolint:gosec // as bounded
	for _, token := range found.Tokens {
		resp.TeamTokens = append(resp.TeamTokens, toProto(token))
	}
	if found.Next > 0 {
		resp.NextPageToken = page.Page{Number: found.Next, Size: at.Size}.Token()
	}
	return resp, nil
}

// page is the page asked for.
func (v *violations) page(req *teamtokenv1.ListTokensRequest) page.Page {
	size := int(req.GetPageSize())
	switch {
	case size == 0:
		size = page.DefaultSize
	case size < 0 || size > page.MaxSize:
		v.add("page_size", fmt.Sprintf("must be 1 to %d, or 0 for %d", page.MaxSize, page.DefaultSize))
		return page.Page{}
	}
	at, err := page.Parse(req.GetPageToken(), size)
	if err != nil {
		v.add("page_token", err.Error())
	}
	return at
}
