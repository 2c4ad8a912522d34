package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// The unit is one that systemd takes as it is, and exposes little by.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	analyze := harness.Tool(t, "systemd-analyze", "TEAMTOKEN_SYSTEMD_ANALYZE", "apt-get install systemd")
	text := string(harness.Must(os.ReadFile("../../../deploy/systemd/teamtoken.service")))
	const program = "/usr/local/bin/teamtoken-server"
	if !strings.Contains(text, "ExecStart="+program+" ") {
		t.Fatalf("it does not start %s", program)
	}
	unit := filepath.Join(t.TempDir(), "teamtoken.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(text, program, harness.Binary)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=15", unit).CombinedOutput(); err != nil {
		t.Errorf("it exposes more than 1.5 of 10: %v\n%s", err, out)
	}
}
