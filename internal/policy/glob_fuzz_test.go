package policy

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzGlob(f *testing.F) {
	f.Add("spiffe://*/ns/**/sa/*", "spiffe://a/ns/b/c/sa/d")
	f.Add("a*b**c", "aXbY/Zc")
	f.Add("***", "a/b")
	f.Add("*a**b*", "xa/b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 60 || len(s) > 200 || !utf8.ValidString(pattern) {
			return
		}
		var want strings.Builder
		want.WriteString(`(?s)\A`)
		for rest := pattern; rest != ""; {
			switch {
			case strings.HasPrefix(rest, "**"):
				rest = strings.TrimLeft(rest, "*")
				want.WriteString(`.*`)
			case rest[0] == '*':
				want.WriteString(`[^/]*`)
				rest = rest[1:]
			default:
				want.WriteString(regexp.QuoteMeta(rest[:1]))
				rest = rest[1:]
			}
		}
		want.WriteString(`\z`)
		re, err := regexp.Compile(want.String())
		if err != nil {
			return
		}
		if glob(pattern).MatchString(s) != re.MatchString(s) {
			t.Errorf("%q %q: %v", pattern, s, glob(pattern).MatchString(s))
		}
	})
}
