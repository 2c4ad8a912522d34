package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// JWTOptions say which JWTs are believed. All but Leeway must be set.
type JWTOptions struct {
	Issuer     string
	Audiences  []string // one of which a token must be meant for
	Algorithms []string // asymmetric ones
	// Leeway is how far the issuer's clock may be off, at most a minute.
	Leeway time.Duration
	Keys   KeySource
}

// MaxLeeway is the most that a clock may be off.
const MaxLeeway = time.Minute

// Algorithms are the asymmetric ones, by which nobody who checks a token could make one.
var Algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// JWTVerifier verifies bearer tokens of one issuer. It is safe for concurrent use.
type JWTVerifier struct {
	options    JWTOptions
	algorithms []jose.SignatureAlgorithm
	known      verifiedCache
}

// NewJWT returns a JWT, or an error that says which option is wrong.
func NewJWT(o JWTOptions) (*JWTVerifier, error) {
	j := &JWTVerifier{options: o}
	for _, name := range o.Algorithms {
		algorithm := jose.SignatureAlgorithm(name)
		if !slices.Contains(Algorithms, algorithm) {
			return nil, fmt.Errorf("authn: %q is not an algorithm of asymmetric signatures", name)
		}
		j.algorithms = append(j.algorithms, algorithm)
	}
	switch {
	case !ValidIssuer(o.Issuer):
		return nil, errors.New("authn: the issuer must be printable ASCII, without # and spaces")
	case len(o.Audiences) == 0 || slices.Contains(o.Audiences, ""):
		return nil, errors.New("authn: no audience")
	case len(j.algorithms) == 0:
		return nil, errors.New("authn: no algorithm")
	case o.Leeway < 0 || o.Leeway > MaxLeeway:
		return nil, fmt.Errorf("authn: a leeway of %v is not from 0 to %v", o.Leeway, MaxLeeway)
	case o.Keys == nil:
		return nil, errors.New("authn: no keys")
	}
	return j, nil
}

const (
	maxToken   = 8 << 10 // bytes
	maxSubject = 1024    // bytes
)

var (
	errManyTokens = errors.New("there is more than one credential")
	errNoBearer   = errors.New("the credential is no bearer token of a fit length")
	errNotSigned  = errors.New("the token is not signed as it must be")
	errKindOfJWT  = errors.New("the token's header is not that of a JWT or at+jwt (typ, cty, crit, b64)")
	errNoKey      = errors.New("the token is signed by a key that is not the issuer's")
	errClaims     = errors.New("the token's claims are not those of a JWT")
	errIssuer     = errors.New("the token is of another issuer")
	errAudience   = errors.New("the token is meant for somebody else")
	errNoExpiry   = errors.New("the token never expires")
	errExpired    = errors.New("the token has expired")
	errTooEarly   = errors.New("the token is not valid yet")
	errSubject    = errors.New("the token's subject is missing, too long, or has invisible characters")
)

// caller is the subject of the one token that was sent.
func (j *JWTVerifier) caller(ctx context.Context, sent []string) (caller.Caller, error) {
	if len(sent) != 1 {
		return caller.Caller{}, errManyTokens
	}
	token, ok := caller.Bearer(sent[0])
	if !ok || len(token) > maxToken {
		return caller.Caller{}, errNoBearer
	}
	id, now := sha256.Sum256([]byte(token)), time.Now()
	keys := j.options.Keys.Current()
	if c, ok := j.known.get(keys.version, id, now); ok {
		return c, nil
	}
	signed, err := jose.ParseSignedCompact(token, j.algorithms)
	switch {
	case err != nil || len(signed.Signatures) != 1:
		return caller.Caller{}, errNotSigned
	case !plain(signed.Signatures[0].Header):
		return caller.Caller{}, errKindOfJWT
	case keys.version == 0:
		return caller.Caller{}, caller.ErrUnavailable
	}
	claims, ok := keys.verify(signed)
	if !ok { // it may be by a key that came since
		version := keys.version
		if keys = j.options.Keys.Refreshed(ctx); keys.version != version {
			claims, ok = keys.verify(signed)
		}
	}
	if !ok {
		return caller.Caller{}, errNoKey
	}
	c, expiry, err := j.read(claims, now)
	if err != nil {
		return caller.Caller{}, err
	}
	j.known.put(keys.version, id, c, now, expiry.Add(j.options.Leeway))
	return c, nil
}

// verify is the claims of a token, if it is signed by one of the keys.
func (s KeySet) verify(signed *jose.JSONWebSignature) (claims []byte, ok bool) {
	header := signed.Signatures[0].Header
	for _, key := range s.candidates(header.KeyID, header.Algorithm) {
		if claims, err := signed.Verify(key); err == nil {
			return claims, true
		}
	}
	return nil, false
}

