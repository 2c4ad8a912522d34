package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/policy"
)

const subject = "https://issuer.example.com#a"

// conditional is a policy of one rule with a condition.
func conditional(condition string) string {
	quoted, _ := json.Marshal(condition)
	return fmt.Sprintf(`rules: [{name: a, callers: ["**"], methods: ["*"], teams: ["*"], organizations: ["*"], condition: %s}]`, quoted)
}

// ask decides a call by a caller with claims, written as JSON.
func ask(t *testing.T, p *policy.Policy, claims string) policy.Decision {
	t.Helper()
	var c caller.Claims
	if err := json.Unmarshal([]byte(claims), &c); err != nil {
		t.Fatalf("%s: %v", claims, err)
	}
	return p.Decide(policy.Request{Caller: caller.Caller{ID: subject, VerifiedBy: caller.JWT, Claims: c}, Method: "GetToken", Team: own, Now: night})
}

// No number is equal to another one, however both are written, wherever they stand.
func TestNumbersAreExact(t *testing.T) {
	numbers := []string{ // all different
		"9007199254740991", "9007199254740992", "9007199254740993", "9007199254740994", "-9007199254740993", "-9007199254740992",
		"9223372036854775807", "-9223372036854775808", "9223372036854775806", "0", "1", "-1", "1000", "42",
		"9223372036854775808", "18446744073709551615", "18446744073709551614",
	}
	beyond := []string{"18446744073709551616", "-9223372036854775809", "1e20", "1e999", "18446744073709551615.5", "0.1000000000000000055511151231257827"}
	literal := func(n string) string {
		if len(n) > 19 && n[0] != '-' || n == "9223372036854775808" {
			return n + "u"
		}
		return n
	}
	for _, form := range []struct {
		condition, claim string // with %s for the number
		differs          bool   // it is true of another number
	}{
		{"caller.claims.n == %s", `{"n": %s}`, false},
		{"%s == caller.claims.n", `{"n": %s}`, false},
		{"caller.claims.n != %s", `{"n": %s}`, true},
		{"%s != caller.claims.n", `{"n": %s}`, true},
		{"!(caller.claims.n == %s)", `{"n": %s}`, true},
		{"caller.claims.n in [%s]", `{"n": %s}`, false},
		{"caller.claims.n in [7, %s, 8]", `{"n": %s}`, false},
		{"!(caller.claims.n in [%s])", `{"n": %s}`, true},
		{"%s in caller.claims.l", `{"l": ["x", %s]}`, false},
		{"caller.claims.l == [%s]", `{"l": [%s]}`, false},
		{"[%s] == caller.claims.l", `{"l": [%s]}`, false},
		{"[%s] != caller.claims.l", `{"l": [%s]}`, true},
		{"caller.claims.l[0] == %s", `{"l": [%s]}`, false},
		{"caller.claims.l.exists(n, n == %s)", `{"l": [%s]}`, false},
		{"caller.claims.l.all(n, n != %s)", `{"l": [%s]}`, true},
		{"caller.claims.m.n == %s", `{"m": {"n": %s}}`, false},
		{`caller.claims.m == {"n": %s}`, `{"m": {"n": %s}}`, false},
		{`{"n": %s} != caller.claims.m`, `{"m": {"n": %s}}`, true},
		{`caller.claims.m.a[0].n == %s`, `{"m": {"a": [{"n": %s}]}}`, false},
		{`caller.claims == {"n": %s}`, `{"n": %s}`, false},
		{`caller.claims != {"n": %s}`, `{"n": %s}`, true},
		{`caller.claims.n in {%s: true}`, `{"n": %s}`, false},
		{`caller.claims.n == caller.claims.m || caller.claims.n == %s`, `{"n": %s, "m": "x"}`, false},
		{"(caller.claims.n == %s ? 1 : 2) == 1", `{"n": %s}`, false},
	} {
		for _, want := range numbers {
			p := parse(t, conditional(strings.ReplaceAll(form.condition, "%s", literal(want))))
			for _, have := range numbers {
				claims := strings.ReplaceAll(form.claim, "%s", have)
				if d := ask(t, p, claims); d.Allowed != ((have == want) != form.differs) {
					t.Errorf("%s, with %s, of %s: %+v", form.condition, want, claims, d)
				}
			}
			for _, have := range beyond {
				claims := strings.ReplaceAll(form.claim, "%s", have)
				if d := ask(t, p, claims); d.Allowed || d.Err == nil {
					t.Errorf("%s, with %s, of %s: %+v", form.condition, want, claims, d)
				}
			}
		}
	}
}

