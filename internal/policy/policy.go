// Package policy decides who may do what, by a file that only allows: what no rule
// of it allows is denied, and so is a method that no table here knows.
package policy

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// resourceKind is what a method is about, by which rules let it through.
type resourceKind int

const (
	byTeam         resourceKind = iota // the request names it
	teamOfToken                        // known once the token has been read
	byOrganization                     // the request names it
)

// methodResources is every method. A new one is denied until it stands here.
var methodResources = map[string]resourceKind{
	"GenerateToken":    byTeam,
	"DeleteToken":      byTeam,
	"GetToken":         byTeam,
	"CreateNamedToken": byTeam,
	"GetTokenByID":     teamOfToken,
	"DeleteTokenByID":  teamOfToken,
	"ListTokens":       byOrganization,
}

// Request is what is to be decided.
type Request struct {
	Caller             caller.Caller
	Method             string
	Team, Organization string
	Now                time.Time
}

// Decision is the answer. The zero value is no.
type Decision struct {
	Allowed bool
	// Rule is the name of the rule that decided; empty if none did.
	Rule string
	// Pending is of a call that names a token by its id: some rule may allow it once
	// the token's team is known. Ask again, with that.
	Pending bool
	// Err is of a condition that could not be evaluated, so that its rule is none.
	Err error
}

// Policy is a file that was parsed. It does not change, and is safe for concurrent use.
type Policy struct {
	rules    []rule
	byMethod map[string][]*rule
}

// Rules is how many there are.
func (p *Policy) Rules() int { return len(p.rules) }

// Issuers are those of callers by JWT that rules name, as patterns. Whether one is
// believed is not the file's to say.
func (p *Policy) Issuers() []string {
	var all []string
	for _, rule := range p.rules {
		for _, pattern := range rule.callers.texts {
			if issuer, _, byJWT := strings.Cut(pattern, "#"); byJWT && !slices.Contains(all, issuer) {
				all = append(all, issuer)
			}
		}
	}
	return all
}

// Decide answers by the first rule that allows r.
func (p *Policy) Decide(r Request) Decision {
	var d Decision
	for _, rule := range p.byMethod[r.Method] {
		switch why, err := rule.check(r); {
		case why == matches:
			return Decision{Allowed: true, Rule: rule.name}
		case why == matchesSomeTeam:
			return Decision{Pending: true, Rule: ""}
		case err != nil && d.Err == nil:
			d.Err = err
		}
	}
	return d
}

// Methods are the names of those that a rule can allow.
func Methods() []string { return slices.Sorted(maps.Keys(methodResources)) }

// Known reports whether a rule can allow a method of this name.
func Known(method string) bool {
	_, ok := methodResources[method]
	return ok
}
