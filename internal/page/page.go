// Package page makes and reads the page tokens of lists: opaque to callers of
// gRPC, and what the REST surface makes of a page's number.
package page

import (
	"encoding/base64"
	"fmt"
	"strconv"
)

// Sizes of a page.
const (
	DefaultSize = 20
	MaxSize     = 100
)

// maxNumber is far over what an organization can have, and keeps every
// calculation with it within an int32.
const maxNumber = 1_000_000

// Page is a page of a list, from 1.
type Page struct{ Number, Size int }

// Token returns the token that asks for the page.
func (p Page) Token() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "1.%d.%d", p.Number, p.Size))
}

// Parse reads a token; the empty one is the first page's. It is an error if the
// token is none, or of pages of another size: its page would begin elsewhere.
func Parse(token string, size int) (Page, error) {
	p := Page{1, size}
	if token == "" {
		return p, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		_, err = fmt.Sscanf(string(b), "1.%d.%d", &p.Number, &p.Size)
	}
	if err != nil || p.Token() != token || p.Number < 1 || p.Number > maxNumber || p.Size != size {
		return Page{}, fmt.Errorf("must be a next_page_token, with the same page_size %d", size)
	}
	return p, nil
}

// Number reads a page's number as REST has it; the empty one is 1.
func Number(s string) (int, error) {
	if s == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxNumber {
		return 0, fmt.Errorf("must be a number from 1 to %d", maxNumber)
	}
	return n, nil
}
