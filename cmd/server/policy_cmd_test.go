package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", `
rules:
  - {name: ci, callers: [a.example.com], methods: [GenerateToken, GetTokenByID], teams: [team-BUHBEM97xboT8TVz]}
  - {name: prod, callers: ["**"], methods: ["*"], teams: ["*"], condition: 'caller.claims.env == "prod" && now.getFullYear() == 2026'}
`)
	byJWT := write("jwt.yaml", `rules: [{name: run, callers: ["https://app.terraform.io#organization:acme:project:Default Project:**", "https://app.terraform.io#a"], methods: [GetToken], teams: ["*"]}]`)
	bad := write("bad.yaml", "rules:\n  - {name: ci, methods: [Get]}\n")
	claims := write("claims.json", `{"env": "prod"}`)
	explain := func(args ...string) []string {
		return append([]string{"explain", good, "--caller=a.example.com", "--at=2026-06-01T00:00:00Z"}, args...)
	}
	for _, row := range []struct {
		name string
		args []string
		code int
		want []string // lines of what is printed
	}{
		{"a good file", []string{"check", good}, 0, []string{"ok: 2 rules"}},
		{"a good file, of which not all can be known", []string{"check", byJWT}, 0, []string{"ok: 1 rule\nnot checked: TEAMTOKEN_JWT_ISSUER of the service must be https://app.terraform.io, otherwise the rules for its callers match nobody\n"}},
		{"a caller with a blank", []string{"explain", byJWT, "--caller=https://app.terraform.io#organization:acme:project:Default Project:workspace:app:run_phase:apply", "--method=GetToken", "--team=team-BUHBEM97xboT8TVz"}, 0, []string{"allowed by rule run"}},
		{"claims of which one stands twice", explain("--method=GenerateToken", "--team=team-6p5jTwJQXwqZBncC", `--claims={"env": 1, "env": "prod"}`), 2, []string{"--claims: it must be a JSON object, or @FILE with one, in which no key occurs twice"}},
		{"a bad file", []string{"check", bad}, 2, []string{"line 2: a rule needs callers", `line 2: there is no method "Get"`}},
		{"no file", []string{"check", filepath.Join(dir, "none")}, 2, []string{"no such file"}},
		{"allowed", explain("--method=GenerateToken", "--team=team-BUHBEM97xboT8TVz"), 0, []string{
			"rule ci: it allows this", "rule prod: its condition could not be evaluated: a claim, or a part of one, is missing (no such key: env)", "allowed by rule ci",
		}},
		{"denied", explain("--method=GenerateToken", "--team=team-6p5jTwJQXwqZBncC"), 1, []string{"rule ci: it is for other teams", "denied: no rule allows it"}},
		{"by claims", explain("--method=GenerateToken", "--team=team-6p5jTwJQXwqZBncC", `--claims={"env": "prod"}`), 0, []string{"allowed by rule prod"}},
		{"by claims of a file", explain("--method=GenerateToken", "--team=team-6p5jTwJQXwqZBncC", "--claims=@"+claims), 0, []string{"allowed by rule prod"}},
		{"at another time", explain("--method=GenerateToken", "--team=team-6p5jTwJQXwqZBncC", "--claims=@"+claims, "--at=2027-01-01T00:00:00Z"), 1, []string{"rule prod: its condition does not hold"}},
		{"a token by its id", explain("--method=GetTokenByID"), 0, []string{"pending: it depends on the team of the token, see --team"}},
		{"another method", explain("--method=Get"), 2, []string{`there is no method "Get": there are CreateNamedToken, `}},
		{"claims that are none", explain("--method=GetToken", "--claims=[1]"), 2, []string{"--claims: it must be a JSON object"}},
		{"a time that is none", explain("--method=GetToken", "--at=soon"), 2, []string{"--at"}},
		{"no caller", []string{"explain", good, "--method=GetToken"}, 2, []string{"--caller"}},
		{"nothing", nil, 2, []string{"check", "explain"}},
		{"help", []string{"--help"}, 0, []string{"Look a policy file through", "Say which rule"}},
		{"help of a command", []string{"explain", "--help"}, 0, []string{"--verified-by"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var out, errs strings.Builder
			code := run(append([]string{"policy"}, row.args...), os.LookupEnv, &out, &errs)
			if code != row.code {
				t.Errorf("exit code %d, want %d", code, row.code)
			}
			for _, want := range row.want {
				if !strings.Contains(out.String()+errs.String(), want) {
					t.Errorf("%q is not in\n%s%s", want, out.String(), errs.String())
				}
			}
			if (errs.Len() > 0) != (row.code == 2) {
				t.Errorf("on standard error: %s", errs.String())
			}
		})
	}
}
