package policy

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/cel"
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

// verdict is why a rule lets a request through, or not.
type verdict string

const (
	matches         verdict = "it allows this"
	matchesSomeTeam verdict = "it may allow this, by the team of the token"
	otherCaller     verdict = "it is for other callers"
	otherMethod     verdict = "it is for other methods"
	otherTeam       verdict = "it is for other teams"
	otherOrg        verdict = "it is for other organizations"
	unmet           verdict = "its condition does not hold"
	failed          verdict = "its condition could not be evaluated"
)

// check says whether the rule allows r. The condition comes last, as it costs most.
func (u *rule) check(r Request) (verdict, error) {
	how, known := scopes[r.Method]
	someTeam := how == byTokensTeam && r.Team == ""
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

// condition is a CEL expression that was compiled.
type condition struct {
	program   cel.Program
	namesTeam bool
}

// maxCost bounds the work of one condition, in CEL's own unit: far over what any
// that a person writes needs, far under what a call takes.
const maxCost = 10_000

// environment is what a condition can speak of.
var environment = func() *cel.Env {
	env, err := cel.NewEnv(
		cel.Variable("caller", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("method", cel.StringType),
		cel.Variable("team", cel.StringType),
		cel.Variable("organization", cel.StringType),
		cel.Variable("now", cel.TimestampType),
	)
	if err != nil {
		panic(err) // these declarations do not change
	}
	return env
}()

var errNoBool = errors.New("it must be true or false, not something else")

func compile(text string) (*condition, error) {
	ast, issues := environment.Compile(text)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, errNoBool
	}
	program, err := environment.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	c := &condition{program: program}
	for _, reference := range ast.NativeRep().ReferenceMap() {
		c.namesTeam = c.namesTeam || reference.Name == "team"
	}
	return c, nil
}

func (c *condition) holds(r Request) (bool, error) {
	claims := r.Caller.Claims
	if claims == nil {
		claims = map[string]any{}
	}
	value, _, err := c.program.Eval(map[string]any{
		"caller": map[string]any{
			"id": r.Caller.ID, "verified_by": string(r.Caller.VerifiedBy), "claims": claims,
		},
		"method": r.Method, "team": r.Team, "organization": r.Organization, "now": r.Now,
	})
	if err != nil {
		return false, err
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, errNoBool
	}
	return holds, nil
}

// Verdict is why a rule decides a request, or does not.
type Verdict struct {
	Rule    string
	Allows  bool // it, or one before it, is what decides
	Pending bool // it may allow it, by the team of the token
	Why     string
}

// Explain says of each rule, in order, why it lets r through or not. The first
// that does is the one that decides.
func (p *Policy) Explain(r Request) []Verdict {
	all := make([]Verdict, 0, len(p.rules))
	for i := range p.rules {
		why, err := p.rules[i].check(r)
		v := Verdict{Rule: p.rules[i].name, Allows: why == matches, Pending: why == matchesSomeTeam, Why: string(why)}
		if err != nil {
			v.Why += ": " + errors.Unwrap(err).Error()
		}
		all = append(all, v)
	}
	return all
}
