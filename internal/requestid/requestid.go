// Package requestid gives each call the id by which its traces in answers, logs
// and the upstream's own records are found. It is for people: what makes a call
// safe to repeat is the request message's own `request_id`.
package requestid

import "crypto/rand"

// Header carries the id, in HTTP headers and, in lower case, in gRPC metadata.
const Header = "x-request-id"

const maxLength = 128

// New makes a fresh id of 26 letters and digits.
func New() string { return rand.Text() }

// Valid reports whether s is 1 to 128 of letters, digits and `._:-`: what is
// taken over from a caller, and safe to write anywhere.
func Valid(s string) bool {
	if s == "" || len(s) > maxLength {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}
