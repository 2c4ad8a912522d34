package chaos_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// mutants are the program with one mistake each, of the kind that one makes.
var mutants = []struct{ name, file, old, new string }{
	{
		"no turns", "internal/state/lua/acquire.lua",
		"if m[3] and not is_retry then", "if false then",
	},
	{
		"no hold", "internal/mutation/decide.go",
		"{answers: answerLost, seen: unreadable | notSeen, decision: decision{hold, none, apierror.Unknown}}", "{answers: answerLost, seen: unreadable | notSeen, decision: decision{release, reset, apierror.Unknown}}",
	},
	{
		"an answer given again without a look", "internal/mutation/idempotency.go",
		"if err == nil && !duplicate {", "if err == nil && !duplicate && false {",
	},
	{
		"a change sent again by itself", "internal/upstream/call.go",
		"case !r.mutates && (err.Kind == NoResponse", "case (err.Kind == NoResponse",
	},
	{
		"another caller's record", "internal/service/idempotency.go",
		"digest(call.Caller.ID, credential, ", "digest(string(call.Caller.VerifiedBy), credential, ",
	},
	{
		"a result that is not recorded", "internal/mutation/decide.go",
		"{answers: answerOK, decision: decision{release, completed, ok}}", "{answers: answerOK, decision: decision{release, reset, ok}}",
	},
	{
		"nothing is settled for a replica that died", "internal/state/lua/common.lua",
		"redis.call('HSET', team, 'holder', owner,", "redis.call('HDEL', team, 'change') redis.call('HSET', team, 'holder', owner,",
	},
	{
		"a redrive that is not written down", "internal/mutation/execute.go",
		"err = x.restart(ctx, x.observed.tokenID)", "err = nil",
	},
	{
		"an unknown outcome told as not_applied", "internal/outcome/outcome.go",
		"{teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, apierror.Unknown}", "{teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, apierror.NotApplied}",
	},
	{
		"an orphan that is left", "internal/mutation/execute.go",
		"	err = e.upstream.DeleteTokenByID(ctx, id)\n", "	_ = id\n",
	},
}

// TestMutantsBuild shows that each mutant is still the program with one place changed:
// TestChaosFindsMutants, which would notice as well, takes long and is run rarely.
func TestMutantsBuild(t *testing.T) {
	t.Parallel()
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			t.Parallel()
			overlay := overlayOf(t, mutant.file, mutant.old, mutant.new)
			if strings.HasSuffix(mutant.file, ".lua") {
				return // which Redis compiles
			}
			out, err := exec.Command("go", "build", "-overlay", overlay, "./"+filepath.Join("../../..", filepath.Dir(mutant.file))).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestChaosFindsMutants shows that the checker can fail: each mutant is found within
// a minute. It takes some minutes, and is for `make chaos`.
func TestChaosFindsMutants(t *testing.T) {
	if os.Getenv("TEAMTOKEN_LONG") == "" {
		t.Skip("TEAMTOKEN_LONG=1 runs it")
	}
	only := os.Getenv("TEAMTOKEN_CHAOS_MUTANT")
	for i, mutant := range mutants {
		if only != "" && !strings.Contains(mutant.name, only) {
			continue
		}
		t.Run(mutant.name, func(t *testing.T) {
			program := mutate(t, mutant.file, mutant.old, mutant.new)
			begun := time.Now()
			for round := uint64(0); ; round++ {
				c := newChaos(t, uint64(i)<<8|round, program)
				c.run(chaosBounds{duration: 12 * time.Second, operations: 1 << 40})
				c.waitResolved()
				if found := c.checked(); len(found) > 0 {
					first, _, _ := strings.Cut(found[0], "\n")
					t.Logf("found after %v: %s", time.Since(begun).Round(time.Second), first)
					return
				}
				if time.Since(begun) > 45*time.Second {
					t.Fatal("not found within a minute")
				}
			}
		})
	}
}

// mutate builds the program with one place of one file changed.
func mutate(t *testing.T, file, from, to string) (program string) {
	t.Helper()
	overlay := overlayOf(t, file, from, to)
	program = filepath.Join(t.TempDir(), "mutant")
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, "../../../cmd/server").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// overlayOf is an overlay for go build in which one place of one file is changed.
func overlayOf(t *testing.T, file, from, to string) string {
	t.Helper()
	root := harness.Must(filepath.Abs("../../.."))
	path := filepath.Join(root, file)
	source := string(harness.Must(os.ReadFile(path)))
	if strings.Count(source, from) != 1 {
		t.Fatalf("%s: %q is there %d times", file, from, strings.Count(source, from))
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(changed, []byte(strings.Replace(source, from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	content := harness.Must(json.Marshal(map[string]any{"Replace": map[string]string{path: changed}}))
	if err := os.WriteFile(overlay, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
