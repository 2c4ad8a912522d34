package upstream

import (
	"errors"
	"regexp"
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

var (
	teamID       = regexp.MustCompile(`\Ateam-[A-Za-z0-9]{16}\z`)
	tokenID      = regexp.MustCompile(`\A[A-Za-z0-9-]{1,64}\z`)
	organization = regexp.MustCompile(`\A[A-Za-z0-9_-]{1,40}\z`)
)

// ParseTeamID returns the id that s is, or ErrTeamID.
func ParseTeamID(s string) (TeamID, error) {
	if !teamID.MatchString(s) {
		return TeamID{}, ErrTeamID
	}
	return TeamID{s}, nil
}

// ParseTokenID returns the id that s is, or ErrTokenID.
func ParseTokenID(s string) (TokenID, error) {
	if !tokenID.MatchString(s) {
		return TokenID{}, ErrTokenID
	}
	return TokenID{s}, nil
}

// ParseOrganization returns the name that s is, or ErrOrganization.
func ParseOrganization(s string) (Organization, error) {
	if !organization.MatchString(s) {
		return Organization{}, ErrOrganization
	}
	return Organization{s}, nil
}

func (t TeamID) String() string  { return t.id }
func (t TokenID) String() string { return t.id }
