package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxCondition is how many characters a condition may have.
const maxCondition = 4 << 10

// maxPattern is longer than any id.
const maxPattern = 4 << 10

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// Parse reads a policy file. Its error names every line that is wrong, in their
// order: an unknown key or method, a rule or pattern that can allow nothing, a
// condition that is not one.
func Parse(file []byte) (*Policy, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	var document, next yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, errNoRules
	} else if err != nil {
		return nil, err
	}
	if decoder.Decode(&next) != io.EOF { //nolint:errorlint // as documented
		return nil, errors.New("there is more than one document in it")
	}
	var p parser
	p.document(document.Content[0])
	if err := p.err(); err != nil {
		return nil, err
	}
	policy := &Policy{rules: p.rules, byMethod: make(map[string][]*rule)}
	for i := range policy.rules {
		for method := range policy.rules[i].methods {
			policy.byMethod[method] = append(policy.byMethod[method], &policy.rules[i])
		}
	}
	return policy, nil
}

var errNoRules = errors.New("there are no rules in it, so that nobody could do anything: to have it so, allow a caller who is not there")

// parser collects all that is wrong.
type parser struct {
	rules    []rule
	findings []finding
}

// finding is what is wrong at a place of the file.
type finding struct {
	line, column int
	text         string
}

func (p *parser) refuse(at *yaml.Node, format string, args ...any) {
	p.findings = append(p.findings, finding{at.Line, at.Column, fmt.Sprintf(format, args...)})
}

// err is all that was found, by its places.
func (p *parser) err() error {
	slices.SortStableFunc(p.findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	var all []error
	for _, f := range p.findings {
		all = append(all, fmt.Errorf("line %d: %s", f.line, f.text))
	}
	return errors.Join(all...)
}

// members are the values of a mapping by their keys, each of which is known and
// stands once.
func (p *parser) members(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		p.refuse(n, "%s must be a mapping of %s", what, strings.Join(known, ", "))
		return nil
	}
	found := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case !slices.Contains(known, key.Value):
			p.refuse(key, "unknown key %q in %s, which may have %s", key.Value, what, strings.Join(known, ", "))
		case found[key.Value] != nil:
			p.refuse(key, "%q stands a second time", key.Value)
		default:
			found[key.Value] = n.Content[i+1]
		}
	}
	return found
}

func (p *parser) document(n *yaml.Node) {
	top := p.members(n, "the file", "rules")
	list := top["rules"]
	switch {
	case top == nil:
	case list == nil, list.Kind == yaml.SequenceNode && len(list.Content) == 0:
		p.refuse(n, "%v", errNoRules)
	case list.Kind != yaml.SequenceNode:
		p.refuse(list, "rules must be a list")
	default:
		names := make(map[string]bool)
		for _, item := range list.Content {
			p.rule(item, names)
		}
	}
}

func (p *parser) rule(n *yaml.Node, names map[string]bool) {
	has := p.members(n, "a rule", "name", "callers", "methods", "teams", "organizations", "condition")
	if has == nil {
		return
	}
	var r rule
	for _, needed := range []string{"name", "callers", "methods"} {
		if has[needed] == nil {
			p.refuse(n, "a rule needs %s", needed)
		}
	}
	if name := has["name"]; name != nil {
		r.name = p.text(name, "name")
		switch {
		case !ruleName.MatchString(r.name):
			p.refuse(name, "a rule's name must be 1 to 64 of a-z, 0-9 and -, and not begin with -")
		case names[r.name]:
			p.refuse(name, "another rule has the name %q: the audit log tells them apart by it", r.name)
		}
		names[r.name] = true
	}
	r.callers = newPatterns(p.list(has["callers"], "callers", badCaller))
	r.teams = newPatterns(p.list(has["teams"], "teams", badTeam))
	r.organizations = newPatterns(p.list(has["organizations"], "organizations", badOrganization))
	r.methods = p.methods(has["methods"])
	p.scope(n, &r, has)
	if text := has["condition"]; text != nil {
		r.condition = p.condition(text)
		p.subject(text, &r)
	}
	p.rules = append(p.rules, r)
}

func (p *parser) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		p.refuse(n, "%s must be a text", what)
		return ""
	}
	return n.Value
}

