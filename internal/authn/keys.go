package authn

import (
	"context"
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

	"github.com/teamtoken/teamtoken/internal/secret"
)

// KeySource are the public keys of an issuer, which change.
type KeySource interface {
	// Current are those of now. The zero KeySet says that they are not known yet.
	Current() KeySet
	// Refreshed looks whether there are others, unless it was looked just now.
	Refreshed(ctx context.Context) KeySet
}

// FileKeys are keys that somebody else keeps up to date.
func FileKeys(current func() KeySet) KeySource { return fileKeys(current) }

type fileKeys func() KeySet

func (f fileKeys) Current() KeySet                  { return f() }
func (f fileKeys) Refreshed(context.Context) KeySet { return f() }

// IssuerOptions say how an issuer is asked for its keys. All but Token must be set.
type IssuerOptions struct {
	Issuer     string
	Algorithms []string // keys for others are of no use
	// Client asks. It is used without following redirects.
	Client *http.Client
	// Token, if set, is sent as bearer token to the issuer, and to where that says its
	// keys are, which Kubernetes wants.
	Token func() secret.Text
	// Waiting is told of each failure before there are any keys, and when the issuer is
	// asked again.
	Waiting func(err error, again time.Duration)
	// Changed is told of each change of the keys, with nil, and of the first of each
	// run of failures, with the error: the last good keys stay in use.
	Changed func(error)
	// LeftOut is told of the keys of each new set that are not used.
	LeftOut func([]LeftOut)
}

const (
	refreshInterval = 5 * time.Minute  // how long a key is believed that the issuer has withdrawn
	refreshPause    = 10 * time.Second // between two questions because of keys that are not known
	askTimeout      = 10 * time.Second // of one question
	firstPause      = time.Second      // before an issuer that gave no keys is asked again; it doubles
	longestPause    = 30 * time.Second // up to this
	firstWait       = 3 * time.Second  // for the first answer: the program starts without it then
	maxAnswer       = 1 << 20          // bytes
)

// IssuerKeys are kept up to date by asking the issuer.
type IssuerKeys struct {
	options IssuerOptions
	current atomic.Pointer[KeySet]
	ready   chan struct{} // closed once there are keys

	asking chan struct{} // of one place, which who asks has
	asked  time.Time     // when the last answer came, or failed to
	answer []byte        // the last good one
	failed bool
}

// DiscoverKeys asks an issuer for its keys, by its OpenID Connect discovery
// document, and goes on asking until ctx ends: until there are keys, with pauses that
// grow to half a minute; then every five minutes, and when a token is signed by a key
// that is not known, at most every ten seconds. It returns after the first answer or
// failure, and after three seconds without one.
func DiscoverKeys(ctx context.Context, o IssuerOptions) *IssuerKeys {
	client := *o.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = &client
	k := &IssuerKeys{options: o, asking: make(chan struct{}, 1), ready: make(chan struct{})}
	k.current.Store(&KeySet{})
	first := make(chan struct{})
	go k.follow(ctx, first)
	wait := time.NewTimer(firstWait)
	defer wait.Stop()
	select {
	case <-first:
	case <-wait.C:
	}
	return k
}

// Ready is closed once there are keys. From then on there are always some.
func (k *IssuerKeys) Ready() <-chan struct{} { return k.ready }

// Current are those of now, and none before Ready.
func (k *IssuerKeys) Current() KeySet { return *k.current.Load() }

// Refreshed asks the issuer, unless it was asked just now. It waits for who asks
// already rather than asking too.
func (k *IssuerKeys) Refreshed(ctx context.Context) KeySet {
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return k.Current()
	}
	if time.Since(k.asked) < refreshPause {
		<-k.asking
		return k.Current()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.refresh(context.WithoutCancel(ctx)) // others wait for it too
		<-k.asking
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	return k.Current()
}

// follow asks until ctx ends. It closes first after the first answer or failure.
func (k *IssuerKeys) follow(ctx context.Context, first chan struct{}) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		k.asking <- struct{}{}
		err := k.ask(ctx)
		<-k.asking
		if err == nil {
			close(k.ready)
		} else if ctx.Err() == nil {
			k.options.Waiting(fmt.Errorf("authn: the keys of %s: %w", k.options.Issuer, err), pause)
		}
		if pause == firstPause {
			close(first)
		}
		if err == nil {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
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
func (k *IssuerKeys) refresh(ctx context.Context) {
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
func (k *IssuerKeys) ask(ctx context.Context) error {
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
		return fmt.Errorf("the discovery document names another issuer, %.200q: set TEAMTOKEN_JWT_ISSUER to that one if you trust it", discovered.Issuer)
	}
	answer, err := k.get(ctx, discovered.JWKS)
	if err != nil {
		return err
	}
	if slices.Equal(answer, k.answer) {
		return nil // and what was verified stays known
	}
	set, err := ParseKeys(answer, k.options.Algorithms...)
	if err != nil {
		return err
	}
	k.options.LeftOut(set.LeftOut())
	k.answer = answer
	k.current.Store(&set)
	return nil
}

func (k *IssuerKeys) get(ctx context.Context, address string) ([]byte, error) {
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