// plain reports whether a header is of a JWT that says who calls, and of nothing that
// is signed by the same keys (RFC 8725, section 3.11): its type is JWT or at+jwt, or
// is not there, which Kubernetes leaves out. Whatever changes how the token is to be
// read is refused. Keys that the token brings or points to (jwk, jku, x5c, x5u) are
// never read.
func plain(header jose.Header) bool {
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, ok := header.ExtraHeaders[name]; ok {
			return false
		}
	}
	if content, ok := header.ExtraHeaders[jose.HeaderContentType]; ok {
		if kind, ok := content.(string); !ok || mediaType(kind) == "jwt" { // there is a token within
			return false
		}
	}
	value, ok := header.ExtraHeaders[jose.HeaderType]
	if !ok {
		return true
	}
	kind, _ := value.(string)
	return mediaType(kind) == "jwt" || mediaType(kind) == "at+jwt"
}

// mediaType is a media type in lower case and without the `application/` that JOSE
// may leave out (RFC 7515, section 4.1.9).
func mediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}

// read is who the verified claims of a token name, and when it expires.
func (j *JWTVerifier) read(claims []byte, now time.Time) (caller.Caller, time.Time, error) {
	none := time.Time{}
	var standard jwt.Claims
	var all caller.Claims
	if json.Unmarshal(claims, &standard) != nil || json.Unmarshal(claims, &all) != nil {
		return caller.Caller{}, none, errClaims
	}
	o := j.options
	switch {
	case standard.Issuer != o.Issuer:
		return caller.Caller{}, none, errIssuer
	case !slices.ContainsFunc(o.Audiences, standard.Audience.Contains):
		return caller.Caller{}, none, errAudience
	case standard.Expiry == nil:
		return caller.Caller{}, none, errNoExpiry
	case !now.Before(standard.Expiry.Time().Add(o.Leeway)):
		return caller.Caller{}, none, errExpired
	case notYetValid(standard.NotBefore, now.Add(o.Leeway)), notYetValid(standard.IssuedAt, now.Add(o.Leeway)):
		return caller.Caller{}, none, errTooEarly
	case !validSubject(standard.Subject):
		return caller.Caller{}, none, errSubject
	}
	return caller.Caller{ID: o.Issuer + "#" + standard.Subject, VerifiedBy: caller.JWT, Claims: all}, standard.Expiry.Time(), nil
}

func notYetValid(t *jwt.NumericDate, now time.Time) bool { return t != nil && t.Time().After(now) }

// ValidIssuer reports whether issuer can stand before the `#` of an id, which is the
// first one in it: it is printable ASCII, without `#` and blanks.
func ValidIssuer(issuer string) bool {
	return secret.IsWord(issuer) && !strings.Contains(issuer, "#")
}

// validSubject reports whether subject can stand after it: whatever can be seen. A
// blank at either end can't.
func validSubject(subject string) bool {
	return subject != "" && len(subject) <= maxSubject && strings.Trim(subject, " ") == subject && caller.Printable(subject)
}

// verifiedCache are the tokens that were verified: ES256 costs more than all the rest of a
// call. A token is verifiedCache by its hash alone, for as long as it and the keys that it
// was verified by are good, and for a minute at the most.
type verifiedCache struct {
	mu      sync.RWMutex
	version uint64 // of the keys
	tokens  map[[sha256.Size]byte]cacheEntry
}

type cacheEntry struct {
	caller caller.Caller
	until  time.Time
}

const (
	knownLife = time.Minute
	maxKnown  = 4096
)

func (k *verifiedCache) get(version uint64, id [sha256.Size]byte, now time.Time) (caller.Caller, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	v, ok := k.tokens[id]
	return v.caller, ok && k.version == version && now.Before(v.until)
}

func (k *verifiedCache) put(version uint64, id [sha256.Size]byte, c caller.Caller, now, until time.Time) {
	if end := now.Add(knownLife); end.Before(until) {
		until = end
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.version > version {
		return // it was verified by keys that are gone
	}
	if k.version != version || k.tokens == nil {
		k.version, k.tokens = version, make(map[[sha256.Size]byte]cacheEntry)
	}
	for old, v := range k.tokens { // in no order: any that goes is verified again
		if len(k.tokens) < maxKnown {
			break
		}
		if now.After(v.until) || len(k.tokens) >= maxKnown {
			delete(k.tokens, old)
		}
	}
	k.tokens[id] = cacheEntry{c, until}
}
