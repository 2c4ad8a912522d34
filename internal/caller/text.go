package caller

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Printable reports whether s can be a part of an ID. All of it can be seen, blanks
// (U+0020) included, so that two IDs that differ look different: it has no control or
// format characters, none that turn text round or show as nothing, and no byte that
// is no UTF-8. It is in Unicode's form NFC, since an é of two characters looks like
// an é of one. What still looks alike are letters of different scripts.
func Printable(s string) bool {
	for _, c := range s {
		if !PrintableRune(c) {
			return false
		}
	}
	return norm.NFC.IsNormalString(s)
}

// PrintableRune reports whether c can be seen. U+FFFD stands for what could not be
// read, which may have been anything.
func PrintableRune(c rune) bool {
	if c < utf8.RuneSelf {
		return c >= ' ' && c <= '~'
	}
	const emptyBraille = '\u2800'
	return unicode.IsPrint(c) && c != utf8.RuneError && c != emptyBraille &&
		!unicode.In(c, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