// The value of a number counts, and not how the issuer writes it.
func TestNumbersAsIssuersWriteThem(t *testing.T) {
	for _, row := range []struct {
		condition, claims string
		allowed           bool
	}{
		{"caller.claims.n == 1000", `{"n": 1e3}`, true},
		{"caller.claims.n == 1", `{"n": 1.0}`, true},
		{"caller.claims.n == 1.0", `{"n": 1}`, true},
		{"caller.claims.n == 0", `{"n": -0.0}`, true},
		{"caller.claims.n == 0.5", `{"n": 0.50}`, true},
		{"caller.claims.n == 0.1", `{"n": 1e-1}`, true},
		{"caller.claims.n == 0.1", `{"n": 0.10000000000000000001}`, false},
		{"caller.claims.n == -2.5", `{"n": -2.5}`, true},
		{"caller.claims.n == .5", `{"n": 0.5}`, true},
		{"caller.claims.n in [1.0, 2.5]", `{"n": 2.5}`, true},
		{"2 in [2.5, caller.claims.n]", `{"n": 2.25}`, false},
		{"caller.claims.n < 3", `{"n": 2.5}`, true},
		{"caller.claims.n < 9007199254740993", `{"n": 9007199254740992}`, true},
		{"caller.claims.n < 9007199254740993", `{"n": 9007199254740993}`, false},
		{"caller.claims.n >= 9007199254740991.0", `{"n": 9007199254740990}`, false},
		{"caller.claims.n + 1 == 9007199254740994", `{"n": 9007199254740993}`, true},
		{"caller.claims.n + 1 > 0", `{"n": 9223372036854775807}`, false},
		{"int(caller.claims.n) == 9007199254740993", `{"n": "9007199254740993"}`, true},
		{"int(caller.claims.n) == 9007199254740992", `{"n": "9007199254740993"}`, false},
		{"int(caller.claims.n) == 5", `{"n": 5}`, true},
		{"int(caller.claims.n) == 5", `{"n": 5.5}`, false}, // an error: it would be cut
		{"uint(caller.claims.n) == 5u", `{"n": 5.5}`, false},
		{`string(caller.claims.n) == "9007199254740993"`, `{"n": 9007199254740993}`, true},
		{`caller.claims.n == "9007199254740993"`, `{"n": 9007199254740993}`, false},
		{"caller.claims.n == 5", `{"n": "5"}`, false},
		{"caller.claims.n == 5", `{"n": true}`, false},
		{"caller.claims.n == 5", `{"n": null}`, false},
		{"size(caller.claims.l) == 2", `{"l": [1, 2]}`, true},
		{"timestamp(caller.claims.iat) < now", `{"iat": 1700000000}`, true},
		{"caller.claims.other == 1", `{"n": 1e999, "other": 1}`, true}, // it is not read
		{"has(caller.claims.n)", `{"n": 1e999}`, true},
		{"has(caller.claims.m.n)", `{"m": {"n": 1e999}}`, false},
	} {
		p, err := policy.Parse([]byte(conditional(row.condition)))
		if err != nil {
			t.Errorf("%s: %v", row.condition, err)
		} else if d := ask(t, p, row.claims); d.Allowed != row.allowed {
			t.Errorf("%s of %s: %+v", row.condition, row.claims, d)
		}
	}
}

