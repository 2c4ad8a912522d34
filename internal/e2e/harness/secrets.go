package harness

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

// NoSecretIn fails the test if a text holds a secret that the upstream ever made
// or that is a credential of it, or anything that has the form of one: the latter is all
// that is looked for where the upstream is not the simulator.
func NoSecretIn(t *testing.T, s Settings, texts ...string) {
	t.Helper()
	wanted := secretsOf(s.Sim)
	wanted.mu.Lock()
	defer wanted.mu.Unlock()
	for _, text := range texts {
		if form := wanted.in(text); form != "" {
			t.Errorf("a secret was let out, %s", form)
		}
	}
}

// scanners are kept while their simulators run: of one there may be many programs, and
// many thousands of secrets.
var scanners sync.Map // of *simulator.Simulator to *secretScanner

// secretsOf is a scanner of all that a simulator has made by now, nil for the form alone.
func secretsOf(sim *simulator.Simulator) *secretScanner {
	if sim == nil {
		return newSecretScanner()
	}
	kept, _ := scanners.LoadOrStore(sim, newSecretScanner(sim.OwnerToken().Reveal(), sim.UserToken().Reveal(), sim.OrganizationToken().Reveal()))
	n := kept.(*secretScanner)
	n.mu.Lock()
	defer n.mu.Unlock()
	minted := sim.Minted()
	for _, m := range minted[n.minted:] {
		n.add(m.Secret.Reveal())
	}
	n.minted = len(minted)
	return n
}

// Leaked returns the form in which text holds secret, or a good part of it, and
// "" if it does not.
func Leaked(text, secret string) string { return newSecretScanner(secret).in(text) }

// secretScanner are all the forms of secrets that are looked for at once, by their first
// eight bytes: there may be thousands of secrets and many megabytes to search.
type secretScanner struct {
	mu             sync.Mutex
	exact, anyCase map[[8]byte][]needle
	minted         int // of the simulator's, that are among them
}

type needle struct{ form, text string }

func newSecretScanner(secrets ...string) *secretScanner {
	n := &secretScanner{exact: map[[8]byte][]needle{}, anyCase: map[[8]byte][]needle{}}
	const mark = ".atlasv1." // stands in each of the upstream's secrets
	put(n.exact, "the form of one", mark)
	put(n.anyCase, "the form of one in hex", hex.EncodeToString([]byte(mark)))
	put(n.anyCase, "the form of one in url", Percent(mark))
	for skip := range 3 {
		put(n.exact, "the form of one in base64", base64.RawStdEncoding.EncodeToString([]byte(mark[skip:skip+(len(mark)-skip)/3*3])))
	}
	for _, secret := range secrets {
		n.add(secret)
	}
	return n
}

func put(to map[[8]byte][]needle, form, text string) {
	head := [8]byte([]byte(text)[:8])
	to[head] = append(to[head], needle{form, text})
}

// add has one more secret be looked for.
func (n *secretScanner) add(secret string) {
	const part = 16 // no id or hash of ours shares so many characters with a secret by chance
	for at := 0; at+part <= len(secret); at += part / 2 {
		put(n.exact, "plain", secret[at:at+part])
	}
	put(n.exact, "url", url.QueryEscape(secret))
	put(n.anyCase, "hex", hex.EncodeToString([]byte(secret[:part])))
	put(n.anyCase, "url", strings.ToLower(Percent(secret[:part])))
	// Base64 depends on how many bytes stand before: there are three alignments.
	for skip := range 3 {
		whole := secret[skip : skip+(len(secret)-skip)/3*3]
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			put(n.exact, "base64", e.EncodeToString([]byte(whole))[:20])
		}
	}
}

// in is the form of a secret that text holds, or "".
func (n *secretScanner) in(text string) string {
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
