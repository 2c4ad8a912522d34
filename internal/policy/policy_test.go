package policy_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/policy"
)

const (
	own     = "team-BUHBEM97xboT8TVz"
	other   = "team-6p5jTwJQXwqZBncC"
	ci      = "spiffe://example.org/ns/ci/sa/deployer"
	billing = "billing.example.com"
	nightly = "https://issuer.example.com#system:serviceaccount:ci:nightly"
)

const file = `
rules:
  - name: ci
    callers: ["spiffe://example.org/ns/ci/sa/*"]
    methods: [GenerateToken, GetToken, DeleteTokenByID]
    teams: [team-BUHBEM97xboT8TVz]
  - name: billing
    callers: [billing.example.com]
    methods: ["*"]
    teams: ["team-*"]
    organizations: ["acme-*"]
  - name: nightly
    callers: ["https://issuer.example.com#system:serviceaccount:ci:*"]
    methods: [GenerateToken, GetTokenByID, ListTokens]
    teams: ["*"]
    organizations: [acme]
    condition: caller.claims.env == "prod" && now.getHours("UTC") < 6
`

var night = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDecide(t *testing.T) {
	p := parse(t, file)
	prod := map[string]any{"env": "prod"}
	for _, row := range []struct {
		name    string
		caller  string
		claims  map[string]any
		method  string
		team    string
		org     string
		at      time.Time
		rule    string // that allows it; "" is denied
		pending bool
	}{
		{name: "its own team", caller: ci, method: "GenerateToken", team: own, rule: "ci"},
		{name: "another team", caller: ci, method: "GenerateToken", team: other},
		{name: "no team", caller: ci, method: "GenerateToken"},
		{name: "another method", caller: ci, method: "DeleteToken", team: own},
		{name: "another workload of the namespace", caller: "spiffe://example.org/ns/ci/sa/x", method: "GetToken", team: own, rule: "ci"},
		{name: "another namespace", caller: "spiffe://example.org/ns/cix/sa/deployer", method: "GetToken", team: own},
		{name: "a deeper path than the pattern's", caller: ci + "/x", method: "GetToken", team: own},
		{name: "another trust domain", caller: "spiffe://example.com/ns/ci/sa/deployer", method: "GetToken", team: own},
		{name: "letters of another size", caller: strings.ToUpper(ci), method: "GetToken", team: own},
		{name: "nobody", method: "GetToken", team: own},
		{name: "a list, by a rule that has none", caller: ci, method: "ListTokens", org: "acme"},
		{name: "a method that there is not", caller: billing, method: "StealToken", team: own},
		{name: "no method", caller: billing, team: own},

		{name: "any team", caller: billing, method: "CreateNamedToken", team: other, rule: "billing"},
		{name: "what is no team's id", caller: billing, method: "CreateNamedToken", team: "../organizations/acme"},
		{name: "an organization of the pattern", caller: billing, method: "ListTokens", org: "acme-eu", rule: "billing"},
		{name: "an organization that is not", caller: billing, method: "ListTokens", org: "acme"},
		{name: "a list, with a team that is none of it", caller: billing, method: "ListTokens", team: own},

		{name: "a token by its id", caller: ci, method: "DeleteTokenByID", pending: true},
		{name: "a token of its own team", caller: ci, method: "DeleteTokenByID", team: own, rule: "ci"},
		{name: "a token of another team", caller: ci, method: "DeleteTokenByID", team: other},
		{name: "a token by its id, by another method", caller: ci, method: "GetTokenByID"},

		{name: "a condition that holds", caller: nightly, claims: prod, method: "GenerateToken", team: own, rule: "nightly"},
		{name: "by day", caller: nightly, claims: prod, method: "GenerateToken", team: own, at: night.Add(8 * time.Hour)},
		{name: "by night elsewhere", caller: nightly, claims: prod, method: "GenerateToken", team: own, at: night.In(time.FixedZone("", 9*3600)), rule: "nightly"},
		{name: "another claim", caller: nightly, claims: map[string]any{"env": "test"}, method: "GenerateToken", team: own},
		{name: "a claim of another kind", caller: nightly, claims: map[string]any{"env": 1.0}, method: "GenerateToken", team: own},
		{name: "a condition that holds, on a token's id", caller: nightly, claims: prod, method: "GetTokenByID", pending: true},
		{name: "a condition that does not, on a token's id", caller: nightly, claims: map[string]any{"env": "test"}, method: "GetTokenByID"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := policy.Request{
				Caller: caller.Caller{ID: row.caller, VerifiedBy: caller.JWT, Claims: row.claims},
				Method: row.method, Team: row.team, Organization: row.org, Now: night,
			}
			if !row.at.IsZero() {
				r.Now = row.at
			}
			d := p.Decide(r)
			if d.Allowed != (row.rule != "") || d.Rule != row.rule || d.Pending != row.pending {
				t.Errorf("%+v", d)
			}
			// What explains it says the same.
			verdicts := p.Explain(r)
			i := slices.IndexFunc(verdicts, func(v policy.RuleExplanation) bool { return v.Allows || v.Pending })
			if len(verdicts) != 3 || (i >= 0) != (d.Allowed || d.Pending) || d.Allowed && verdicts[i].Rule != d.Rule {
				t.Errorf("%+v, explained by %+v", d, verdicts)
			}
		})
	}
}

