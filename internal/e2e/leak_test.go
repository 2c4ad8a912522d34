package e2e

import (
	"cmp"
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
	wanted := newNeedles(secrets...)
	for _, text := range texts {
		if form := wanted.in(text); form != "" {
			t.Errorf("a secret was let out, %s", form)
		}
	}
}

// leaked returns the form in which text holds secret, or a good part of it, and
// "" if it does not.
func leaked(text, secret string) string { return newNeedles(secret).in(text) }

// needles are all the forms of secrets that are looked for at once, by their first
// eight bytes: there may be thousands of secrets and many megabytes to search.
type needles struct {
	exact, anyCase map[[8]byte][]needle
}

type needle struct{ form, text string }

func newNeedles(secrets ...string) needles {
	n := needles{exact: map[[8]byte][]needle{}, anyCase: map[[8]byte][]needle{}}
	add := func(to map[[8]byte][]needle, form, text string) {
		head := [8]byte([]byte(text)[:8])
		to[head] = append(to[head], needle{form, text})
	}
	for _, secret := range secrets {
		const part = 16 // no id or hash of ours shares so many characters with a secret by chance
		for at := 0; at+part <= len(secret); at += part / 2 {
			add(n.exact, "plain", secret[at:at+part])
		}
		add(n.exact, "url", url.QueryEscape(secret))
		add(n.anyCase, "hex", hex.EncodeToString([]byte(secret[:part])))
		add(n.anyCase, "url", strings.ToLower(percent(secret[:part])))
		// Base64 depends on how many bytes stand before: there are three alignments.
		for skip := range 3 {
			whole := secret[skip : skip+(len(secret)-skip)/3*3]
			for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				add(n.exact, "base64", e.EncodeToString([]byte(whole))[:20])
			}
		}
	}
	return n
}

// in is the form of a secret that text holds, or "".
func (n needles) in(text string) string {
	return cmp.Or(find(n.exact, []byte(text)), find(n.anyCase, []byte(strings.ToLower(text))))
}

func find(wanted map[[8]byte][]needle, text []byte) string {
	for i := 0; i+8 <= len(text); i++ {
		for _, n := range wanted[[8]byte(text[i:i+8])] {
			if len(text)-i >= len(n.text) && string(text[i:i+len(n.text)]) == n.text {
				return n.form
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
