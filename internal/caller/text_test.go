package caller_test

import (
	"testing"

	"github.com/teamtoken/teamtoken/internal/caller"
)

func TestPrintable(t *testing.T) {
	for _, good := range []string{
		"", " ", "a b", "organization:acme:project:Default Project:workspace:app:run_phase:apply", "repo:acme/app:environment:prod eu", "~!#*",
		"Zürich", "ключ", "鍵", "🔑", "हिन्दी", "ไทย", "a  b",
	} {
		if !caller.Printable(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{
		"\x00", "a\n", "\t", "\x1b[2J", "\x7f", "\u0085", "\u009b", // control
		"\u200b", "\u200d", "\u200e", "\u202e", "\u2066", "\ufeff", "\u00ad", "\u061c", "\U000e0001", // format
		"\u00a0", "\u2003", "\u3000", "\u2028", "\u2029", // blanks that look like the one, and ends of lines
		"\u034f", "\u115f", "\u17b4", "\u180b", "\u2800", "\u3164", "\uffa0", "\ufe0f", "\U000e0100", // nothing is seen of these
		"\ue000", "\ufdd0", "\U0010ffff", "\u0378", // nobody knows how they look
		"\xff", "a\xc3", "\xed\xa0\x80", "\ufffd", // what could not be read
		"Zu\u0308rich", "\u2126", "e\u0301", "\u0301" + "e\u0301", // NFC writes these otherwise
	} {
		if caller.Printable(bad) {
			t.Errorf("%q is taken", bad)
		}
	}
}
