package policy

import (
	"fmt"
	"strings"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// language is a set of ids, as an automaton that reads one from the left: next is
// the state after c, below 0 if no id goes on so. The first state is 0.
type language struct {
	next    func(state int, c rune) int
	accepts func(state int) bool
}

// has reports whether id is one of the language.
func (l language) has(id string) bool {
	state := 0
	for _, c := range id {
		if state = l.next(state, c); state < 0 {
			return false
		}
	}
	return l.accepts(state)
}

// matched reports whether a pattern can match an id of the language.
func (l language) matched(pattern string) bool {
	type at struct{ position, state int }
	runes := []rune(pattern)
	seen := map[at]bool{}
	open := []at{{0, 0}}
	add := func(position, state int) {
		if next := (at{position, state}); state >= 0 && !seen[next] {
			seen[next] = true
			open = append(open, next)
		}
	}
	for len(open) > 0 {
		here := open[len(open)-1]
		open = open[:len(open)-1]
		if here.position == len(runes) {
			if l.accepts(here.state) {
				return true
			}
			continue
		}
		if runes[here.position] != '*' {
			add(here.position+1, l.next(here.state, runes[here.position]))
			continue
		}
		after := here.position
		for after < len(runes) && runes[after] == '*' {
			after++
		}
		add(after, here.state)
		for c := ' '; c <= '~'; c++ {
			if c != '/' || after-here.position > 1 {
				add(here.position, l.next(here.state, c))
			}
		}
	}
	return false
}

const (
	teamPrefix = "team-"
	teamLength = len(teamPrefix) + 16
	maxName    = 40 // of an organization
	maxLabel   = 63 // of a DNS name
	spiffe     = "spiffe://"
)

func lower(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func alnum(c rune) bool { return lower(c) || c >= 'A' && c <= 'Z' }

func oneOf(yes bool, state int) int {
	if yes {
		return state
	}
	return -1
}

// teamIDs are `team-` and 16 letters and digits. A state is how many were read.
var teamIDs = language{
	next: func(state int, c rune) int {
		if state < len(teamPrefix) {
			return oneOf(c == rune(teamPrefix[state]), state+1)
		}
		return oneOf(state < teamLength && alnum(c), state+1)
	},
	accepts: func(state int) bool { return state == teamLength },
}

// organizationNames are 1 to 40 letters, digits, `_` and `-`.
var organizationNames = language{
	next: func(state int, c rune) int {
		return oneOf(state < maxName && (alnum(c) || c == '_' || c == '-'), state+1)
	},
	accepts: func(state int) bool { return state > 0 },
}

// dnsNames are as authentication gives them: labels in lower case. A state is twice
// the length of the label, and one more after a hyphen, which can't end it.
var dnsNames = language{
	next: func(state int, c rune) int {
		switch {
		case c == '.':
			return oneOf(state > 0 && state%2 == 0, 0)
		case state/2 == maxLabel:
			return -1
		case c == '-':
			return oneOf(state > 0, (state/2+1)*2+1)
		}
		return oneOf(lower(c) || c == '_', (state/2+1)*2)
	},
	accepts: func(state int) bool { return state > 0 && state%2 == 0 },
}

// The states of spiffeIDs after the scheme.
const (
	noDomain = len(spiffe) + iota
	domain
	noSegment
	segment
	oneDot
	twoDots
)

// spiffeIDs are those of workloads: they have a path, whose segments are not empty.
var spiffeIDs = language{
	next: func(state int, c rune) int {
		switch {
		case state < noDomain:
			return oneOf(c == rune(spiffe[state]), state+1)
		case state <= domain:
			if c == '/' {
				return oneOf(state == domain, noSegment)
			}
			return oneOf(lower(c) || strings.ContainsRune("._-", c), domain)
		case c == '/':
			return oneOf(state == segment, noSegment)
		case c == '.' && state == noSegment:
			return oneDot
		case c == '.' && state == oneDot:
			return twoDots
		}
		return oneOf(alnum(c) || strings.ContainsRune("._-", c), segment)
	},
	accepts: func(state int) bool { return state == segment },
}

// subjects are ISSUER#SUBJECT: an issuer has neither blanks nor `#`, a subject is
// anything that can be seen.
var subjects = language{
	next: func(state int, c rune) int {
		switch {
		case state < 2 && c == '#':
			return oneOf(state == 1, 2)
		case state < 2:
			return oneOf(c > ' ' && c <= '~', 1)
		}
		return oneOf(caller.PrintableRune(c), 3)
	},
	accepts: func(state int) bool { return state == 3 },
}

// badTeam is why a pattern can match no team; empty if it can.
func badTeam(pattern string) string {
	switch {
	case teamIDs.matched(pattern):
		return ""
	case teamIDs.matched(teamPrefix + pattern):
		return fmt.Sprintf("a team's id begins with %q", teamPrefix)
	}
	return "a team's id is `team-` and 16 letters and digits"
}

// badOrganization is why a pattern can match no organization; empty if it can.
func badOrganization(pattern string) string {
	if organizationNames.matched(pattern) {
		return ""
	}
	return "an organization's name is 1 to 40 letters, digits, `_` and `-`"
}

// badCaller is why a pattern can match no caller; empty if it can. Without a `#` or
// the scheme of an issuer it is not taken to mean callers by JWT: `*.Example.com`
// could match the subjects of some issuer, and is a slip.
func badCaller(pattern string) string {
	named := dnsNames.matched(pattern) && len(strings.ReplaceAll(pattern, "*", "")) <= 253 || spiffeIDs.matched(pattern)
	hash := strings.Contains(pattern, "#")
	issuer := strings.HasPrefix(pattern, "https://") || strings.HasPrefix(pattern, "http://")
	switch {
	case !caller.Printable(pattern):
		return "an id has no invisible characters and is in Unicode's form NFC"
	case named, (hash || issuer) && subjects.matched(pattern):
		return ""
	case hash:
		return "in ISSUER#SUBJECT neither part is empty, and the issuer has no blanks"
	case issuer:
		return "a caller by JWT is ISSUER#SUBJECT"
	case strings.HasPrefix(strings.ToLower(pattern), spiffe):
		return "the SPIFFE id of a workload is spiffe://DOMAIN/PATH, the domain in lower case, with no empty part in the path"
	case dnsNames.matched(strings.ToLower(pattern)):
		return "a DNS name of a caller is in lower case"
	}
	return "a caller is a SPIFFE id, a DNS name, or ISSUER#SUBJECT of a JWT"
}
