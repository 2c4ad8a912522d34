package harness

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// NoSecretIn fails the test if a text holds a secret that the upstream ever made
// or that is a credential of it.
func NoSecretIn(t *testing.T, s Settings, texts ...string) {
	t.Helper()
	if s.Sim == nil {
		return
	}
	secrets := []string{
		s.Sim.OwnerToken().Reveal(), s.Sim.UserToken().Reveal(), s.Sim.OrganizationToken().Reveal(),
	}
	for _, m := range s.Sim.Minted() {
		secrets = append(secrets, m.Secret.Reveal())
	}
	wanted := newSecretScanner(secrets...)
	for _, text := range texts {
		if form := wanted.in(text); form != "" {
			t.Errorf("a secret was let out, %s", form)
		}
	}
}

// Leaked returns the form in which text holds secret, or a good part of it, and
// "" if it does not.
func Leaked(text, secret string) string { return newSecretScanner(secret).in(text) }

// secretScanner are all the forms of secrets that are looked for at once, by their first
// eight bytes: there may be thousands of secrets and many megabytes to search.
type secretScanner struct {
	exact, anyCase map[[8]byte][]needle
}

type needle struct{ form, text string }

func newSecretScanner(secrets ...string) secretScanner {
	n := secretScanner{exact: map[[8]byte][]needle{}, anyCase: map[[8]byte][]needle{}}
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
		add(n.anyCase, "url", strings.ToLower(Percent(secret[:part])))
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
func (n secretScanner) in(text string) string {
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

// Percent encodes every byte, as a careful encoder might.
func Percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}
