package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// condition is a CEL expression that was compiled.
type condition struct {
	program           cel.Program
	namesTeam         bool
	namesOrganization bool
}

// maxCost bounds the work of one condition, in CEL's own unit: far over what any
// that a person writes needs, far under what a call takes.
const maxCost = 10_000

// environment is what a condition can speak of. Whatever rounds a number is left out
// of CEL's functions: rounded, a tenant would be equal to another one.
var environment = func() *cel.Env {
	registry, err := types.NewRegistry()
	if err != nil {
		panic(err) // as below
	}
	rounding := env.NewLibrarySubset().AddExcludedFunctions(
		env.NewFunction(overloads.TypeConvertDouble),
		env.NewFunction(overloads.TypeConvertInt, env.NewOverload(overloads.DoubleToInt, nil, nil)),
		env.NewFunction(overloads.TypeConvertUint, env.NewOverload(overloads.DoubleToUint, nil, nil)))
	e, err := cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(rounding)),
		cel.CustomTypeProvider(provider{registry}),
		cel.CustomTypeAdapter(adapter{registry}),
		cel.Variable("caller", cel.ObjectType(callerType)),
		cel.Variable("method", cel.StringType),
		cel.Variable("team", cel.StringType),
		cel.Variable("organization", cel.StringType),
		cel.Variable("now", cel.TimestampType),
	)
	if err != nil {
		panic(err) // these declarations do not change
	}
	return e
}()

const callerType = "teamtoken.Caller"

// callerFields are what a condition can read of a caller.Caller.
var callerFields = map[string]*types.FieldType{
	"id": field(cel.StringType, func(c *caller.Caller) any { return c.ID }),
	"verified_by": field(cel.StringType, func(c *caller.Caller) any {
		return string(c.VerifiedBy)
	}),
	"claims": field(cel.MapType(cel.StringType, cel.DynType), func(c *caller.Caller) any {
		return map[string]any(c.Claims)
	}),
}

func field(of *cel.Type, get func(*caller.Caller) any) *types.FieldType {
	return &types.FieldType{
		Type:  of,
		IsSet: func(any) bool { return true },
		GetFrom: func(target any) (any, error) {
			c, ok := target.(*caller.Caller)
			if !ok {
				return nil, errors.New("unsupported conversion")
			}
			return get(c), nil
		},
	}
}

// provider knows the type of `caller` besides CEL's own, so that a field that there
// is not is found when the file is read.
type provider struct{ *types.Registry }

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if name == callerType {
		return types.NewTypeTypeWithParam(cel.ObjectType(callerType)), true
	}
	return p.Registry.FindStructType(name)
}

func (p provider) FindStructFieldType(name, of string) (*types.FieldType, bool) {
	if name == callerType {
		f, ok := callerFields[of]
		return f, ok
	}
	return p.Registry.FindStructFieldType(name, of)
}

// adapter has it that reading a claim which is caller.Inexact is an error. It is one
// before anything is compared: CEL takes an error within a list or a map for equal.
type adapter struct{ types.Adapter }

var errInexact = errors.New("a number in a claim is neither a 64-bit integer nor exactly a double")

func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case caller.Inexact:
		return types.WrapErr(errInexact)
	case map[string]any: // the claims as a whole
		for _, each := range v {
			if _, inexact := each.(caller.Inexact); inexact {
				return types.WrapErr(errInexact)
			}
		}
		return types.NewStringInterfaceMap(a, v)
	case []any:
		return types.NewDynamicList(a, v)
	}
	return a.Adapter.NativeToValue(value)
}

// slip is what is wrong in a line of a condition, from 1.
type slip struct {
	line int
	what string
}

func compile(text string) (*condition, []slip) {
	checked, issues := environment.Compile(text)
	if issues.Err() != nil {
		var all []slip
		for _, e := range issues.Errors() {
			all = append(all, slip{e.Location.Line(), explained(e.Message)})
		}
		return nil, all
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, []slip{{1, "it must be true or false, not something else"}}
	}
	if found := slips(checked.NativeRep(), text); len(found) > 0 {
		return nil, found
	}
	program, err := environment.Program(checked, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, []slip{{1, err.Error()}}
	}
	c := &condition{program: program}
	for _, reference := range checked.NativeRep().ReferenceMap() {
		c.namesTeam = c.namesTeam || reference.Name == "team"
		c.namesOrganization = c.namesOrganization || reference.Name == "organization"
	}
	return c, nil
}

// explained adds to what CEL says what there is instead.
func explained(message string) string {
	message = strings.TrimSuffix(message, " (in container '')")
	switch {
	case strings.HasPrefix(message, "undefined field"):
		return message + ": of caller there are id, verified_by and claims"
	case strings.HasPrefix(message, "undeclared reference to 'double'"):
		return message + ", which would round"
	case strings.HasPrefix(message, "undeclared reference"):
		return message + ": there are caller, method, team, organization, now, and the functions of CEL"
	}
	return strings.Join(strings.Fields(message), " ")
}

