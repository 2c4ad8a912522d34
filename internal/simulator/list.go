package simulator

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// sorts are the orders of a list. A token without the date sorts last.
var sorts = map[string]func(a, b *token) int{
	"team-name":    func(a, b *token) int { return cmp.Compare(a.team.Name, b.team.Name) },
	"created-by":   func(a, b *token) int { return cmp.Compare(a.createdBy.ID, b.createdBy.ID) },
	"expired-at":   func(a, b *token) int { return compareDates(a.expiredAt, b.expiredAt) },
	"last-used-at": func(a, b *token) int { return compareDates(a.lastUsedAt, b.lastUsedAt) },
}

func compareDates(a, b *time.Time) int {
	switch {
	case a != nil && b != nil:
		return a.Compare(*b)
	case a != nil:
		return -1
	case b != nil:
		return 1
	default:
		return 0
	}
}

const day = 24 * time.Hour

// statuses are the values of filter[expiry_status].
var statuses = map[string]func(t *token, now time.Time) bool{
	"active":              func(t *token, now time.Time) bool { return !t.expired(now) },
	"expired":             (*token).expired,
	"no_expiration":       func(t *token, _ time.Time) bool { return t.expiredAt == nil },
	"expiring_in_7_days":  func(t *token, now time.Time) bool { return t.expiresWithin(now, 7*day) },
	"expiring_in_30_days": func(t *token, now time.Time) bool { return t.expiresWithin(now, 30*day) },
}

func (t *token) expiresWithin(now time.Time, d time.Duration) bool {
	return t.expiredAt != nil && !t.expired(now) && !t.expiredAt.After(now.Add(d))
}

// list answers with the teams' tokens that exist, the expired among them, those
// that expire first at the head. Page numbers and sizes that make no sense are
// brought into range. The vendor does not say what becomes of an unknown order
// or status; here it is 400, which JSON:API demands for the former.
func (s *Simulator) list(c *call) answer {
	if c.id != Organization {
		return refusal(http.StatusNotFound)
	}
	query := c.URL.Query()
	order, descending := strings.CutPrefix(cmp.Or(query.Get("sort"), "expired-at"), "-")
	compare := sorts[order]
	if compare == nil {
		return refusal(http.StatusBadRequest)
	}
	var wantedStatuses []func(*token, time.Time) bool
	if filter := query.Get("filter[expiry_status]"); filter != "" {
		for name := range strings.SplitSeq(filter, ",") {
			status := statuses[name]
			if status == nil {
				return refusal(http.StatusBadRequest)
			}
			wantedStatuses = append(wantedStatuses, status)
		}
	}

	var found []*token
	for _, t := range s.organization.minted {
		hasStatus := func(status func(*token, time.Time) bool) bool { return status(t, c.now) }
		if !t.revoked &&
			strings.Contains(strings.ToLower(t.team.Name), strings.ToLower(query.Get("q"))) &&
			(wantedStatuses == nil || slices.ContainsFunc(wantedStatuses, hasStatus)) {
			found = append(found, t)
		}
	}
	slices.SortStableFunc(found, func(a, b *token) int {
		if descending {
			return compare(b, a)
		}
		return compare(a, b)
	})

	number, size := atLeastOne(query.Get("page[number]"), 1), min(atLeastOne(query.Get("page[size]"), 20), 100)
	list := jsonapi.NewList(number, size, len(found), number*size < len(found), func(number int) string { return c.page(number, size) })
	if start := (number - 1) * size; start < len(found) {
		for _, t := range found[start:min(start+size, len(found))] {
			list.Data = append(list.Data, t.object())
		}
	}
	return document(http.StatusOK, list)
}

func atLeastOne(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// page is the call's own address, for another page.
func (c *call) page(number, size int) string {
	u := url.URL{Scheme: "http", Host: c.Host, Path: c.URL.Path}
	if c.TLS != nil {
		u.Scheme = "https"
	}
	query := c.URL.Query()
	query.Set("page[number]", strconv.Itoa(number))
	query.Set("page[size]", strconv.Itoa(size))
	u.RawQuery = query.Encode()
	return u.String()
}