// list is a list of one or more texts. bad says why one can't stand there, if it can't.
func (p *parser) list(n *yaml.Node, what string, bad func(string) string) []string {
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode || len(n.Content) == 0:
		p.refuse(n, "%s must be a list of one or more", what)
		return nil
	}
	var texts []string
	for _, item := range n.Content {
		text := p.text(item, "each of "+what)
		switch {
		case text == "":
			continue // as was told
		case len(text) > maxPattern:
			p.refuse(item, "one of %s is longer than %d characters", what, maxPattern)
			continue
		case bad != nil:
			if why := bad(text); why != "" {
				p.refuse(item, "%q in %s can match nothing: %s", text, what, why)
				continue
			}
		}
		texts = append(texts, text)
	}
	return texts
}

func (p *parser) methods(n *yaml.Node) map[string]bool {
	known := Methods()
	methods := make(map[string]bool)
	if len(p.list(n, "methods", nil)) == 0 {
		return methods
	}
	for _, at := range n.Content {
		switch method := at.Value; {
		case at.Kind != yaml.ScalarNode || method == "" || at.Tag == "!!null": // as was told
		case method == everything:
			for _, each := range known {
				methods[each] = true
			}
		case !Known(method):
			p.refuse(at, "there is no method %q: there are %s, and \"*\" for all", method, strings.Join(known, ", "))
		case methods[method]:
			p.refuse(at, "the method %q is listed twice", method)
		default:
			methods[method] = true
		}
	}
	return methods
}

// everything stands for all methods.
const everything = "*"

// scope checks that a rule has what its methods go by, and nothing else. By "*" it
// has those methods that it has a scope for.
func (p *parser) scope(n *yaml.Node, r *rule, has map[string]*yaml.Node) {
	if len(r.methods) == 0 {
		return
	}
	teams, organizations := false, false
	for method := range r.methods {
		teams = teams || methodResources[method] != byOrganization
		organizations = organizations || methodResources[method] == byOrganization
	}
	all := teams && organizations
	switch {
	case all && has["teams"] == nil && has["organizations"] == nil:
		p.refuse(n, "the rule needs teams, or organizations for ListTokens, or both: it allows nothing")
	case !all && teams && has["teams"] == nil:
		p.refuse(n, "the rule needs teams: its methods go by them, and so it allows nothing")
	case !all && organizations && has["organizations"] == nil:
		p.refuse(n, "the rule needs organizations: ListTokens goes by them, and so it allows nothing")
	case !teams && has["teams"] != nil:
		p.refuse(has["teams"], "none of the rule's methods goes by teams: leave them out")
	case !organizations && has["organizations"] != nil:
		p.refuse(has["organizations"], "none of the rule's methods goes by organizations, as ListTokens does: leave them out")
	}
	listed := has["methods"].Content
	if !all || has["teams"] == nil && has["organizations"] == nil ||
		slices.ContainsFunc(listed, func(m *yaml.Node) bool { return m.Value == everything }) {
		return
	}
	for _, method := range listed {
		how, known := methodResources[method.Value]
		switch {
		case !known:
		case how == byOrganization && has["organizations"] == nil:
			p.refuse(method, "%s goes by organizations, and the rule has none, so that it does not allow it: add them, or leave it out", method.Value)
		case how != byOrganization && has["teams"] == nil:
			p.refuse(method, "%s goes by teams, and the rule has none, so that it does not allow it: add them, or leave it out", method.Value)
		}
	}
}

// subject checks that a condition speaks of what the rule's methods have: of others
// it is empty, and a condition that a team be another one than X would be true.
func (p *parser) subject(n *yaml.Node, r *rule) {
	if r.condition == nil || len(r.methods) == 0 {
		return
	}
	teams, organizations := false, false
	for method := range r.methods {
		teams = teams || methodResources[method] != byOrganization
		organizations = organizations || methodResources[method] == byOrganization
	}
	if r.condition.namesTeam && !teams {
		p.refuse(n, "the condition: team is empty for the rule's methods")
	}
	if r.condition.namesOrganization && !organizations {
		p.refuse(n, "the condition: organization is empty for the rule's methods, it is there for ListTokens")
	}
}

func (p *parser) condition(n *yaml.Node) *condition {
	text := p.text(n, "condition")
	switch {
	case text == "":
		return nil
	case len(text) > maxCondition:
		p.refuse(n, "the condition is longer than %d characters", maxCondition)
		return nil
	}
	c, slips := compile(text)
	for _, s := range slips {
		at := *n
		switch {
		case n.Style&yaml.LiteralStyle != 0: // whose lines begin under its `|`
			at.Line += s.line
		case n.Style&yaml.FoldedStyle != 0:
			at.Line++
		}
		p.refuse(&at, "the condition: %s", s.what)
	}
	return c
}
