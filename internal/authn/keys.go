package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// Keys are the public keys of an issuer, which change.
type Keys interface {
	// Current are those of now.
	Current() KeySet
	// Refreshed looks whether there are others, unless it was looked just now.
	Refreshed(ctx context.Context) KeySet
}

// KeySet is public keys that were checked.
type KeySet struct {
	version uint64 // another for each set, and later ones are greater
	keys    []jose.JSONWebKey
}

// versions counts the sets that were parsed.
var versions atomic.Uint64

// ParseKeys reads a JWKS. What it holds that cannot verify a signature is left out,
// but for what must not be there: private and symmetric keys.
func ParseKeys(jwks []byte) (KeySet, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(jwks, &set); err != nil {
		return KeySet{}, errors.New("authn: it is not a set of keys (JWKS)")
	}
	s := KeySet{version: versions.Add(1)}
	ids := make(map[string]bool)
	for _, key := range set.Keys {
		switch {
		case !key.Valid():
			return KeySet{}, errors.New("authn: one of the keys is not valid")
		case !key.IsPublic():
			return KeySet{}, errors.New("authn: one of the keys is private or symmetric: whoever reads the file could make tokens")
		case key.KeyID != "" && ids[key.KeyID]:
			return KeySet{}, fmt.Errorf("authn: two keys have the id %q", key.KeyID)
		}
		ids[key.KeyID] = true
		if key.Use == "" || key.Use == "sig" {
			s.keys = append(s.keys, key)
		}
	}
	if len(s.keys) == 0 {
		return KeySet{}, errors.New("authn: it has no key for signatures")
	}
	return s, nil
}

// find is the key of an id for an algorithm. Without an id there must be no choice.
func (s KeySet) find(id, algorithm string) (key jose.JSONWebKey, ok bool) {
	for _, k := range s.keys {
		if id != "" && k.KeyID != id || k.Algorithm != "" && k.Algorithm != algorithm || !fits(k.Key, algorithm) {
			continue
		}
		if ok {
			return jose.JSONWebKey{}, false
		}
		key, ok = k, true
	}
	return key, ok
}

// FileKeys are keys that somebody else keeps up to date.
func FileKeys(current func() KeySet) Keys { return fileKeys(current) }

type fileKeys func() KeySet

func (f fileKeys) Current() KeySet                  { return f() }
func (f fileKeys) Refreshed(context.Context) KeySet { return f() }

// IssuerOptions say how an issuer is asked for its keys.
type IssuerOptions struct {
	Issuer string
	// Client asks. It is used without following redirects.
	Client *http.Client
	// Token, if set, is sent as bearer token to the issuer, and to where that says its
	// keys are, which Kubernetes wants.
	Token func() secret.Text
	// Changed is told of each change of the keys, with nil, and of the first of each
	// run of failures, with the error: the last good keys stay in use.
	Changed func(error)
}

const (
	refreshInterval = 5 * time.Minute  // how long a key is believed that the issuer has withdrawn
	refreshPause    = 10 * time.Second // between two questions because of keys that are not known
	askTimeout      = 10 * time.Second // of one question
	maxAnswer       = 1 << 20          // bytes
)

// issuerKeys are kept up to date by asking the issuer.
type issuerKeys struct {
	options IssuerOptions
	current atomic.Pointer[KeySet]

	asking chan struct{} // of one place, which who asks has
	asked  time.Time     // when the last answer came, or failed to
	answer []byte        // the last good one
	failed bool
}

// DiscoverKeys asks an issuer for its keys, by its OpenID Connect discovery
// document, and goes on asking until ctx ends: every five minutes, and when a token
// is signed by a key that is not known, at most every ten seconds.
func DiscoverKeys(ctx context.Context, o IssuerOptions) (Keys, error) {
	client := *o.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = &client
	k := &issuerKeys{options: o, asking: make(chan struct{}, 1)}
	if err := k.ask(ctx); err != nil {
		return nil, fmt.Errorf("authn: the keys of %s: %w", o.Issuer, err)
	}
	go k.follow(ctx)
	return k, nil
}

func (k *issuerKeys) Current() KeySet { return *k.current.Load() }

// Refreshed waits for who asks already rather than asking too.
func (k *issuerKeys) Refreshed(ctx context.Context) KeySet {
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return k.Current()
	}
	defer func() { <-k.asking }()
	if time.Since(k.asked) >= refreshPause {
		k.refresh(context.WithoutCancel(ctx)) // others wait for it too
	}
	return k.Current()
}

func (k *issuerKeys) follow(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.asking <- struct{}{}
			k.refresh(ctx)
			<-k.asking
		case <-ctx.Done():
			return
		}
	}
}

// refresh asks, and tells what is new. The caller has the place.
func (k *issuerKeys) refresh(ctx context.Context) {
	before := k.current.Load()
	err := k.ask(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil && !k.failed:
		k.options.Changed(err)
	case err == nil && (k.failed || k.current.Load() != before):
		k.options.Changed(nil)
	}
	k.failed = err != nil
}

// ask asks the issuer. The caller has the place, or is alone.
func (k *issuerKeys) ask(ctx context.Context) error {
	defer func() { k.asked = time.Now() }() // not before: who waited for an issuer that hangs would ask again
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	document, err := k.get(ctx, strings.TrimSuffix(k.options.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return err
	}
	var discovered struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(document, &discovered); err != nil {
		return errors.New("the discovery document is not one")
	}
	if discovered.Issuer != k.options.Issuer {
		return errors.New("the discovery document is of another issuer")
	}
	answer, err := k.get(ctx, discovered.JWKS)
	if err != nil {
		return err
	}
	if slices.Equal(answer, k.answer) {
		return nil // and what was verified stays known
	}
	set, err := ParseKeys(answer)
	if err != nil {
		return err
	}
	k.answer = answer
	k.current.Store(&set)
	return nil
}

func (k *issuerKeys) get(ctx context.Context, address string) ([]byte, error) {
	if !safe(address) {
		return nil, fmt.Errorf("%q is not an https address, nor one of loopback", address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if k.options.Token != nil {
		req.Header.Set("Authorization", "Bearer "+k.options.Token().Reveal())
	}
	resp, err := k.options.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", address, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("%s answers with more than %d bytes", address, maxAnswer)
	}
	return body, err
}

// safe reports whether keys from address can be believed.
func safe(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User != nil {
		return false
	}
	switch host := u.Hostname(); u.Scheme {
	case "https":
		return host != ""
	case "http":
		return host == "localhost" || host == "127.0.0.1" || host == "::1"
	default:
		return false
	}
}

// fits reports whether a key is of the kind that an algorithm signs with, so that
// a token without a key's id finds the only one that can be meant.
func fits(key any, algorithm string) bool {
	switch key.(type) {
	case *rsa.PublicKey:
		return algorithm[0] == 'R' || algorithm[0] == 'P'
	case *ecdsa.PublicKey:
		return algorithm[:2] == "ES"
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	default:
		return false
	}
}
