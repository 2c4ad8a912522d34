package surface_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// Words that this project once used and that nobody else has for these things: the code,
// its comments, messages and pages have the field's own.
var privateWords = regexp.MustCompile(`(?i)\b(deeds?|crews?|crowds?|flights?|verdicts?|fates?|unsettled|redo|landed|giveBack|madeBy|journals?|epochs?)\b`)

// Where such a word stays: what is stored or written under this name, or another thing.
var wordsThatStay = map[string]string{
	"internal/state/redis.go unsettled": "a key in Redis, which replicas of two versions share",
	"internal/state/state.go journal":   "a name in the sealed operation, which replicas of two versions share",
	"internal/state/sealed.go fate":     "a name in the sealed record, which replicas of two versions share",
	"internal/watch/watch.go epoch":     "Unix's",
	"tools/image/main.go epoch":         "SOURCE_DATE_EPOCH",
	"tools/sbom/main.go epoch":          "SOURCE_DATE_EPOCH",
	"docs/decisions.md":                 "history",
	"CHANGELOG.md":                      "history",
}

func TestWordsAreTheFields(t *testing.T) {
	t.Parallel()
	out := string(harness.Must(exec.Command("git", "-C", "../../..", "ls-files", "--cached", "--others", "--exclude-standard", "*.go", "*.md", "*.proto").Output()))
	for _, file := range strings.Fields(out) {
		if strings.HasPrefix(file, "gen/") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "clients/") || wordsThatStay[file] != "" {
			continue
		}
		text, err := os.ReadFile("../../../" + file)
		if err != nil {
			continue // removed, and not committed yet
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, word := range privateWords.FindAllString(line, -1) {
				if wordsThatStay[file+" "+strings.ToLower(word)] == "" {
					t.Errorf("%s:%d: %q: %s", file, i+1, word, strings.TrimSpace(line))
				}
			}
		}
	}
}
