package policy

import (
	"regexp"
	"strings"
)

// patterns are ids, exact or with wildcards: `*` stands for any run of characters
// but `/`, and `**` for any run at all. Nothing else in them is special.
type patterns struct {
	texts []string // as they stand in the file
	exact map[string]bool
	wild  []wildcard
}

// wildcard is a pattern. Most are told from an id by what stands before the first `*`.
type wildcard struct {
	prefix string
	whole  *regexp.Regexp
}

func newPatterns(texts []string) patterns {
	p := patterns{texts: texts, exact: make(map[string]bool, len(texts))}
	for _, text := range texts {
		if prefix, _, ok := strings.Cut(text, "*"); ok {
			p.wild = append(p.wild, wildcard{prefix, glob(text)})
		} else {
			p.exact[text] = true
		}
	}
	return p
}

func (p patterns) none() bool { return len(p.texts) == 0 }

func (p patterns) match(id string) bool {
	if p.exact[id] {
		return true
	}
	for _, pattern := range p.wild {
		if strings.HasPrefix(id, pattern.prefix) && pattern.whole.MatchString(id) {
			return true
		}
	}
	return false
}

var (
	stars   = regexp.MustCompile(`(\\\*)+`) // as QuoteMeta writes them
	oneStar = `\*`
)

// glob is a pattern as a regular expression, none of which is slow.
func glob(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)\A` + stars.ReplaceAllStringFunc(regexp.QuoteMeta(pattern), func(run string) string {
		if run == oneStar {
			return `[^/]*`
		}
		return `.*`
	}) + `\z`)
}
