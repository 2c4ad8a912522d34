// Package seal keeps secrets that have to lie somewhere for a while: with a key
// that is not there, and bound to what they are for, so that one that is moved to
// another place does not open.
//
// The keys are a Tink keyset of AES-256-GCM keys, of which one seals and all open.
package seal

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// Keys seal and open. They are safe for concurrent use.
type Keys struct{ aead tink.AEAD }

// Ephemeral are keys that nobody else has, and that are gone with the process.
func Ephemeral() (*Keys, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return newKeys(handle)
}

// Parse reads a keyset file. Its error says nothing of what is in it.
func Parse(file []byte) (*Keys, error) {
	handle, err := read(file)
	if err != nil {
		return nil, err
	}
	return newKeys(handle)
}

func newKeys(handle *keyset.Handle) (*Keys, error) {
	a, err := aead.New(handle)
	if err != nil {
		return nil, errNoKeyset
	}
	return &Keys{a}, nil
}

var (
	errNoKeyset = errors.New("it is no keyset that can seal: make one with `teamtoken-server state-key new FILE`")
	errSealed   = errors.New("seal: it does not open: other keys, or moved from where it belongs")
)

func read(file []byte) (*keyset.Handle, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(file)))
	if err != nil {
		return nil, errNoKeyset
	}
	return handle, nil
}

// Seal hides a text. It opens only with the same purpose.
func (k *Keys) Seal(text secret.Text, purpose string) ([]byte, error) {
	sealed, err := k.aead.Encrypt([]byte(text.Reveal()), []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// Open gives back what was sealed.
func (k *Keys) Open(sealed []byte, purpose string) (secret.Text, error) {
	text, err := k.aead.Decrypt(sealed, []byte(purpose))
	if err != nil {
		return secret.Text{}, errSealed
	}
	return secret.New(string(text)), nil
}

// NewKeyset is a file with one new key.
func NewKeyset() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return write(handle)
}

// AddKey is the file with a further key, which opens and does not seal yet: all
// replicas have to know it before one of them uses it.
func AddKey(file []byte) ([]byte, error) {
	return editKeyset(file, func(m *keyset.Manager, _ *keyset.Handle) error {
		_, err := m.Add(aead.AES256GCMKeyTemplate())
		return err
	})
}

// PromoteKey is the file with the newest key as the one that seals.
func PromoteKey(file []byte) ([]byte, error) {
	return editKeyset(file, func(m *keyset.Manager, h *keyset.Handle) error {
		newest, err := h.Entry(h.Len() - 1)
		if err != nil {
			return err
		}
		return m.SetPrimary(newest.KeyID())
	})
}

// DropKeys is the file with the key alone that seals: what the others sealed is
// lost.
func DropKeys(file []byte) ([]byte, error) {
	return editKeyset(file, func(m *keyset.Manager, h *keyset.Handle) error {
		for i := range h.Len() {
			entry, err := h.Entry(i)
			if err != nil {
				return err
			}
			if entry.IsPrimary() {
				continue
			}
			if err := m.Delete(entry.KeyID()); err != nil {
				return err
			}
		}
		return nil
	})
}

func editKeyset(file []byte, how func(*keyset.Manager, *keyset.Handle) error) ([]byte, error) {
	handle, err := read(file)
	if err != nil {
		return nil, err
	}
	m := keyset.NewManagerFromHandle(handle)
	if err := how(m, handle); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	changed, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return write(changed)
}

func write(handle *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
