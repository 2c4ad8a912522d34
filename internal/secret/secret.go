// Package secret holds bearer secrets so that nothing prints one by accident.
//
// Every credential and every token of this program lives in a Text from the
// moment it is read until the moment it is handed to whom it belongs. Reveal is
// the only way out, so a search for its callers finds every such moment.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Redacted is what every form of printing shows instead of the secret.
const Redacted = "[redacted]"

// Text is a secret string. Its zero value is no secret at all.
//
// The value is behind a pointer because fmt cannot call methods on a struct's
// unexported fields and would print their contents: so it prints an address.
type Text struct{ value *string }

// New wraps s. An empty s gives the zero Text.
func New(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{&s}
}

// Reveal returns the secret itself.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// IsZero reports whether there is no secret.
func (t Text) IsZero() bool { return t.value == nil }

// Equal compares in a time that does not depend on where the two differ.
func (t Text) Equal(o Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(o.Reveal())) == 1
}

// Fingerprint names a credential without revealing it: by 128 bits of its hash, so
// that nobody can make two credentials with one name.
func Fingerprint(credential Text) string {
	sum := sha256.Sum256([]byte(credential.Reveal()))
	return hex.EncodeToString(sum[:16])
}

func (t Text) String() string {
	if t.IsZero() {
		return ""
	}
	return Redacted
}

// Format serves every verb of fmt, %#v and %x included.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue serves log/slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText serves JSON, YAML, XML and flag packages.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalJSON takes a JSON string or null, so that a decoder never holds the
// secret in any other field. Its error says nothing of the input.
func (t *Text) UnmarshalJSON(b []byte) error {
	var s *string
	if json.Unmarshal(b, &s) != nil {
		return errNotString
	}
	*t = Text{}
	if s != nil {
		*t = New(*s)
	}
	return nil
}

var errNotString = errors.New("secret: not a JSON string")

// IsWord reports whether s can be a credential in a header: one word of printable ASCII.
func IsWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}
