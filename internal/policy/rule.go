package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// rule allows its callers its methods on its teams and organizations, while its
// condition holds.
type rule struct {
	name          string
	callers       patterns
	methods       map[string]bool
	teams         patterns
	organizations patterns
	condition     *condition
}

// matchResult is why a rule lets a request through, or not.
type matchResult string

const (
	matches         matchResult = "it allows this"
	matchesSomeTeam matchResult = "it may allow this, by the team of the token"
	otherCaller     matchResult = "it is for other callers"
	otherMethod     matchResult = "it is for other methods"
	otherTeam       matchResult = "it is for other teams"
	otherOrg        matchResult = "it is for other organizations"
	unmet           matchResult = "its condition does not hold"
	failed          matchResult = "its condition could not be evaluated"
)

// check says whether the rule allows r. The condition comes last, as it costs most.
func (u *rule) check(r Request) (matchResult, error) {
	how, known := methodResources[r.Method]
	someTeam := how == teamOfToken && r.Team == ""
	switch {
	case !known || !u.methods[r.Method]:
		return otherMethod, nil
	case !u.callers.match(r.Caller.ID):
		return otherCaller, nil
	case how == byOrganization && !u.organizations.match(r.Organization):
		return otherOrg, nil
	case how != byOrganization && u.teams.none():
		return otherTeam, nil
	case how != byOrganization && !someTeam && !u.teams.match(r.Team):
		return otherTeam, nil
	}
	if u.condition != nil && (!someTeam || !u.condition.namesTeam) {
		holds, err := u.condition.holds(r)
		switch {
		case err != nil:
			return failed, fmt.Errorf("condition of rule %q: %w", u.name, err)
		case !holds:
			return unmet, nil
		}
	}
	if someTeam {
		return matchesSomeTeam, nil
	}
	return matches, nil
}

// RuleExplanation is why a rule decides a request, or does not.
type RuleExplanation struct {
	Rule    string
	Allows  bool // it, or one before it, is what decides
	Pending bool // it may allow it, by the team of the token
	Why     string
}

// Explain says of each rule, in order, why it lets r through or not. The first
// that does is the one that decides.
func (p *Policy) Explain(r Request) []RuleExplanation {
	all := make([]RuleExplanation, 0, len(p.rules))
	for i := range p.rules {
		why, err := p.rules[i].check(r)
		v := RuleExplanation{Rule: p.rules[i].name, Allows: why == matches, Pending: why == matchesSomeTeam, Why: string(why)}
		if e := new(evaluation); errors.As(err, &e) {
			v.Why += ": " + e.kind
			if e.detail != "" {
				v.Why += " (" + visible(e.detail) + ")"
			}
		}
		all = append(all, v)
	}
	return all
}

// visible is text with what could steer a terminal escaped.
func visible(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
