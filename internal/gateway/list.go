package gateway

import (
	"cmp"
	"context"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/page"
)

// listDocument is a page of a list, with its members in the vendor's order.
type listDocument struct {
	Data  []resource `json:"data"`
	Links links      `json:"links"`
	Meta  struct {
		Pagination pagination `json:"pagination"`
	} `json:"meta"`
}

type links struct {
	Self  string  `json:"self"`
	First string  `json:"first"`
	Prev  *string `json:"prev"`
	Next  *string `json:"next"`
	Last  string  `json:"last"`
}

type pagination struct {
	CurrentPage int  `json:"current-page"`
	PageSize    int  `json:"page-size"`
	PrevPage    *int `json:"prev-page"`
	NextPage    *int `json:"next-page"`
	TotalPages  int  `json:"total-pages"`
	TotalCount  int  `json:"total-count"`
}

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
	total := int(resp.GetTotalSize())
	p := pagination{CurrentPage: number, PageSize: size, TotalPages: max(1, (total+size-1)/size), TotalCount: total}
	doc := listDocument{Data: make([]resource, len(resp.GetTeamTokens()))}
	link := func(number int) string { return link(o.of(r), r, number, size) }
	doc.Links = links{Self: link(number), First: link(1), Last: link(p.TotalPages)}
	if number > 1 {
		p.PrevPage, doc.Links.Prev = new(number-1), new(link(number-1))
	}
	if resp.GetNextPageToken() != "" {
		p.NextPage, doc.Links.Next = new(number+1), new(link(number+1))
	}
	doc.Meta.Pagination = p
	for i, t := range resp.GetTeamTokens() {
		doc.Data[i] = toResource(t, nil)
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
