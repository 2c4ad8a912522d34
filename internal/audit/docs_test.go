package audit_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/audit"
)

const manual = "../../docs/audit.md"

// The manual names every field and every event that a line of the log has, and the
// log in testdata has them all.
func TestManualNamesWhatIsInALine(t *testing.T) {
	text := read(t, manual)
	seen := map[string]bool{}
	for line := range strings.Lines(read(t, dayFile)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			seen[name] = true
			if !strings.Contains(text, "\n| `"+name+"` |") {
				t.Errorf("no row for %s", name)
			}
		}
		if event := fields["event"].(string); !strings.Contains(text, "\n| `"+event+"` |") {
			t.Errorf("no row for %s", event)
		}
	}
	fields := len(reflect.VisibleFields(reflect.TypeFor[audit.Record]())) - 1 // Counted is the fields in it
	if len(seen) != fields {
		t.Errorf("%s has %d fields of %d", dayFile, len(seen), fields)
	}
}

// What the manual asks of a log is asked here of the one in testdata.
func TestManualsQuestions(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("there is no jq: apt-get install jq")
	}
	log, err := os.ReadFile(dayFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "audit.jsonl"), log, 0o600); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	blocks := strings.Split(read(t, manual), "```sh\n")[1:]
	for _, block := range blocks {
		script, _, _ := strings.Cut(block, "```")
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) == 0 {
			t.Errorf("%s\n%s\n%v", script, out, err)
		}
		got.WriteString("$ " + script + string(out) + "\n")
	}
	const answers = "testdata/answers.txt"
	if *update {
		if err := os.WriteFile(answers, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, answers); got.String() != want || len(blocks) < 5 {
		t.Errorf("answers:\n%s\nwant:\n%s", got.String(), want)
	}
}
