package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// KeySet is public keys that were checked. The zero value has none.
type KeySet struct {
	version uint64 // another for each set, and later ones are greater; 0 if there is none
	keys    []jose.JSONWebKey
	leftOut []LeftOut
}

// LeftOut is a key of a set that is not used, and why. It is comparable: what is
// equal is the same key left out for the same reason.
type LeftOut struct {
	ID     string // the key's own, cut short
	Kind   string // its type, curve and algorithm, as far as it says them
	Hash   string // a part of that of what is public of it, which tells keys without an ID apart
	Reason string
}

// LeftOut returns the keys that are not usable, the first ones if they are many. Keys
// that are declared for something else than signatures are not among them.
func (s KeySet) LeftOut() []LeftOut { return s.leftOut }

// versions counts the sets that were parsed.
var versions atomic.Uint64

const (
	// maxKeys bounds what is kept of a set. Issuers have two or three keys.
	maxKeys    = 256
	maxLeftOut = 32
	// maxTries bounds the keys that one token is tried with: each costs a verification
	// of a signature, which may be anybody's.
	maxTries = 8

	minModulus, maxModulus = 2048, 4096 // bits of RSA keys
)

// ParseKeys reads a JWKS. A key that can't be used is left out, whatever is wrong
// with it, and the others are used (RFC 7517, section 5): an issuer may add a key of
// a new type at any time. Keys that fit none of the algorithms are of no use; without
// algorithms every asymmetric one is meant. A set without a key of use is an error.
func ParseKeys(jwks []byte, algorithms ...string) (KeySet, error) {
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil || set.Keys == nil {
		return KeySet{}, errors.New("authn: not a key set (JWKS)")
	}
	if len(algorithms) == 0 {
		for _, algorithm := range Algorithms {
			algorithms = append(algorithms, string(algorithm))
		}
	}
	s := KeySet{version: versions.Add(1)}
	var why []string
	for _, raw := range *set.Keys {
		key, err := parseKey(raw)
		switch {
		case errors.Is(err, errOtherUse):
		case err == nil && len(s.keys) == maxKeys:
			err = fmt.Errorf("there are %d other keys already", maxKeys)
			fallthrough
		case err != nil:
			left := leftOut(raw, err)
			if len(s.leftOut) < maxLeftOut {
				s.leftOut = append(s.leftOut, left)
			}
			why = append(why, fmt.Sprintf("key %q: %s", left.ID, left.Reason))
		case slices.ContainsFunc(algorithms, func(algorithm string) bool { return usable(key, algorithm) }):
			s.keys = append(s.keys, key)
		}
	}
	if len(s.keys) == 0 {
		const shown = 3
		text := fmt.Sprintf("authn: none of the %d keys can verify a signature of %s", len(*set.Keys), strings.Join(algorithms, ", "))
		return KeySet{}, errors.New(strings.Join(append([]string{text}, why[:min(len(why), shown)]...), "; "))
	}
	return s, nil
}

// candidates are the keys that a token of this key id, which may be empty, and of
// this algorithm may be signed with: those of the id, or else those without one. An
// issuer may give one id to several keys.
func (s KeySet) candidates(id, algorithm string) []jose.JSONWebKey {
	var named, nameless []jose.JSONWebKey
	for _, key := range s.keys {
		switch {
		case !usable(key, algorithm):
		case id == "" || key.KeyID == id:
			named = append(named, key)
		case key.KeyID == "":
			nameless = append(nameless, key)
		}
	}
	if len(named) == 0 {
		named = nameless
	}
	return named[:min(len(named), maxTries)]
}

// usable reports whether a key can verify signatures of an algorithm.
func usable(key jose.JSONWebKey, algorithm string) bool {
	return (key.Algorithm == "" || key.Algorithm == algorithm) && fits(key.Key, algorithm)
}

// fits reports whether a key is of the kind that an algorithm signs with, curve
// included.
func fits(key any, algorithm string) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == ofCurve[key.Curve.Params().Name]
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	default:
		return false
	}
}

// ofCurve is the one algorithm that goes with a curve (RFC 7518, section 3.4).
var ofCurve = map[string]string{"P-256": string(jose.ES256), "P-384": string(jose.ES384), "P-521": string(jose.ES512)}