// A condition that cannot be evaluated lets nobody through, and says why.
func TestConditionThatFails(t *testing.T) {
	p := parse(t, file)
	r := policy.Request{Caller: caller.Caller{ID: nightly}, Method: "GenerateToken", Team: own, Now: night}
	if d := p.Decide(r); d.Allowed || d.Err == nil || !strings.Contains(d.Err.Error(), `"nightly"`) {
		t.Errorf("%+v", d)
	}
	if why := p.Explain(r)[2].Why; !strings.Contains(why, "no such key: env") {
		t.Error(why)
	}
	dear := parse(t, `
rules:
  - name: dear
    callers: ["**"]
    methods: [GetToken]
    teams: ["*"]
    condition: caller.claims.l.all(a, caller.claims.l.all(b, caller.claims.l.all(c, a + b + c >= 0.0)))
`)
	list := make([]any, 1000)
	for i := range list {
		list[i] = float64(i)
	}
	r.Method, r.Caller.Claims = "GetToken", map[string]any{"l": list}
	if d := dear.Decide(r); d.Allowed || d.Err == nil {
		t.Errorf("a condition that takes too long: %+v", d)
	}
}

// A condition about the team of a token waits until that is known.
func TestConditionAboutATokensTeam(t *testing.T) {
	p := parse(t, `
rules:
  - name: by-condition
    callers: ["**"]
    methods: [DeleteTokenByID]
    teams: ["*"]
    condition: team == "`+own+`"
`)
	for _, row := range []struct {
		team             string
		allowed, pending bool
	}{{"", false, true}, {own, true, false}, {other, false, false}} {
		d := p.Decide(policy.Request{Caller: caller.Caller{ID: ci}, Method: "DeleteTokenByID", Team: row.team, Now: night})
		if d.Allowed != row.allowed || d.Pending != row.pending {
			t.Errorf("%q: %+v", row.team, d)
		}
	}
}

