package harness_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A leak that is planted is found, in each form, wherever it stands.
func TestLeakIsFound(t *testing.T) {
	secret := simulator.New(simulator.Options{}).OwnerToken().Reveal()
	for name, planted := range map[string]string{
		"plain":              secret,
		"the second half":    secret[len(secret)/2:],
		"json":               fmt.Sprintf("{%q:%q}", "token", secret),
		"a message printed":  (&teamtokenv1.GenerateTokenResponse{Secret: secret}).String(),
		"hex":                hex.EncodeToString([]byte(secret)),
		"upper-case hex":     fmt.Sprintf("%X", secret),
		"query escape":       url.QueryEscape(secret),
		"percent":            harness.Percent(secret),
		"base64":             base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64, basic auth": base64.StdEncoding.EncodeToString([]byte("u:" + secret)),
		"base64, one byte":   base64.URLEncoding.EncodeToString([]byte(":" + secret)),
	} {
		if harness.Leaked("where no secret is known: "+planted, simulator.New(simulator.Options{}).OwnerToken().Reveal()) == "" && name != "the second half" {
			t.Errorf("%s: its form is not found", name)
		}
		if harness.Leaked(strings.Repeat("log line\n", 9)+"x"+planted+"y", secret) == "" {
			t.Errorf("%s: not found", name)
		}
	}
	if form := harness.Leaked("4111797 team-BUHBEM97xboT8TVz at-0123456789abcdef", secret); form != "" {
		t.Errorf("found %s where nothing is", form)
	}
}