var (
	// errOtherUse is of keys that are not for signatures, as they say.
	errOtherUse = errors.New("it is not for signatures")

	errNoObject  = errors.New("it is not a JSON object, or has a member twice")
	errNoKind    = errors.New("its type (kty) is missing")
	errSymmetric = errors.New("it is symmetric: whoever reads the set could sign with it")
	errPrivate   = errors.New("it is private: whoever reads the set can sign with it")
	errKind      = errors.New("its type or curve is not supported")
	errModulus   = fmt.Errorf("its modulus is not of %d to %d bits", minModulus, maxModulus)
	errExponent  = errors.New("its modulus or exponent is not that of an RSA key")
	errAlgorithm = errors.New("its algorithm (alg) does not fit a signing key of its type")
)

// members are those of a key that are read. Of certificates (x5c and such) nothing
// is: the key is believed because the set is the issuer's.
var members = []string{"kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"}

// private are those that only a private or symmetric key has.
var private = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// parseKey is the public key that raw is, or why it can't be used.
func parseKey(raw json.RawMessage) (jose.JSONWebKey, error) {
	none := jose.JSONWebKey{}
	all, err := membersOf(raw)
	if err != nil {
		return none, err
	}
	if purpose, ok := all["use"]; ok && text(purpose) != "" && text(purpose) != "sig" {
		return none, errOtherUse
	}
	var operations []string
	if has, ok := all["key_ops"]; ok && json.Unmarshal(has, &operations) == nil &&
		!slices.Contains(operations, "verify") && !slices.Contains(operations, "sign") {
		return none, errOtherUse
	}
	kind, curve := text(all["kty"]), text(all["crv"])
	switch {
	case kind == "":
		return none, errNoKind
	case kind == "oct":
		return none, errSymmetric
	case slices.ContainsFunc(private, func(name string) bool { return all[name] != nil }):
		return none, errPrivate
	case kind != "RSA" && kind != "EC" && kind != "OKP",
		kind == "EC" && curve != "P-256" && curve != "P-384" && curve != "P-521",
		kind == "OKP" && curve != "Ed25519":
		return none, errKind
	}
	read := make(map[string]stdjson.RawMessage, len(members))
	for _, name := range members {
		if value, ok := all[name]; ok {
			read[name] = stdjson.RawMessage(value)
		}
	}
	document, err := stdjson.Marshal(read) // go-jose's writes a RawMessage of a map as base64
	if err != nil {
		return none, errNoObject
	}
	var key jose.JSONWebKey
	switch err := key.UnmarshalJSON(document); {
	case errors.Is(err, jose.ErrUnsupportedKeyType) && kind == "RSA":
		return none, errModulus // go-jose has the same maximum
	case err != nil:
		return none, errors.New(short(strings.TrimPrefix(err.Error(), "go-jose/go-jose: ")))
	case !key.Valid() || !key.IsPublic():
		return none, errKind
	}
	if rsa, ok := key.Key.(*rsa.PublicKey); ok {
		switch {
		case rsa.N.BitLen() < minModulus || rsa.N.BitLen() > maxModulus:
			return none, errModulus
		case rsa.N.Bit(0) == 0 || rsa.E&1 == 0 || rsa.E < 3 || rsa.E > math.MaxInt32:
			return none, errExponent
		}
	}
	if key.Algorithm != "" && (!slices.Contains(Algorithms, jose.SignatureAlgorithm(key.Algorithm)) || !fits(key.Key, key.Algorithm)) {
		return none, errAlgorithm
	}
	return key, nil
}

// membersOf are the members of a JSON object that are not null.
func membersOf(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return nil, errNoObject
	}
	for name, value := range all {
		if string(value) == "null" {
			delete(all, name)
		}
	}
	return all, nil
}

// text is the string that raw is, and empty if it is none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func leftOut(raw json.RawMessage, why error) LeftOut {
	all, _ := membersOf(raw)
	var kind []string
	for _, name := range []string{"kty", "crv", "alg"} {
		if value := text(all[name]); value != "" {
			kind = append(kind, short(value))
		}
	}
	known := make(map[string]string) // in whatever order the issuer writes them, and nothing that it may have to keep to itself
	for _, name := range append([]string{"pub"}, members...) {
		known[name] = string(all[name])
	}
	document, _ := stdjson.Marshal(known) // of strings
	sum := sha256.Sum256(document)
	return LeftOut{ID: short(text(all["kid"])), Kind: strings.Join(kind, " "), Hash: hex.EncodeToString(sum[:8]), Reason: why.Error()}
}

// short is a text of the issuer's for the log.
func short(s string) string {
	const most = 100
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}