// A condition that has an error is no, unless the rest of it is yes without that.
func TestErrorsAreNo(t *testing.T) {
	for _, failing := range []string{
		"caller.claims.missing == 1", "caller.claims.big == 1", "1 == caller.claims.big", "caller.claims.big != 1", "1 != caller.claims.big",
		"caller.claims.big in [1]", "1 in caller.claims.bigs", "caller.claims.bigs == [1]", "[1] != caller.claims.bigs", "caller.claims.bigs != [1]",
		"caller.claims.bigs.exists(x, x == 1)", "caller.claims.bigs.all(x, x != 1)", "caller.claims.bigs.exists_one(x, x != 1)",
		"size(caller.claims.bigs) == 1", "caller.claims.bigs[0] == 1", "caller.claims.bigm.a == 1", "caller.claims.bigm == {'a': 1}", "{'a': 1} != caller.claims.bigm",
		"caller.claims == {'a': 1}", "caller.claims != {'a': 1}", "caller.claims.exists(k, k == 'text')", "caller.claims.all(k, caller.claims[k] != 1)",
		"caller.claims[caller.claims.text] == 1", "caller.claims.text > 1", "caller.claims.text.missing == 1", "caller.claims.five / caller.claims.zero == 1",
		"caller.claims.five.matches('a')", "[caller][0].id == 'a'", "caller == caller", "duration(caller.claims.text) > duration('1s')",
		"caller.claims.big < 1", "caller.claims.big > 1", "-caller.claims.big < 1", "string(caller.claims.big) != '1'", "type(caller.claims.big) != int",
		"{'a': caller.claims.big} != {'a': 1}", "[caller.claims.big] != [1]", "[caller.claims.big] == [1]", "[caller.claims.big].exists(x, x != 1)", "dyn(caller.claims.big) != 1",
	} {
		for _, form := range []string{
			"%s", "!(%s)", "!(!(%s))", "(%s) && true", "true && (%s)", "!((%s) && true)", "(%s) || false", "false || (%s)", "!(false || (%s))",
			"(%s) ? true : true", "(%s) ? false : true", "true ? (%s) : true", "!((%s) ? true : false)", "[1].all(x, %s)", "![1].all(x, %s)", "[1].exists(x, %s)",
			"(%s) == true", "(%s) != true", "true != (%s)", "(%s) in [true, false]", "!((%s) in [true])", "[%s] != [true]", "[%s].exists(x, x || !x)",
		} {
			condition := strings.ReplaceAll(form, "%s", failing)
			p, err := policy.Parse([]byte(conditional(condition)))
			if err != nil {
				t.Errorf("%s: %v", condition, err)
				continue
			}
			d := ask(t, p, `{"big": 1e20, "bigs": [1e20], "bigm": {"a": 1e20}, "text": "t3xt-of-claim", "five": 5, "zero": 0}`)
			if d.Allowed || d.Err == nil {
				t.Errorf("%s: %+v", condition, d)
			} else if strings.Contains(d.Err.Error(), "t3xt") || !kinds.MatchString(d.Err.Error()) {
				t.Errorf("%s: the error is %v", condition, d.Err)
			}
		}
	}
	// CEL's || and && let the side without an error decide, and so do exists and all.
	for _, absorbed := range []string{"caller.claims.missing == 1 || true", "true || caller.claims.missing == 1", "!(caller.claims.missing == 1 && false)"} {
		if d := ask(t, parse(t, conditional(absorbed)), `{}`); !d.Allowed {
			t.Errorf("%s: %+v", absorbed, d)
		}
	}
}

// kinds are all that the log can have of a condition's error.
var kinds = regexp.MustCompile(`^condition of rule "a": (a claim, or a part of one, is missing|an index is beyond the end of its list|` +
	`a value has the wrong type for this operation|a value can't be converted to that type|a division by zero|a number is too large|` +
	`it takes too much work|a value is not what it must be|a number in a claim is neither a 64-bit integer nor exactly a double)$`)

// Whatever is in the claims, nothing of it is in an error.
func FuzzErrorsQuoteNothing(f *testing.F) {
	f.Add("secret-of-a-claim", "caller.claims[caller.claims.a] == 1")
	f.Add("x", "duration(caller.claims.a) == duration('1s')")
	f.Add("no such key", "timestamp(caller.claims.a) < now")
	f.Add("a", "int(caller.claims.a) == 1")
	f.Add("(", "team.matches(caller.claims.a)")
	f.Add("x", "caller.claims.a.b.c == 1")
	f.Fuzz(func(t *testing.T, value, condition string) {
		p, err := policy.Parse([]byte(conditional(condition)))
		if err != nil {
			return
		}
		r := policy.Request{Caller: caller.Caller{ID: subject, Claims: caller.Claims{"a": value}}, Method: "GetToken", Team: own, Now: night}
		d := p.Decide(r)
		if d.Err != nil && !kinds.MatchString(d.Err.Error()) {
			t.Errorf("%v", d.Err)
		}
		for err := d.Err; err != nil; err = errors.Unwrap(err) {
			if !kinds.MatchString(d.Err.Error()) {
				t.Errorf("%v", err)
			}
		}
		for _, v := range p.Explain(r) {
			if strings.ContainsFunc(v.Why, func(c rune) bool { return !caller.PrintableRune(c) && c != '\ufffd' }) {
				t.Errorf("%q", v.Why)
			}
		}
	})
}

