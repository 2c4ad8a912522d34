package surface_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// The walk of a call in CONTRIBUTING.md names rooms, and what they are entered by, that
// are there; each room once.
func TestWalkOfACall(t *testing.T) {
	t.Parallel()
	page := string(harness.Must(os.ReadFile("../../../CONTRIBUTING.md")))
	steps := regexp.MustCompile("(?m)^\\d+\\. `(internal/\\w+)`(?:, `(\\w+?)(?:\\.(\\w+))?`)?").FindAllStringSubmatch(page, -1)
	if len(steps) < 9 {
		t.Fatalf("%d steps", len(steps))
	}
	seen := map[string]bool{}
	for _, step := range steps {
		room, kind, method := step[1], step[2], step[3]
		if seen[room] {
			t.Errorf("%s is entered twice", room)
		}
		seen[room] = true
		var code strings.Builder
		for _, file := range harness.Must(filepath.Glob(filepath.Join("../../..", room, "*.go"))) {
			code.Write(harness.Must(os.ReadFile(file)))
		}
		name := kind
		if method != "" {
			if name = method; !regexp.MustCompile(`(?m)^type ` + kind + `\b`).MatchString(code.String()) {
				t.Errorf("%s has no type %s", room, kind)
			}
		}
		if name != "" && !regexp.MustCompile(`(?m)(^func .*|^\t)\b`+name+`\(`).MatchString(code.String()) {
			t.Errorf("%s has no %s", room, name)
		}
	}
	for _, room := range regexp.MustCompile("`(internal/\\w+)`").FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("../../..", room[1])); err != nil {
			t.Error(err)
		}
	}
}
