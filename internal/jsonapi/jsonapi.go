// Package jsonapi has the documents of the Team Token API, as the vendor's samples have
// them, to the order of their members. What reads a document and what it demands of
// one is for whoever reads.
package jsonapi

import "time"

// MediaType is that of all documents.
const MediaType = "application/vnd.api+json"

// The types of what documents are about.
const (
	Tokens        = "authentication-tokens"
	LegacyToken   = "authentication-token" // what the vendor's documentation asks for on the legacy token
	Teams         = "teams"
	Users         = "users"
	Organizations = "organizations"
)

// Identifier names a resource.
type Identifier struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// Relation is to one other resource.
type Relation struct {
	Data Identifier `json:"data"`
}

// Relationships are those of a token. A zero one is left out.
type Relationships struct {
	Team      Relation `json:"team,omitzero"`
	CreatedBy Relation `json:"created-by,omitzero"`
}

// Resource is a token, or what else has attributes.
type Resource[Attributes any] struct {
	ID            string        `json:"id"`
	Type          string        `json:"type"`
	Attributes    Attributes    `json:"attributes"`
	Relationships Relationships `json:"relationships,omitzero"`
}

// Token are the attributes of a token, as they are written.
type Token struct {
	CreatedAt   *string `json:"created-at"`
	LastUsedAt  *string `json:"last-used-at"`
	ExpiredAt   any     `json:"expired-at,omitempty"` // a *string, nil for a token that never expires; left out without one
	Description *string `json:"description"`
	Token       *string `json:"token"`
}

// Document is about one thing.
type Document[Data any] struct {
	Data Data `json:"data"`
}

// Date is a time as the vendor writes it, whose clients want milliseconds and Z for
// UTC. One that is finer keeps its digits.
func Date(t time.Time) *string {
	if t = t.UTC(); t.Nanosecond()%int(time.Millisecond) != 0 {
		return new(t.Format(time.RFC3339Nano))
	}
	return new(t.Format("2006-01-02T15:04:05.000Z"))
}

// List is a page of tokens.
type List struct {
	Data  []Resource[Token] `json:"data"`
	Links struct {
		Self  string  `json:"self"`
		First string  `json:"first"`
		Prev  *string `json:"prev"`
		Next  *string `json:"next"`
		Last  string  `json:"last"`
	} `json:"links"`
	Meta struct {
		Pagination Pagination `json:"pagination"`
	} `json:"meta"`
}

// Pagination is where in a list a page is.
type Pagination struct {
	CurrentPage int  `json:"current-page"`
	PageSize    int  `json:"page-size"`
	PrevPage    *int `json:"prev-page"`
	NextPage    *int `json:"next-page"`
	TotalPages  int  `json:"total-pages"` // at least 1
	TotalCount  int  `json:"total-count"`
}

// NewList is the page of a number, without its data, of so many tokens in all. more
// says that there is a next one; link is the address of another page.
func NewList(number, size, total int, more bool, link func(number int) string) List {
	p := Pagination{CurrentPage: number, PageSize: size, TotalPages: max(1, (total+size-1)/size), TotalCount: total}
	l := List{Data: []Resource[Token]{}}
	l.Links.Self, l.Links.First, l.Links.Last = link(number), link(1), link(p.TotalPages)
	if number > 1 {
		p.PrevPage, l.Links.Prev = new(number-1), new(link(number-1))
	}
	if more {
		p.NextPage, l.Links.Next = new(number+1), new(link(number+1))
	}
	l.Meta.Pagination = p
	return l
}