// slips are what CEL takes, and what can't be meant: a number that is held rounded,
// and a text that is compared with what it can never be.
func slips(checked *ast.AST, text string) []slip {
	var all []slip
	source := checked.SourceInfo()
	refuse := func(e ast.Expr, format string, args ...any) {
		all = append(all, slip{max(1, source.GetStartLocation(e.ID()).Line()), fmt.Sprintf(format, args...)})
	}
	compared := func(subject, with ast.Expr) {
		check := valuesOf(subject)
		if check == nil {
			return
		}
		texts := []ast.Expr{with}
		if with.Kind() == ast.ListKind {
			texts = with.AsList().Elements()
		}
		for _, each := range texts {
			if each.Kind() != ast.LiteralKind {
				continue
			}
			if s, ok := each.AsLiteral().Value().(string); ok {
				if why := check(s); why != "" {
					refuse(each, "%q is never equal to it: %s", s, why)
				}
			}
		}
	}
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.LiteralKind:
			if d, ok := e.AsLiteral().(types.Double); ok {
				at, _ := source.GetOffsetRange(e.ID())
				if written := numberAt([]rune(text), int(at.Start)); !exact(written, float64(d)) {
					refuse(e, "the number %s would be rounded: write an integer below 2^53 or without a point and an exponent, and a fraction with fewer digits",
						cmp.Or(written, strconv.FormatFloat(float64(d), 'g', -1, 64)))
				}
			}
		case ast.CallKind:
			call := e.AsCall()
			switch args := call.Args(); call.FunctionName() {
			case operators.Equals, operators.NotEquals:
				compared(args[0], args[1])
				compared(args[1], args[0])
			case operators.In:
				compared(args[0], args[1])
			case overloads.StartsWith, overloads.EndsWith:
				if affix, ok := literal(args[0]); ok && call.IsMemberFunction() {
					if possible := affixesOf(call.Target()); possible != nil && !possible(affix, call.FunctionName() == overloads.StartsWith) {
						refuse(args[0], "%q is never at that end of it", affix)
					}
				}
			case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDate, overloads.TimeGetDayOfMonth,
				overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds, overloads.TimeGetMilliseconds:
				if len(args) == 1 {
					if zone, ok := literal(args[0]); ok && !zoneThatIs(zone) {
						refuse(args[0], "there is no time zone %q, so that it is an error, which is a no: write one as Europe/Berlin, or as +02:00", zone)
					}
				}
			}
		}
	}))
	if top := checked.Expr(); top.Kind() == ast.LiteralKind && top.AsLiteral() == types.False {
		refuse(top, "it is never true, so the rule allows nothing")
	}
	return all
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

// activation gives a condition the variables of a request.
type activation struct{ request Request }

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "caller":
		return &a.request.Caller, true
	case "method":
		return a.request.Method, true
	case "team":
		return a.request.Team, true
	case "organization":
		return a.request.Organization, true
	case "now":
		return a.request.Now, true
	}
	return nil, false
}

func (*activation) Parent() cel.Activation { return nil }

func (c *condition) holds(r Request) (bool, error) {
	value, _, err := c.program.Eval(&activation{r})
	if err != nil {
		return false, &evaluation{kindOf(err), err.Error()}
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, &evaluation{"it is neither true nor false", ""}
	}
	return holds, nil
}

// evaluation is why a condition could not be evaluated. As an error it is one of a
// few texts: what CEL itself says may quote claims, which do not belong into a log.
type evaluation struct{ kind, detail string }

func (e *evaluation) Error() string { return e.kind }

// kindOf is what kind of error CEL's is.
func kindOf(err error) string {
	if errors.Is(err, errInexact) {
		return errInexact.Error()
	}
	for _, known := range []struct{ begins, kind string }{
		{"no such key", "a claim, or a part of one, is missing"},
		{"no such attribute", "a claim, or a part of one, is missing"},
		{"index out of bounds", "an index is beyond the end of its list"},
		{"no such overload", "a value has the wrong type for this operation"},
		{"type conversion error", "a value can't be converted to that type"},
		{"unsupported", "a value has the wrong type for this operation"},
		{"division by zero", "a division by zero"},
		{"modulus by zero", "a division by zero"},
		{"integer overflow", "a number is too large"},
		{"unsigned integer overflow", "a number is too large"},
		{"operation cancelled", "it takes too much work"},
		{"actual cost limit exceeded", "it takes too much work"},
	} {
		if strings.HasPrefix(err.Error(), known.begins) {
			return known.kind
		}
	}
	return "a value is not what it must be"
}
