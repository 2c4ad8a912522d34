package policy

import "strings"

// patterns are ids, exact or with wildcards: `*` stands for any run of characters
// but `/`, and `**` for any run at all. Nothing else in them is special.
type patterns struct {
	texts []string // as they stand in the file
	exact map[string]bool
	wild  []wildcard
}

// wildcard is a pattern, parted before its first `*`: most are told from an id by
// what stands before that.
type wildcard struct{ prefix, rest string }

func newPatterns(texts []string) patterns {
	p := patterns{texts: texts, exact: make(map[string]bool, len(texts))}
	for _, text := range texts {
		if i := strings.IndexByte(text, '*'); i >= 0 {
			p.wild = append(p.wild, wildcard{text[:i], text[i:]})
			continue
		}
		p.exact[text] = true
	}
	return p
}

func (p patterns) none() bool { return len(p.exact) == 0 && len(p.wild) == 0 }

func (p patterns) match(id string) bool {
	if p.exact[id] {
		return true
	}
	for _, pattern := range p.wild {
		if rest, ok := strings.CutPrefix(id, pattern.prefix); ok && glob(pattern.rest, rest) {
			return true
		}
	}
	return false
}

// glob matches s against a pattern. It goes back at most to the last `*` and the
// last `**`, so that no pattern makes it slow: going back further could not help,
// since what stands before them matched already.
func glob(pattern, s string) bool {
	star, starAt, deep, deepAt := -1, 0, -1, 0
	p, i := 0, 0
	for i < len(s) || p < len(pattern) {
		switch {
		case strings.HasPrefix(pattern[p:], "**"):
			for p < len(pattern) && pattern[p] == '*' {
				p++
			}
			deep, deepAt, star = p, i, -1
			continue
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, starAt = p, i
			continue
		case p < len(pattern) && i < len(s) && pattern[p] == s[i]:
			p++
			i++
			continue
		}
		switch {
		case star >= 0 && starAt < len(s) && s[starAt] != '/':
			starAt++
			p, i = star, starAt
		case deep >= 0 && deepAt < len(s):
			deepAt++
			p, i, star = deep, deepAt, -1
		default:
			return false
		}
	}
	return true
}