// Every RPC stands in the policy's table, by what its request names: one that does
// not is denied to everybody.
func TestEveryMethodHasAScope(t *testing.T) {
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	if methods.Len() != len(policy.Methods()) {
		t.Errorf("the service has %d methods, the policy %v", methods.Len(), policy.Methods())
	}
	all := parse(t, `
rules:
  - {name: all, callers: ["**"], methods: ["*"], teams: [team-BUHBEM97xboT8TVz], organizations: [by-organization]}
`)
	for i := range methods.Len() {
		name, fields := string(methods.Get(i).Name()), methods.Get(i).Input().Fields()
		r := policy.Request{Caller: caller.Caller{ID: ci}, Method: name, Now: night}
		d := all.Decide(r)
		r.Team = own
		byTeam := all.Decide(r).Allowed
		r.Team, r.Organization = "", "by-organization"
		byOrganization := all.Decide(r).Allowed
		switch {
		case d.Allowed:
			t.Errorf("%s is allowed whatever it names", name)
		case (fields.ByName("team_id") != nil || fields.ByName("token_id") != nil) != byTeam:
			t.Errorf("%s goes by team: %v", name, byTeam)
		case (fields.ByName("token_id") != nil) != d.Pending:
			t.Errorf("%s is pending: %v", name, d.Pending)
		case (fields.ByName("organization") != nil) != byOrganization:
			t.Errorf("%s goes by organization: %v", name, byOrganization)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	rule := func(lines ...string) string {
		return "rules:\n  - name: a\n    " + strings.Join(lines, "\n    ") + "\n"
	}
	good := []string{`callers: [a]`, `methods: [GetToken]`, `teams: [team-BUHBEM97xboT8TVz]`}
	if _, err := policy.Parse([]byte(rule(good...))); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, file, want string }{
		{"an empty file", "", "no rules"},
		{"an empty list", "rules: []\n", "no rules"},
		{"no list", "rules:\n", "rules must be a list"},
		{"a mapping for the list", "rules: {a: b}\n", "rules must be a list"},
		{"another key", "rule: []\n", `unknown key "rule" in the file`},
		{"another key in a rule", rule(append(good, "allow: true")...), `line 6: unknown key "allow" in a rule`},
		{"a key twice", rule(append(good, "teams: [x]")...), `"teams" stands a second time`},
		{"an empty rule", "rules:\n  - {}\n", "a rule needs callers"},
		{"a rule that is a word", "rules: [a]\n", "a rule must be a mapping"},
		{"no name", "rules:\n  - {callers: [a], methods: [GetToken], teams: [x]}\n", "a rule needs name"},
		{"a name with a space", "rules:\n  - {name: a b, callers: [a], methods: [GetToken], teams: [x]}\n", "a rule's name must be"},
		{"a name twice", "rules:\n  - &r {name: a, callers: [a], methods: [GetToken], teams: [x]}\n  - {name: a, callers: [a], methods: [GetToken], teams: [x]}\n", `another rule has the name "a"`},
		{"no callers", rule(good[1:]...), "a rule needs callers"},
		{"an empty list of callers", rule("callers: []", good[1], good[2]), "callers must be a list of one or more"},
		{"a word for a list", rule("callers: a", good[1], good[2]), "callers must be a list of one or more"},
		{"an empty caller", rule(`callers: [""]`, good[1], good[2]), "each of callers must be a text"},
		{"a caller that is null", rule(`callers: [~]`, good[1], good[2]), "each of callers must be a text"},
		{"a caller with a space", rule(`callers: ["a b"]`, good[1], good[2]), `"a b" in callers can match nothing`},
		{"an alias", "rules:\n  - {name: a, callers: &c [a], methods: [GetToken], teams: *c}\n", "teams must be a list"},
		{"no methods", rule(good[0], good[2]), "a rule needs methods"},
		{"another method", rule(good[0], "methods: [getToken]", good[2]), `there is no method "getToken": there are CreateNamedToken`},
		{"a method by pattern", rule(good[0], `methods: ["Get*"]`, good[2]), `there is no method "Get*"`},
		{"a method twice", rule(good[0], "methods: [GetToken, GetToken]", good[2]), "listed twice"},
		{"no teams", rule(good[:2]...), "the rule needs teams"},
		{"a team that can be none", rule(good[0], good[1], "teams: [my team]"), `"my team" in teams can match nothing`},
		{"a team that is a path", rule(good[0], good[1], "teams: [../x]"), "can match nothing"},
		{"neither teams nor organizations", rule(good[0], `methods: ["*"]`), "the rule needs teams, or organizations"},
		{"organizations that nothing goes by", rule(append(good, "organizations: [a]")...), "leave them out"},
		{"teams that nothing goes by", rule(good[0], "methods: [ListTokens]", good[2], "organizations: [a]"), "leave them out"},
		{"no organizations", rule(good[0], "methods: [ListTokens]"), "the rule needs organizations"},
		{"an organization that can be none", rule(good[0], "methods: [ListTokens]", "organizations: [a.b]"), "can match nothing"},
		{"a condition that is no CEL", rule(append(good, "condition: caller.")...), "line 6: the condition"},
		{"a condition about what there is not", rule(append(good, "condition: user == 'a'")...), "line 6: the condition: undeclared reference to 'user': there are caller, method, team"},
		{"a condition that is no yes or no", rule(append(good, "condition: team")...), "must be true or false"},
		{"an empty condition", rule(append(good, `condition: ""`)...), "condition must be a text"},
		{"a condition without end", rule(append(good, "condition: "+strings.Repeat("true || ", 600)+"true")...), "longer than 4096"},
		{"two documents", rule(good...) + "---\n" + rule(good...), "more than one document"},
		{"no YAML", "rules: [", "yaml"},
		{"all that is wrong, in order", rule("callers: []", "methods: [x]", "allow: 1"), "line 3: callers must be a list of one or more\nline 4: there is no method \"x\": there are " + strings.Join(policy.Methods(), ", ") + ", and \"*\" for all\nline 5: unknown key \"allow\" in a rule, which may have name, callers, methods, teams, organizations, condition"},
	} {
		_, err := policy.Parse([]byte(row.file))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: want an error about %s, got %v", row.name, row.want, err)
		}
	}
}

