package seal_test

import (
	"bytes"
	"testing"

	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// What each keyset can open that another one sealed, while keys are rotated.
func TestRotation(t *testing.T) {
	first := must(seal.NewKeyset())
	added := must(seal.AddKey(first))
	promoted := must(seal.PromoteKey(added))
	dropped := must(seal.DropKeys(promoted))
	other := must(seal.NewKeyset())
	for _, row := range []struct {
		name         string
		seals, opens []byte
		ok           bool
	}{
		{"a replica that has no new key reads what one wrote that has", added, first, true},
		{"before the new key seals, all must have it", promoted, first, false},
		{"and then they can read it", promoted, added, true},
		{"what the old key sealed opens after the change", first, promoted, true},
		{"until it is dropped", first, dropped, false},
		{"which the new one is not", promoted, dropped, true},
		{"another service's keys open nothing", other, promoted, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			sealed, err := must(seal.Parse(row.seals)).Seal(secret.New("the secret"), "team-1")
			if err != nil || bytes.Contains(sealed, []byte("secret")) {
				t.Fatalf("%v, %q", err, sealed)
			}
			opened, err := must(seal.Parse(row.opens)).Open(sealed, "team-1")
			if (err == nil) != row.ok || row.ok && opened.Reveal() != "the secret" {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

func TestSealedForOnePurpose(t *testing.T) {
	keys := must(seal.Ephemeral())
	sealed := must(keys.Seal(secret.New("the secret"), "caller a"))
	if _, err := keys.Open(sealed, "caller b"); err == nil {
		t.Error("it opened for another purpose")
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := keys.Open(sealed, "caller a"); err == nil {
		t.Error("it opened although it was changed")
	}
}

func TestNoKeyset(t *testing.T) {
	for _, file := range []string{"", "{}", "null", `{"primaryKeyId":1,"key":[]}`, "not json"} {
		if _, err := seal.Parse([]byte(file)); err == nil {
			t.Errorf("%q is taken for a keyset", file)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
