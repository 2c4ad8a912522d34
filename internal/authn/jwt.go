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
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// JWTOptions say which JWTs are believed. All but Leeway must be set.
type JWTOptions struct {
	Issuer     string
	Audiences  []string // one of which a token must be meant for
	Algorithms []string // asymmetric ones
	// Leeway is how far the issuer's clock may be off, at most a minute.
	Leeway time.Duration
	Keys   Keys
}

// maxLeeway is the most that a clock may be off.
const maxLeeway = time.Minute

// asymmetric are the algorithms by which nobody who checks a token could make one.
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// JWT verifies bearer tokens of one issuer. It is safe for concurrent use.
type JWT struct {
	options    JWTOptions
	algorithms []jose.SignatureAlgorithm
	known      known
}

// NewJWT returns a JWT, or an error that says which option is wrong.
func NewJWT(o JWTOptions) (*JWT, error) {
	j := &JWT{options: o}
	for _, name := range o.Algorithms {
		algorithm := jose.SignatureAlgorithm(name)
		if !slices.Contains(asymmetric, algorithm) {
			return nil, fmt.Errorf("authn: %q is not an algorithm of asymmetric signatures", name)
		}
		j.algorithms = append(j.algorithms, algorithm)
	}
	switch {
	case o.Issuer == "" || !name(o.Issuer):
		return nil, errors.New("authn: the issuer must be printable ASCII, without # and spaces")
	case len(o.Audiences) == 0 || slices.Contains(o.Audiences, ""):
		return nil, errors.New("authn: no audience")
	case len(j.algorithms) == 0:
		return nil, errors.New("authn: no algorithm")
	case o.Leeway < 0 || o.Leeway > maxLeeway:
		return nil, fmt.Errorf("authn: a leeway of %v is not from 0 to %v", o.Leeway, maxLeeway)
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
	errNoKey      = errors.New("the token is signed by a key that is not the issuer's")
	errIssuer     = errors.New("the token is of another issuer")
	errAudience   = errors.New("the token is meant for somebody else")
	errNoExpiry   = errors.New("the token never expires")
	errExpired    = errors.New("the token has expired")
	errTooEarly   = errors.New("the token is not valid yet")
	errSubject    = errors.New("the token has no subject that can be a name")
)

// caller is the subject of the one token that was sent.
func (j *JWT) caller(ctx context.Context, sent []string) (caller.Caller, error) {
	const scheme = "bearer "
	switch {
	case len(sent) != 1:
		return caller.Caller{}, errManyTokens
	case len(sent[0]) <= len(scheme), len(sent[0]) > len(scheme)+maxToken, !strings.EqualFold(sent[0][:len(scheme)], scheme):
		return caller.Caller{}, errNoBearer
	}
	token := sent[0][len(scheme):]
	id, now := sha256.Sum256([]byte(token)), time.Now()
	keys := j.options.Keys.Current()
	if c, ok := j.known.get(keys.version, id, now); ok {
		return c, nil
	}
	c, expiry, err := j.verify(ctx, token, keys, now)
	if err != nil {
		return caller.Caller{}, err
	}
	j.known.put(keys.version, id, c, now, expiry.Add(j.options.Leeway))
	return c, nil
}

// verify checks all of a token, and returns its subject and when it expires.
func (j *JWT) verify(ctx context.Context, token string, keys KeySet, now time.Time) (caller.Caller, time.Time, error) {
	none := time.Time{}
	parsed, err := jwt.ParseSigned(token, j.algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return caller.Caller{}, none, errNotSigned
	}
	header := parsed.Headers[0]
	key, ok := keys.find(header.KeyID, header.Algorithm)
	if !ok { // it may be one that came since
		key, ok = j.options.Keys.Refreshed(ctx).find(header.KeyID, header.Algorithm)
	}
	if !ok {
		return caller.Caller{}, none, errNoKey
	}
	var standard jwt.Claims
	var all caller.Claims
	if err := parsed.Claims(key, &standard, &all); err != nil {
		return caller.Caller{}, none, errNotSigned
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
	case early(standard.NotBefore, now.Add(o.Leeway)), early(standard.IssuedAt, now.Add(o.Leeway)):
		return caller.Caller{}, none, errTooEarly
	case standard.Subject == "" || len(standard.Subject) > maxSubject || !name(standard.Subject):
		return caller.Caller{}, none, errSubject
	}
	return caller.Caller{ID: o.Issuer + "#" + standard.Subject, VerifiedBy: caller.JWT, Claims: all}, standard.Expiry.Time(), nil
}

func early(t *jwt.NumericDate, now time.Time) bool { return t != nil && t.Time().After(now) }

// name reports whether s can be a part of an id: it is printable, and has no `#`,
// which stands between the parts.
func name(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '#' {
			return false
		}
	}
	return true
}

// known are the tokens that were verified: ES256 costs more than all the rest of a
// call. A token is known by its hash alone, for as long as it and the keys that it
// was verified by are good, and for a minute at the most.
type known struct {
	mu      sync.RWMutex
	version uint64 // of the keys
	tokens  map[[sha256.Size]byte]verified
}

type verified struct {
	caller caller.Caller
	until  time.Time
}

const (
	knownLife = time.Minute
	maxKnown  = 4096
)

func (k *known) get(version uint64, id [sha256.Size]byte, now time.Time) (caller.Caller, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	v, ok := k.tokens[id]
	return v.caller, ok && k.version == version && now.Before(v.until)
}

func (k *known) put(version uint64, id [sha256.Size]byte, c caller.Caller, now, until time.Time) {
	if end := now.Add(knownLife); end.Before(until) {
		until = end
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.version > version {
		return // it was verified by keys that are gone
	}
	if k.version != version || k.tokens == nil {
		k.version, k.tokens = version, make(map[[sha256.Size]byte]verified)
	}
	for old, v := range k.tokens { // in no order: any that goes is verified again
		if len(k.tokens) < maxKnown {
			break
		}
		if now.After(v.until) || len(k.tokens) >= maxKnown {
			delete(k.tokens, old)
		}
	}
	k.tokens[id] = verified{c, until}
}
