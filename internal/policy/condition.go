package policy

import (
	"errors"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/env"
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
