package gateway

import (
	"cmp"
	"context"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/page"
)

// withLinks makes the document of a list, which tells where in the list it is;
// other answers stay messages.
func (o Origins) withLinks(ctx context.Context, m proto.Message) (any, error) {
	resp, ok := m.(*teamtokenv1.ListTokensResponse)
	if !ok {
		return m, nil
	}
	r := requestOf(ctx)
	query := r.URL.Query()
	number, err := page.Number(query.Get(pageNumber))
	if err != nil {
		return nil, err // it was a good one on the way in
	}
	size, _ := strconv.Atoi(cmp.Or(query.Get(pageSize), strconv.Itoa(page.DefaultSize)))
	doc := jsonapi.NewList(number, size, int(resp.GetTotalSize()), resp.GetNextPageToken() != "",
		func(number int) string { return link(o.of(r), r, number, size) })
	for _, t := range resp.GetTeamTokens() {
		doc.Data = append(doc.Data, toResource(t, nil))
	}
	return doc, nil
}

// link is the request's own address, for another page. Without a host it is a path.
func link(at url.URL, r *request, number, size int) string {
	query := r.URL.Query()
	query.Set(pageNumber, strconv.Itoa(number))
	query.Set(pageSize, strconv.Itoa(size))
	if at.Host == "" {
		at.Scheme = ""
	}
	at.Path, at.RawQuery = at.Path+r.URL.Path, query.Encode()
	return at.String()
}
