package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
)

func newECDSA(id string, algorithm jose.SignatureAlgorithm, curve elliptic.Curve) signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return signer{id, algorithm, key}
}

func newEdDSA(id string) signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return signer{id, jose.EdDSA, key}
}

// jwk is the JSON of a key with members changed, name and value by turns; nil leaves
// one out.
func jwk(key jose.JSONWebKey, changes ...any) string {
	var all map[string]any
	document, err := key.MarshalJSON()
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(document, &all); err != nil {
		panic(err)
	}
	for i := 0; i+1 < len(changes); i += 2 {
		all[changes[i].(string)] = changes[i+1]
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	document, err = json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(document)
}

func setOf(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

// believing are JWTs of these keys, of every asymmetric algorithm.
func believing(t testing.TB, keys authn.KeySource) *authn.Authenticator {
	t.Helper()
	j, err := authn.NewJWT(authn.JWTOptions{
		Issuer: issuer, Audiences: []string{audience}, Keys: keys,
		Algorithms: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return authn.New(authn.Options{JWT: j})
}

// believed reports whether a token that s signs now is believed.
func believed(ctx context.Context, a *authn.Authenticator, s signer) bool {
	_, err := a.Authenticate(ctx, presented("10.0.0.1:1", "authorization", "Bearer "+s.sign(claims())))
	return err == nil
}

// oddKeys are keys that can't be used, by what is the matter with each. Their id is
// odd, where they have one.
func oddKeys() map[string]string {
	ec, rs, ed := newES256("odd"), newRS256("odd"), newEdDSA("odd")
	p384 := newECDSA("odd", jose.ES384, elliptic.P384())
	public := rs.private.(*rsa.PrivateKey).PublicKey
	modulus := func(n *big.Int) jose.JSONWebKey {
		return jose.JSONWebKey{KeyID: "odd", Key: &rsa.PublicKey{N: n, E: 65537}}
	}
	bits := func(n uint) *big.Int {
		return new(big.Int).SetBit(new(big.Int).SetBit(new(big.Int), int(n)-1, 1), 0, 1)
	}
	x := strings.Repeat("A", 43)
	return map[string]string{
		"secp256k1":                  `{"kty":"EC","crv":"secp256k1","kid":"odd","x":"` + x + `","y":"` + x + `"}`,
		"secp256k1, with its alg":    `{"kty":"EC","crv":"secp256k1","kid":"odd","alg":"ES256K","x":"` + x + `","y":"` + x + `"}`,
		"Brainpool":                  `{"kty":"EC","crv":"BP-256","kid":"odd","x":"` + x + `","y":"` + x + `"}`,
		"ML-DSA":                     `{"kty":"AKP","alg":"ML-DSA-44","kid":"odd","pub":"` + x + `"}`,
		"ML-DSA without its alg":     `{"kty":"AKP","kid":"odd","pub":"` + x + `"}`,
		"X25519":                     `{"kty":"OKP","crv":"X25519","kid":"odd","x":"` + x + `"}`,
		"Ed448":                      `{"kty":"OKP","crv":"Ed448","kid":"odd","x":"` + strings.Repeat("A", 76) + `"}`,
		"an unknown type":            `{"kty":"XYZ","kid":"odd","x":{"y":[1]}}`,
		"a type that is a number":    `{"kty":1,"kid":"odd"}`,
		"no type":                    `{"kid":"odd"}`,
		"an empty type":              `{"kty":"","kid":"odd"}`,
		"a type of null":             `{"kty":null,"kid":"odd"}`,
		"no curve":                   jwk(ec.public(), "crv", nil),
		"no x":                       jwk(ec.public(), "x", nil),
		"no y":                       jwk(ec.public(), "y", nil),
		"no n":                       jwk(rs.public(), "n", nil),
		"no e":                       jwk(rs.public(), "e", nil),
		"Ed25519 without x":          jwk(ed.public(), "x", nil),
		"Ed25519 of 31 bytes":        jwk(ed.public(), "x", strings.Repeat("A", 41)),
		"x that is no base64":        jwk(ec.public(), "x", "!!!"),
		"x that is a number":         jwk(ec.public(), "x", 1),
		"x too short":                jwk(ec.public(), "x", "AAAA"),
		"a point on no curve":        jwk(ec.public(), "x", x, "y", x),
		"n that is no base64":        jwk(rs.public(), "n", "a b c"),
		"an exponent of 1":           jwk(rs.public(), "e", "AQ"),
		"an even exponent":           jwk(rs.public(), "e", "BA"),
		"an exponent without end":    jwk(rs.public(), "e", strings.Repeat("AQAB", 100)),
		"an exponent of 62 bits":     jwk(rs.public(), "e", "P_________8"),
		"an even modulus":            jwk(modulus(new(big.Int).Lsh(public.N, 1))),
		"RSA of 512 bits":            jwk(modulus(bits(512))),
		"RSA of 1024 bits":           jwk(modulus(bits(1024))),
		"RSA of 2047 bits":           jwk(modulus(bits(2047))),
		"RSA of 8192 bits":           jwk(modulus(bits(8192))),
		"RSA of 1 Mbit":              jwk(modulus(bits(1 << 20))),
		"an RSA of nothing":          jwk(rs.public(), "n", ""),
		"a private EC key":           jwk(jose.JSONWebKey{Key: ec.private, KeyID: "odd"}),
		"a private RSA key":          jwk(jose.JSONWebKey{Key: rs.private, KeyID: "odd"}),
		"a private Ed25519 key":      jwk(jose.JSONWebKey{Key: ed.private, KeyID: "odd"}),
		"a prime of an RSA key":      jwk(rs.public(), "p", "AQAB"),
		"a symmetric key":            jwk(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "odd"}),
		"a symmetric key and its k":  jwk(rs.public(), "kty", "oct", "k", "AQAB"),
		"ES256 with P-384":           jwk(p384.public(), "alg", "ES256"),
		"ES384 with P-256":           jwk(ec.public(), "alg", "ES384"),
		"HS256 with an RSA key":      jwk(rs.public(), "alg", "HS256"),
		"none with an RSA key":       jwk(rs.public(), "alg", "none"),
		"ES256 with an RSA key":      jwk(rs.public(), "alg", "ES256"),
		"RS256 with an EC key":       jwk(ec.public(), "alg", "RS256"),
		"RSA-OAEP without a use":     jwk(rs.public(), "alg", "RSA-OAEP"),
		"an algorithm that is none":  jwk(rs.public(), "alg", "XY256"),
		"an algorithm as a number":   jwk(rs.public(), "alg", 1),
		"an id that is a number":     jwk(ec.public(), "kid", 1),
		"a use that is a list":       jwk(ec.public(), "use", []string{"sig"}),
		"a member that stands twice": `{"kty":"EC","kty":"RSA","kid":"odd"}`,
		"null":                       `null`,
		"a number":                   `5`,
		"a text":                     `"key"`,
		"a list":                     `[]`,
	}
}

// One key that can't be used costs the others nothing, wherever it stands; it is told
// of with its reason, and nothing signed by it is believed.
func TestKeysThatAreLeftOut(t *testing.T) {
	good := newES256("good")
	reasons := map[string]bool{}
	for name, odd := range oddKeys() {
		for place, set := range map[string][]byte{
			"before": setOf(odd, jwk(good.public())), "after": setOf(jwk(good.public()), odd),
			"twice, around": setOf(odd, jwk(good.public()), odd),
		} {
			keys, err := authn.ParseKeys(set)
			if err != nil {
				t.Errorf("%s, %s: %v", name, place, err)
				continue
			}
			if !believed(t.Context(), believing(t, authn.FileKeys(func() authn.KeySet { return keys })), good) {
				t.Errorf("%s, %s: the good key is not used", name, place)
			}
			for _, left := range keys.LeftOut() {
				reasons[left.Reason] = true
				if left.Reason == "" || len(left.Reason) > 120 || len(left.Kind) > 310 || left.ID != "" && left.ID != "odd" || len(left.Hash) != 16 {
					t.Errorf("%s: %+v", name, left)
				}
			}
			if want := 1 + strings.Count(place, "twice"); len(keys.LeftOut()) != want {
				t.Errorf("%s, %s: %d keys are left out, want %d", name, place, len(keys.LeftOut()), want)
			}
		}
		if _, err := authn.ParseKeys(setOf(odd)); err == nil || len(err.Error()) > 500 {
			t.Errorf("%s alone: %v", name, err)
		}
	}
	if len(reasons) < 8 {
		t.Errorf("there are %d reasons: %v", len(reasons), reasons)
	}
}

// A key that is left out is known again, in whatever order its members stand, and what
// must not be known of it is not told.
func TestLeftOutIsTheSameKey(t *testing.T) {
	left := func(keys ...string) []authn.LeftOut {
		set, err := authn.ParseKeys(setOf(append(keys, jwk(newES256("good").public()))...))
		if err != nil {
			t.Fatal(err)
		}
		return set.LeftOut()
	}
	same := left(`{"kty":"XYZ","kid":"a","x":"AAAA"}`, `{"x":"AAAA", "kid":"a" , "kty":"XYZ","iat":1}`)
	if same[0] != same[1] {
		t.Errorf("%+v", same)
	}
	other := left(`{"kty":"XYZ","x":"AAAA"}`, `{"kty":"XYZ","x":"BBBB"}`)
	if other[0] == other[1] {
		t.Errorf("%+v", other)
	}
	symmetric := left(`{"kty":"oct","kid":"a","k":"aHVudGVyMg"}`, `{"kty":"oct","kid":"a","k":"c2VjcmV0"}`)
	if symmetric[0] != symmetric[1] {
		t.Errorf("something of a symmetric key is told: %+v", symmetric)
	}
}

// What does not matter for a signature does not matter for a key.
func TestKeysThatAreTaken(t *testing.T) {
	ec, rs := newES256("1"), newRS256("1")
	for name, key := range map[string]string{
		"as it is":                      jwk(ec.public()),
		"members that nobody knows":     jwk(ec.public(), "iat", 1, "x-y", map[string]any{"a": 1}),
		"members that are null":         `{"d":null,"k":null,"alg":null,"use":null,"x5c":null,` + jwk(ec.public())[1:],
		"an empty use":                  jwk(ec.public(), "use", ""),
		"for signatures":                jwk(ec.public(), "use", "sig", "alg", "ES256", "key_ops", []string{"verify"}),
		"a certificate that is none":    jwk(ec.public(), "x5c", []string{"!!!"}, "x5t", "zz", "x5u", "::"),
		"key_ops that are none":         jwk(ec.public(), "key_ops", "verify"),
		"padded base64, as some do":     jwk(ec.public(), "alg", "ES256", "kid", "1"),
		"RSA":                           jwk(rs.public()),
		"RSA for RS256 alone":           jwk(rs.public(), "alg", "RS256"),
		"RSA whose exponent has zeroes": jwk(rs.public(), "e", "AAEAAQ"),
	} {
		keys, err := authn.ParseKeys(setOf(key))
		if err != nil || len(keys.LeftOut()) != 0 {
			t.Errorf("%s: %v, %v", name, err, keys.LeftOut())
			continue
		}
		by := ec
		if strings.HasPrefix(name, "RSA") {
			by = rs
		}
		if !believed(t.Context(), believing(t, authn.FileKeys(func() authn.KeySet { return keys })), by) {
			t.Errorf("%s: it is not used", name)
		}
	}
	for name, key := range map[string]string{
		"for encryption":              jwk(ec.public(), "use", "enc"),
		"for deriving":                jwk(ec.public(), "key_ops", []string{"deriveKey"}),
		"for encryption, type no one": `{"kty":"XYZ","use":"enc"}`,
	} {
		keys, err := authn.ParseKeys(setOf(key, jwk(rs.public())))
		if err != nil || len(keys.LeftOut()) != 0 {
			t.Errorf("%s: %v, %v", name, err, keys.LeftOut())
		}
		if believed(t.Context(), believing(t, authn.FileKeys(func() authn.KeySet { return keys })), ec) {
			t.Errorf("%s: it is used", name)
		}
	}
	if _, err := authn.ParseKeys(setOf(jwk(rs.public())), "ES256"); err == nil {
		t.Error("a set whose keys fit no algorithm is taken")
	}
}

// A token is tried with the keys that it may be signed by: those of its id and
// algorithm, and where there is no id to go by, a bounded number.
func TestWhichKeyIsMeant(t *testing.T) {
	ec, ec2, rs := newES256("k"), newES256("k"), newRS256("k")
	ps := signer{"k", jose.PS256, rs.private}
	p384, p521, ed := newECDSA("k", jose.ES384, elliptic.P384()), newECDSA("k", jose.ES512, elliptic.P521()), newEdDSA("k")
	renamed := func(s signer, id string) signer { s.id = id; return s }
	nameless := func(s signer) string { return jwk(s.public(), "kid", nil) }
	var many []signer
	var manyKeys []string
	for i := range 20 {
		many = append(many, newES256(""))
		manyKeys = append(manyKeys, nameless(many[i]))
	}
	for _, row := range []struct {
		name string
		keys []string
		by   signer
		want bool
	}{
		{"one id for keys of each kind: ES256", []string{jwk(rs.public()), jwk(p384.public()), jwk(ed.public()), jwk(ec.public())}, ec, true},
		{"one id for keys of each kind: RS256", []string{jwk(ec.public()), jwk(p384.public()), jwk(ed.public()), jwk(rs.public())}, rs, true},
		{"one id for keys of each kind: ES384", []string{jwk(ec.public()), jwk(p521.public()), jwk(p384.public())}, p384, true},
		{"one id for keys of each kind: ES512", []string{jwk(ec.public()), jwk(p384.public()), jwk(p521.public())}, p521, true},
		{"one id for keys of each kind: EdDSA", []string{jwk(ec.public()), jwk(rs.public()), jwk(ed.public())}, ed, true},
		{"one key for two algorithms, the first", []string{jwk(rs.public(), "alg", "RS256"), jwk(rs.public(), "alg", "PS256")}, rs, true},
		{"one key for two algorithms, the second", []string{jwk(rs.public(), "alg", "RS256"), jwk(rs.public(), "alg", "PS256")}, ps, true},
		{"one key twice", []string{jwk(ec.public()), jwk(ec.public())}, ec, true},
		{"one id for signatures and encryption", []string{jwk(ec2.public(), "use", "enc"), jwk(ec.public(), "use", "sig")}, ec, true},
		{"one id for two keys, the first", []string{jwk(ec.public()), jwk(ec2.public())}, ec, true},
		{"one id for two keys, the second", []string{jwk(ec2.public()), jwk(ec.public())}, ec, true},
		{"one id for two keys, and neither", []string{jwk(ec2.public()), jwk(ec.public())}, newES256("k"), false},
		{"no id in the set, one in the token", []string{nameless(ec2), nameless(ec)}, ec, true},
		{"no id in the set, none in the token", []string{nameless(ec2), nameless(rs), nameless(ec)}, renamed(ec, ""), true},
		{"an id in the set, none in the token", []string{jwk(ec2.public()), jwk(ec.public())}, renamed(ec, ""), true},
		{"one key of the id, which is another, and one without", []string{jwk(ec2.public()), nameless(ec)}, ec, false},
		{"one key of the id that does not fit, and one without", []string{jwk(rs.public()), nameless(ec)}, ec, true},
		{"another id", []string{jwk(ec.public())}, renamed(ec, "other"), false},
		{"an algorithm that the key is not for", []string{jwk(rs.public(), "alg", "RS256")}, ps, false},
		{"P-384 under the id, and signed with P-256", []string{jwk(p384.public())}, ec, false},
		{"the eighth of twenty without ids", manyKeys, many[7], true},
		{"the last of twenty without ids", manyKeys, many[19], false},
	} {
		keys, err := authn.ParseKeys(setOf(row.keys...))
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if got := believed(t.Context(), believing(t, authn.FileKeys(func() authn.KeySet { return keys })), row.by); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}

// Nobody can have a token checked at the cost of a long set of keys.
func TestTriesAreBounded(t *testing.T) {
	cost := func(keys int) float64 {
		var all []string
		for range keys {
			all = append(all, jwk(newES256("").public(), "kid", nil))
		}
		set, err := authn.ParseKeys(setOf(all...))
		if err != nil {
			t.Fatal(err)
		}
		a := believing(t, authn.FileKeys(func() authn.KeySet { return set }))
		call := presented("10.0.0.1:1", "authorization", "Bearer "+newES256("x").sign(claims()))
		return testing.AllocsPerRun(20, func() { _, _ = a.Authenticate(t.Context(), call) })
	}
	few, many := cost(8), cost(250)
	if many > 2*few+50 {
		t.Errorf("with 8 keys a bad token costs %v allocations, with 250 %v", few, many)
	}
	if _, err := authn.ParseKeys(setOf(strings.Split(strings.Repeat(jwk(newES256("a").public())+"\n", 5000), "\n")[:5000]...)); err != nil {
		t.Errorf("a set of 5000 keys: %v", err)
	}
	set, err := authn.ParseKeys(setOf(append(strings.Split(strings.Repeat("5,", 5000), ",")[:5000], jwk(newES256("a").public()))...))
	if err != nil || len(set.LeftOut()) > 32 {
		t.Errorf("of 5000 bad keys %d are told of: %v", len(set.LeftOut()), err)
	}
}

// An issuer adds a key of a kind that is not known, and rotates the others: the new
// ones are picked up, with or without ids, and under an id that stays the same.
func TestIssuerWithOddKeys(t *testing.T) {
	for _, ids := range []string{"each its own", "always the same", "none"} {
		for name, odd := range oddKeys() {
			if ids != "each its own" && name != "secp256k1" {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				id := map[string]string{"always the same": "k"}[ids]
				s := &rawServer{}
				var signers []signer
				for i := range 3 {
					if ids == "each its own" {
						id = fmt.Sprint("k", i)
					}
					signers = append(signers, newES256(id))
				}
				s.set(setOf(odd, jwk(signers[0].public())))
				var told []error
				var left []authn.LeftOut
				keys := authn.DiscoverKeys(ctx, authn.IssuerOptions{
					Issuer: issuer, Client: &http.Client{Transport: s}, Changed: func(err error) { told = append(told, err) },
					Waiting: func(err error, _ time.Duration) { t.Errorf("%s: %v", name, err) },
					LeftOut: func(l []authn.LeftOut) { left = append(left, l...) },
				})
				a := believing(t, keys)
				if !believed(ctx, a, signers[0]) || believed(ctx, a, signers[1]) {
					t.Fatalf("%s: at first it is the first key alone", name)
				}
				time.Sleep(11 * time.Second)
				s.set(setOf(jwk(signers[1].public()), odd))
				if !believed(ctx, a, signers[1]) || believed(ctx, a, signers[0]) {
					t.Fatalf("%s, ids %s: a key that came is not picked up, or one that went is", name, ids)
				}
				// A set without any key that can be used is none.
				time.Sleep(11 * time.Second)
				s.set(setOf(odd))
				if believed(ctx, a, signers[2]) || !believed(ctx, a, signers[1]) {
					t.Fatalf("%s: the last good key is not kept", name)
				}
				time.Sleep(11 * time.Second)
				s.set(setOf(odd, jwk(signers[1].public()), jwk(signers[2].public())))
				if !believed(ctx, a, signers[2]) || !believed(ctx, a, signers[1]) {
					t.Fatalf("%s: the set does not recover", name)
				}
				if len(told) != 3 || told[0] != nil || told[1] == nil || told[2] != nil || len(left) != 3 {
					t.Errorf("%s: told of %v, and of %v", name, told, left)
				}
			})
		}
	}
}

// rawServer is an issuer whose set is what it is given.
type rawServer struct{ keys atomic.Pointer[[]byte] }

func (s *rawServer) set(keys []byte) { s.keys.Store(&keys) }

func (s *rawServer) RoundTrip(r *http.Request) (*http.Response, error) {
	inner := newServer()
	if r.URL.Path != "/keys" {
		return inner.RoundTrip(r)
	}
	return answerOf(*s.keys.Load()), nil
}
