package upstream

import (
	"errors"
	"strings"
)

// TeamID is a well-formed team id, `team-` and 16 letters and digits. Only
// ParseTeamID makes one, so that one can stand in a path as it is.
type TeamID struct{ id string }

// TokenID is a well-formed token id, 1 to 64 letters, digits and hyphens:
// `at-…` and digits alone on HCP Terraform, `tt-…` elsewhere.
type TokenID struct{ id string }

// Organization is a well-formed name of an organization, 1 to 40 letters,
// digits, `_` and `-`.
type Organization struct{ name string }

// What is wrong with a malformed id, in words for the caller.
var (
	ErrTeamID       = errors.New("must be `team-` and 16 letters and digits")
	ErrTokenID      = errors.New("must be 1 to 64 letters, digits and hyphens")
	ErrOrganization = errors.New("must be 1 to 40 letters, digits, `_` and `-`")
)

const (
	teamPrefix     = "team-"
	teamIDLength   = len(teamPrefix) + 16
	maxTokenLength = 64
	maxNameLength  = 40
)

// ParseTeamID returns the id that s is, or ErrTeamID.
func ParseTeamID(s string) (TeamID, error) {
	if len(s) != teamIDLength || s[:len(teamPrefix)] != teamPrefix || !only(s[len(teamPrefix):], "") {
		return TeamID{}, ErrTeamID
	}
	return TeamID{s}, nil
}

// ParseTokenID returns the id that s is, or ErrTokenID.
func ParseTokenID(s string) (TokenID, error) {
	if s == "" || len(s) > maxTokenLength || !only(s, "-") {
		return TokenID{}, ErrTokenID
	}
	return TokenID{s}, nil
}

// ParseOrganization returns the name that s is, or ErrOrganization.
func ParseOrganization(s string) (Organization, error) {
	if s == "" || len(s) > maxNameLength || !only(s, "_-") {
		return Organization{}, ErrOrganization
	}
	return Organization{s}, nil
}

func (t TeamID) String() string  { return t.id }
func (t TokenID) String() string { return t.id }

// only reports whether s is made of ASCII letters, digits and the bytes of more.
func only(s, more string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		default:
			if strings.IndexByte(more, c) < 0 {
				return false
			}
		}
	}
	return true
}