// What a condition can't mean is found when the file is read.
func TestConditionsThatCannotBeMeant(t *testing.T) {
	for _, row := range []struct{ condition, want string }{
		{"caller.idd == 'a'", "undefined field 'idd': of caller there are id, verified_by and claims"},
		{"has(caller.idd)", "undefined field 'idd'"},
		{"caller.claim.env == 'a'", "undefined field 'claim'"},
		{"caller.verifiedBy == 'jwt'", "undefined field 'verifiedBy'"},
		{"callers.id == 'a'", "undeclared reference to 'callers'"},
		{"teams == 'a'", "undeclared reference to 'teams'"},
		{"org == 'a'", "undeclared reference to 'org'"},
		{"caller['id'] == 'a'", "no matching overload"},
		{"caller.id == 5", "no matching overload"},
		{"method == 'Getoken'", `"Getoken" is never equal to it: the methods are `},
		{"'getToken' == method", "is never equal to it"},
		{"method != 'getToken'", "is never equal to it"},
		{"!(method in ['GetToken', 'ListToken'])", `"ListToken" is never equal to it`},
		{"caller.verified_by == 'mtsl'", "is never equal to it: it is one of mtls, jwt, mesh"},
		{"caller.verified_by in ['jwt', 'spiffe']", `"spiffe" is never equal to it`},
		{"team.startsWith('prod-')", `"prod-" is never at that end of it`},
		{"!team.startsWith('Team-')", "is never at that end of it"},
		{"team.endsWith('-x')", "is never at that end of it"},
		{"organization.startsWith('acme/')", "is never at that end of it"},
		{"method.startsWith('delete')", "is never at that end of it"},
		{"method.endsWith('Tokenz')", "is never at that end of it"},
		{"now.getHours('Europe/Berln') > 8", `there is no time zone "Europe/Berln"`},
		{"!(now.getDayOfWeek('europe/berlin ') == 0)", "there is no time zone"},
		{"now.getMinutes('+25:00') > 8", "there is no time zone"},
		{"now.getFullYear('02:60') > 8", "there is no time zone"},
		{"now.getDate('+0200') > 8", "there is no time zone"},
		{"team == 'BUHBEM97xboT8TVz'", "a team's id is `team-` and 16 letters and digits"},
		{"team == 'team-*'", "a team's id is"},
		{"organization == 'a b'", "an organization's name is"},
		{"caller.id == 'Billing.example.com'", "a DNS name in lower case"},
		{"caller.id == 'spiffe://example.org/ns/*'", "an id is a SPIFFE id"},
		{"caller.claims.n == 9007199254740993.0", "the number 9007199254740993.0 would be rounded"},
		{"caller.claims.n == 9007199254740992.0", "would be rounded"},
		{"caller.claims.n == -9007199254740993.0", "the number -9007199254740993.0 would be rounded"},
		{"caller.claims.n in [1, 9.007199254740993e15]", "the number 9.007199254740993e15 would be rounded"},
		{"caller.claims.n < 1e20", "would be rounded"},
		{"caller.claims.n == 0.10000000000000000001", "would be rounded"},
		{"caller.claims.n == 1e-400", "would be rounded"},
		{"double(caller.claims.n) == 1.0", "undeclared reference to 'double', which would round"},
		{"int(1.5) == 1", "no matching overload"},
		{"caller.claims.n == 9223372036854775808", "invalid int literal"},
		{"false", "it is never true"},
	} {
		_, err := policy.Parse([]byte(conditional(row.condition)))
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "line 1: the condition: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: want an error about %s, got %v", row.condition, row.want, err)
		}
	}
	for _, good := range []string{
		"has(caller.claims.env)", "has(caller.id)", "'env' in caller.claims", "caller.claims['kubernetes.io'].a == 'b'", "method.startsWith('Get')", "team == '' || team == '" + own + "'",
		"caller.id in ['a.example.com', 'spiffe://example.org/a', 'https://i.example.com#organization:acme:project:Default Project']", "caller.claims.n == 1.5", "true",
		"caller.claims.size() > 0", "caller.id.endsWith('.Example.com')",
		"team.startsWith('team-a')", "team.startsWith('')", "team.endsWith('9Z')", "organization.endsWith('_prod')", "method.endsWith('ByID')", "team.startsWith(caller.claims.t)",
		"now.getHours('Europe/Berlin') > 8", "now.getHours('UTC') > 8", "now.getHours('-02:30') > 8", "now.getHours('23:59') > 8", "now.getHours(caller.claims.tz) > 8", "now.getHours() > 8",
	} {
		if _, err := policy.Parse([]byte(conditional(good))); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func BenchmarkCondition(b *testing.B) {
	p := parse(b, conditional(`caller.claims.env == "prod" && caller.claims.tenant == 9007199254740993 && now.getHours("UTC") < 6`))
	r := policy.Request{
		Caller: caller.Caller{ID: subject, Claims: caller.Claims{"env": "prod", "tenant": int64(9007199254740993)}}, Method: "GetToken", Team: own, Now: night,
	}
	b.ReportAllocs()
	for b.Loop() {
		if !p.Decide(r).Allowed {
			b.Fatal("denied")
		}
	}
}
