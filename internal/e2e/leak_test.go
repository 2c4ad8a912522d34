package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// noSecretIn fails the test if a text holds a secret that the upstream ever made
// or that is a credential of it.
func noSecretIn(t *testing.T, s settings, texts ...string) {
	t.Helper()
	if s.sim == nil {
		return
	}
	secrets := []string{
		s.sim.OwnerToken().Reveal(), s.sim.UserToken().Reveal(), s.sim.OrganizationToken().Reveal(),
	}
	for _, m := range s.sim.Minted() {
		secrets = append(secrets, m.Secret.Reveal())
	}
	for _, text := range texts {
		for _, secret := range secrets {
			if form := leaked(text, secret); form != "" {
				t.Errorf("a secret was let out, %s", form)
			}
		}
	}
}

// leaked returns the form in which text holds secret, or a good part of it, and
// "" if it does not.
func leaked(text, secret string) string {
	const part = 16 // no id or hash of ours shares so many characters with a secret by chance
	for at := 0; at+part <= len(secret); at += part / 2 {
		if strings.Contains(text, secret[at:at+part]) {
			return "plain"
		}
	}
	lower := strings.ToLower(text)
	if strings.Contains(lower, hex.EncodeToString([]byte(secret[:part]))) {
		return "hex"
	}
	if strings.Contains(text, url.QueryEscape(secret)) || strings.Contains(lower, strings.ToLower(percent(secret[:part]))) {
		return "url"
	}
	// Base64 depends on how many bytes stand before: there are three alignments.
	for skip := range 3 {
		whole := secret[skip : skip+(len(secret)-skip)/3*3]
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if strings.Contains(text, e.EncodeToString([]byte(whole))[:20]) {
				return "base64"
			}
		}
	}
	return ""
}

// percent encodes every byte, as a careful encoder might.
func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

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
		"percent":            percent(secret),
		"base64":             base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64, basic auth": base64.StdEncoding.EncodeToString([]byte("u:" + secret)),
		"base64, one byte":   base64.URLEncoding.EncodeToString([]byte(":" + secret)),
	} {
		if leaked(strings.Repeat("log line\n", 9)+"x"+planted+"y", secret) == "" {
			t.Errorf("%s: not found", name)
		}
	}
	if form := leaked("4111797 team-BUHBEM97xboT8TVz at-0123456789abcdef", secret); form != "" {
		t.Errorf("found %s where nothing is", form)
	}
}

// A secret that goes through the program comes out where it was asked for, and
// the metrics, the log at debug and a panic's trace do not have it.
func TestSecretStandsInTheAnswerAlone(t *testing.T) {
	sim, url := newSimulator(t)
	s := withService(sim, url)
	f := start(t, s)
	resp, err := f.client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
	if err != nil {
		t.Fatal(err)
	}
	if minted := sim.Minted(); len(minted) != 1 || minted[0].Secret.Reveal() != resp.GetSecret() {
		t.Fatal("the caller did not get the secret that was made")
	}
	_, metrics := f.get(t, "/metrics")
	noSecretIn(t, s, metrics)

	// A panic of the Go runtime's own making prints every goroutine's stack.
	if err := f.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-f.exited
	if !strings.Contains(f.stderr.String(), "goroutine ") {
		t.Error("no stack was printed, so that this test proves nothing of it")
	}
}
