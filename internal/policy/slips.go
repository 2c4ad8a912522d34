package policy

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// slips are what CEL takes, and what can't be meant: a number that is held rounded,
// and a text that is compared with what it can never be.
func slips(checked *ast.AST, text string) []slip {
	f := &finder{text: []rune(text), source: checked.SourceInfo()}
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.LiteralKind:
			f.number(e)
		case ast.CallKind:
			f.call(e.AsCall())
		}
	}))
	if top := checked.Expr(); top.Kind() == ast.LiteralKind && top.AsLiteral() == types.False {
		f.refuse(top, "it is never true, so the rule allows nothing")
	}
	return f.slips
}

// finder collects slips.
type finder struct {
	text   []rune
	source *ast.SourceInfo
	slips  []slip
}

func (f *finder) refuse(e ast.Expr, format string, args ...any) {
	f.slips = append(f.slips, slip{max(1, f.source.GetStartLocation(e.ID()).Line()), fmt.Sprintf(format, args...)})
}

// number looks at a literal, which may be a number.
func (f *finder) number(e ast.Expr) {
	d, ok := e.AsLiteral().(types.Double)
	if !ok {
		return
	}
	at, _ := f.source.GetOffsetRange(e.ID())
	if written := numberAt(f.text, int(at.Start)); !exact(written, float64(d)) {
		f.refuse(e, "the number %s would be rounded: write an integer below 2^53 or without a point and an exponent, and a fraction with fewer digits",
			cmp.Or(written, strconv.FormatFloat(float64(d), 'g', -1, 64)))
	}
}

// call looks at an operator or a function, and what it is given.
func (f *finder) call(call ast.CallExpr) {
	switch args := call.Args(); call.FunctionName() {
	case operators.Equals, operators.NotEquals:
		f.compared(args[0], args[1])
		f.compared(args[1], args[0])
	case operators.In:
		f.compared(args[0], args[1])
	case overloads.StartsWith, overloads.EndsWith:
		if affix, ok := literal(args[0]); ok && call.IsMemberFunction() {
			if possible := affixesOf(call.Target()); possible != nil && !possible(affix, call.FunctionName() == overloads.StartsWith) {
				f.refuse(args[0], "%q is never at that end of it", affix)
			}
		}
	case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDate, overloads.TimeGetDayOfMonth,
		overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds, overloads.TimeGetMilliseconds:
		if len(args) == 1 {
			if zone, ok := literal(args[0]); ok && !zoneThatIs(zone) {
				f.refuse(args[0], "there is no time zone %q, so that it is an error, which is a no: write one as Europe/Berlin, or as +02:00", zone)
			}
		}
	}
}

// compared looks at the texts that a variable is compared with.
func (f *finder) compared(subject, with ast.Expr) {
	check := valuesOf(subject)
	if check == nil {
		return
	}
	texts := []ast.Expr{with}
	if with.Kind() == ast.ListKind {
		texts = with.AsList().Elements()
	}
	for _, each := range texts {
		if s, ok := literal(each); ok {
			if why := check(s); why != "" {
				f.refuse(each, "%q is never equal to it: %s", s, why)
			}
		}
	}
}

var number = regexp.MustCompile(`^-?\s*[0-9]*(\.[0-9]+)?([eE][+-]?[0-9]+)?`)

// numberAt is the number that begins at a place of a condition.
func numberAt(text []rune, at int) string {
	if at < 0 || at > len(text) {
		return ""
	}
	return strings.Join(strings.Fields(number.FindString(string(text[at:]))), "")
}

// exact reports whether a double is what was written, and so small that CEL compares
// it with an integer without rounding that.
func exact(written string, held float64) bool {
	if strings.HasPrefix(strings.TrimPrefix(written, "-"), ".") { // which JSON does not have
		written = strings.Replace(written, ".", "0.", 1)
	}
	n, ok := caller.Number(written)
	if i, integer := n.(int64); integer {
		n = float64(i)
	}
	return ok && math.Abs(held) < 1<<53 && n == held
}

// valuesOf says which texts a variable can be equal to, by why another can't be one;
// nil if it can be any.
func valuesOf(e ast.Expr) func(string) string {
	unless := func(ok bool, why string) string {
		if ok {
			return ""
		}
		return why
	}
	switch nameOf(e) {
	case "method":
		return func(s string) string {
			return unless(Known(s), "the methods are "+strings.Join(Methods(), ", "))
		}
	case "team": // which is empty until it is known
		return func(s string) string {
			return unless(s == "" || teamIDs.has(s), "a team's id is `team-` and 16 letters and digits")
		}
	case "organization":
		return func(s string) string {
			return unless(s == "" || organizationNames.has(s), "an organization's name is 1 to 40 letters, digits, `_` and `-`")
		}
	case "caller.verified_by":
		sources := []string{string(caller.Certificate), string(caller.JWT), string(caller.Mesh)}
		return func(s string) string {
			return unless(slices.Contains(sources, s), "it is one of "+strings.Join(sources, ", "))
		}
	case "caller.id":
		return func(s string) string {
			return unless(dnsNames.has(s) || spiffeIDs.has(s) || subjects.has(s) && caller.Printable(s),
				"an id is a SPIFFE id, a DNS name in lower case, or ISSUER#SUBJECT")
		}
	}
	return nil
}

// nameOf is the variable, or the field of one, that an expression is; empty if it is neither.
func nameOf(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if operand := e.AsSelect().Operand(); operand.Kind() == ast.IdentKind && !e.AsSelect().IsTestOnly() {
			return operand.AsIdent() + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

// affixesOf says with which texts a variable can begin or end; nil if it can with any.
func affixesOf(e ast.Expr) func(affix string, begins bool) bool {
	can := func(has func(pattern string) bool) func(string, bool) bool {
		return func(affix string, begins bool) bool {
			if begins {
				return has(affix + "**")
			}
			return has("**" + affix)
		}
	}
	switch nameOf(e) {
	case "method":
		return func(affix string, begins bool) bool {
			return slices.ContainsFunc(Methods(), func(m string) bool {
				return begins && strings.HasPrefix(m, affix) || !begins && strings.HasSuffix(m, affix)
			})
		}
	case "team":
		return can(teamIDs.matched)
	case "organization":
		return can(organizationNames.matched)
	}
	return nil
}

// literal is the text that stands there.
func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}

var zoneOffset = regexp.MustCompile(`^[+-]?([01]?[0-9]|2[0-3]):[0-5]?[0-9]$`)

// zoneThatIs reports whether CEL takes zone for a time zone: a name, or an offset.
func zoneThatIs(zone string) bool {
	if strings.Contains(zone, ":") {
		return zoneOffset.MatchString(zone)
	}
	_, err := time.LoadLocation(zone)
	return err == nil
}
