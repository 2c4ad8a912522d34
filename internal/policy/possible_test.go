package policy

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPatternsThatCanMatch(t *testing.T) {
	for _, row := range []struct {
		what      string
		bad       func(string) string
		can, cant []string
	}{
		{"teams", badTeam, []string{
			"*", "**", "team-*", "team-BUHBEM97xboT8TVz", "*-BUHBEM97xboT8TVz", "t*z", "team-B*z", "team**", "*team-BUHBEM97xboT8TVz", "*BUHBEM97*", "team-0000000000000000",
		}, []string{
			"BUHBEM97xboT8TVz", "team-", "team-x", "team-BUHBEM97xboT8TV", "team-BUHBEM97xboT8TVzz", "team-BUHBEM97xboT8TVzz*", "Team-*", "TEAM-*", "team_*", "team-*-x", "teams-*",
			"my team", "../x", "team-BUHBEM97xboT8T_z", "at-*", "*/*", "owners", "team-BUHBEM97xboT8TV\u0417", "team-BUHBEM97xboT8TVz ", "",
		}},
		{"organizations", badOrganization, []string{
			"acme", "acme-*", "*", "**", "a", "A_b-9", strings.Repeat("a", 40), strings.Repeat("a", 40) + "*", "*x*",
		}, []string{
			"a b", "a.b", "a/*", strings.Repeat("a", 41), strings.Repeat("a", 41) + "*", "", "organization:acme", "äcme", "acme-*.example",
		}},
		{"callers", badCaller, []string{
			"**", "*", "billing.example.com", "*.example.com", "**.example.com", "a", "localhost", "friend", "a_b.c-d", "*-x", "default.ns.serviceaccount.identity.linkerd.cluster.local",
			"spiffe://example.org/ns/ci/sa/*", "spiffe://*/ns/**/sa/*", "spiffe://example.org/**", "spiffe://**", "spiffe://example.org/a.b/..c/A_b-9", "spiffe*", "spi**",
			"spiffe://root.linkerd.cluster.local/external-vm", "**/sa/deployer",
			"https://issuer.example.com#system:serviceaccount:ci:*", "https://kubernetes.default.svc.cluster.local#*", "https://issuer.example.com**", "https://**",
			"https://app.terraform.io#organization:acme:project:Default Project:workspace:app:run_phase:apply", "https://app.terraform.io#organization:acme:**",
			"https://token.actions.githubusercontent.com#repo:acme/app:environment:prod eu", "https://gitlab.example.com#project_path:acme/app:**",
			"my-idp#*", "my-idp#Some One", "*#admin", "**#admin", "i#a#b", "https://i#鍵", "https://i# a ",
		}, []string{
			"Billing.example.com", "billing.example.COM", "*.Example.com", "my caller", "-a.example.com", "a-.example.com", ".example.com", "a..b", "example.com.", "*.", "a b*",
			strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 127) + "b", "10.0.0.1:443", "a@example.com", "CN=billing", "*..example.com",
			"spiffe://example.org", "spiffe://example.org/", "spiffe://Example.org/a", "spiffe://example.org/a/", "spiffe://example.org//a", "spiffe://example.org/a/../b", "spiffe://example.org/.",
			"spiffe://example.org*", "spiffe://example.org/a b", "spiffe://example.org:8081/a", "spiffe:///a", "spiffe:/example.org/a", "SPIFFE://example.org/a", "spiffe://example.org/a?b", "spiffe://u@example.org/a",
			"spiffe://example.org/ns/ci/sa/ä", "spiffe:*", "spiffe://*/",
			"https://issuer.example.com", "https://issuer.example.com/", "#a", "https://issuer.example.com#", "https://is suer#a", "#", "ключ#a",
			"a\nb", "a\tb", "https://i#a\n", "https://i#a\x1b[2J", "https://i#a\u202eb", "https://i#a\u200b", "https://i#a\u00a0b", "https://i#e\u0301", "https://i#a\ufe0f", "https://i#\xff", "",
		}},
	} {
		for _, pattern := range row.can {
			if why := row.bad(pattern); why != "" {
				t.Errorf("%q in %s can match nothing: %s", pattern, row.what, why)
			}
		}
		for _, pattern := range row.cant {
			if why := row.bad(pattern); why == "" {
				t.Errorf("%q in %s is taken", pattern, row.what)
			}
		}
	}
}

// What a pattern matches, it can match.
func FuzzPossible(f *testing.F) {
	f.Add("spiffe://*/ns/**/sa/*", "spiffe://a/ns/b/c/sa/d")
	f.Add("team-*z", "team-BUHBEM97xboT8TVz")
	f.Add("*.example.com", "a.example.com")
	f.Add("i#*a", "i#b c a")
	f.Fuzz(func(t *testing.T, pattern, id string) {
		if len(pattern) > 60 || len(id) > 200 || !utf8.ValidString(pattern) || !glob(pattern).MatchString(id) {
			return
		}
		for _, c := range id {
			if c < ' ' || c > '~' {
				return // for which `*` stands, and which is tried by others
			}
		}
		for what, l := range map[string]language{"team": teamIDs, "organization": organizationNames, "DNS name": dnsNames, "SPIFFE id": spiffeIDs, "subject": subjects} {
			if l.has(id) && !l.matched(pattern) {
				t.Errorf("%q matches the %s %q", pattern, what, id)
			}
		}
	})
}