// All that is wrong with a file is told, by its lines, once each.
func TestParseTellsAllInOrder(t *testing.T) {
	_, err := policy.Parse([]byte(`rules:
  - condition: caller.idd == "a"
    teams: [BUHBEM97xboT8TVz, "team-*", team-x]
    name: A
    methods: [GetToken, ListTokens, Foo, GetToken]
    callers:
      - Billing.example.com
      - ""
      - ok.example.com
      - my caller
  - name: b
    callers: ["**"]
    methods: [GetToken]
    teams: ["*"]
    condition: |
      method == "Get" &&
        caller.claims.n == 1e20
  - name: c
    callers: ["**"]
    methods: [GetToken]
    teams: ["*"]
    organizations: [acme]
    condition: >
      organization != "secret"
  - name: d
    callers: ["**"]
    methods: [ListTokens]
    organizations: ["*"]
    condition: team != "team-BUHBEM97xboT8TVz"
    allow: true
  - name: b
`))
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		"line 2: the condition: undefined field 'idd'", "line 3: \"BUHBEM97xboT8TVz\" in teams", "line 3: \"team-x\" in teams", "line 4: a rule's name",
		"line 5: ListTokens goes by organizations", "line 5: there is no method \"Foo\"", "line 5: the method \"GetToken\" is listed twice",
		"line 7: \"Billing.example.com\" in callers", "line 8: each of callers must be a text", "line 10: \"my caller\" in callers",
		"line 16: the condition: \"Get\" is never equal to it", "line 17: the condition: the number 1e20 would be rounded",
		"line 22: none of the rule's methods goes by organizations", "line 23: the condition: organization is empty",
		"line 29: the condition: team is empty", "line 30: unknown key \"allow\"", "line 31: a rule needs callers", "line 31: a rule needs methods", "line 31: another rule has the name \"b\"",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d must begin with %q:\n%v", i+1, want, err)
		}
	}
	if len(lines) != 19 {
		t.Errorf("%d lines:\n%v", len(lines), err)
	}
}

// Every policy of the documentation is one.
func TestDocumentation(t *testing.T) {
	for _, name := range []string{"../../docs/policy.md", "../../README.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile("(?s)```yaml\n(rules:.*?)```").FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s shows no policy", name)
		}
		for _, example := range found {
			if _, err := policy.Parse([]byte(example[1])); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, example[1])
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - {name: r%d, callers: ['spiffe://example.org/ns/n%d/sa/*'], methods: ['*'], teams: [team-%016d]}\n", i, i, i)
	}
	p := parse(b, text.String())
	r := policy.Request{Caller: caller.Caller{ID: "spiffe://example.org/ns/n99/sa/a"}, Method: "GetToken", Team: "team-0000000000000099", Now: night}
	b.ReportAllocs()
	for b.Loop() {
		if !p.Decide(r).Allowed {
			b.Fatal("denied")
		}
	}
}

// Whatever is parsed, a caller and a team that it does not speak of get nothing.
func FuzzParse(f *testing.F) {
	f.Add(file)
	f.Add("rules:\n  - {name: a, callers: [a], methods: ['*'], teams: ['*']}\n")
	f.Add("rules: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.Parse([]byte(text))
		if (p == nil) != (err != nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if err != nil {
			return
		}
		for _, method := range policy.Methods() {
			r := policy.Request{Caller: caller.Caller{ID: "nobody\n"}, Method: method, Team: own, Organization: "acme", Now: night}
			if d := p.Decide(r); d.Allowed && !strings.Contains(text, "*") {
				t.Errorf("%s is allowed by %s", method, d.Rule)
			}
			if r.Caller.ID = ""; p.Decide(r).Allowed && !strings.Contains(text, "*") {
				t.Errorf("%s is allowed to nobody", method)
			}
		}
	})
}
