package authn_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// server is an issuer in memory: a transport, so that the test's own clock counts.
type server struct {
	mu      sync.Mutex
	issuer  string // as the document says
	jwksURI string
	keys    []jose.JSONWebKey
	fails   bool
	asked   int // for keys
	tokens  []string
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := httptest.NewRecorder()
	s.tokens = append(s.tokens, r.Header.Get("Authorization"))
	switch {
	case s.fails:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": s.issuer, "jwks_uri": s.jwksURI})
	case r.URL.Path == "/moved":
		http.Redirect(w, r, issuer+"/keys", http.StatusFound)
	case r.URL.Path == "/long":
		_, _ = fmt.Fprint(w, strings.Repeat(" ", 2<<20))
	default:
		s.asked++
		_, _ = w.Write(jwks(s.keys...))
	}
	return w.Result(), nil
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *server) askedFor() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func newServer(keys ...jose.JSONWebKey) *server {
	return &server{issuer: issuer, jwksURI: issuer + "/keys", keys: keys}
}

func (s *server) discover(ctx context.Context, changed func(error)) (authn.Keys, error) {
	return authn.DiscoverKeys(ctx, authn.IssuerOptions{
		Issuer: issuer, Client: &http.Client{Transport: s}, Changed: changed, Token: func() secret.Text { return secret.New("pod") },
	})
}

func TestIssuerIsAskedForItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first, second := newES256("1"), newES256("2")
		s := newServer(first.public())
		var told []error
		keys, err := s.discover(ctx, func(err error) { told = append(told, err) })
		if err != nil {
			t.Fatal(err)
		}
		a := byJWT(t, keys)
		good := func(by signer) bool {
			_, err := a.Caller(ctx, presented("10.0.0.1:1", "authorization", "Bearer "+by.sign(claims())))
			return err == nil
		}
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		if !good(first) || good(second) {
			t.Error("the issuer's key, and it alone, is to be believed")
		}
		pass(time.Minute)
		s.set(func() { s.keys = []jose.JSONWebKey{first.public(), second.public()} })
		if !good(second) || !good(first) {
			t.Error("a key that came is to be believed at once")
		}
		before := s.askedFor()
		for range 1000 {
			good(newES256("unknown"))
		}
		if n := s.askedFor() - before; n > 1 {
			t.Errorf("the issuer is asked %d times for keys that it does not have", n)
		}
		s.set(func() { s.keys = []jose.JSONWebKey{second.public()} })
		if pass(5 * time.Minute); good(first) || !good(second) {
			t.Error("a key that is gone is not to be believed after five minutes")
		}
		s.set(func() { s.fails = true })
		if pass(20 * time.Minute); !good(second) {
			t.Error("the last good keys stay in use while the issuer fails")
		}
		s.set(func() { s.fails = false })
		pass(5 * time.Minute)
		if len(told) != 4 || told[0] != nil || told[1] != nil || told[2] == nil || told[3] != nil {
			t.Errorf("told of %v: want two changes, a failure, and its end", told)
		}
		for _, token := range s.tokens {
			if token != "Bearer pod" {
				t.Errorf("asked with %q", token)
			}
		}
		cancel()
		synctest.Wait()
		before = s.askedFor()
		if pass(time.Hour); s.askedFor() != before {
			t.Error("the issuer is asked after the end")
		}
	})
}

func TestIssuerThatIsNotBelieved(t *testing.T) {
	key := newES256("1").public()
	for name, change := range map[string]func(*server){
		"it fails":                            func(s *server) { s.fails = true },
		"it says that it is another":          func(s *server) { s.issuer += "/" },
		"its keys are in the clear":           func(s *server) { s.jwksURI = "http://issuer.example.com/keys" },
		"its keys are in a file":              func(s *server) { s.jwksURI = "file:///etc/keys" },
		"its keys are nowhere":                func(s *server) { s.jwksURI = "" },
		"its keys have moved":                 func(s *server) { s.jwksURI = issuer + "/moved" },
		"its keys have no end":                func(s *server) { s.jwksURI = issuer + "/long" },
		"it has no keys":                      func(s *server) { s.keys = nil },
		"it shows a key that is to be secret": func(s *server) { s.keys = []jose.JSONWebKey{{Key: []byte("0123456789"), KeyID: "1"}} },
	} {
		s := newServer(key)
		change(s)
		if _, err := s.discover(t.Context(), func(error) {}); err == nil || !strings.Contains(err.Error(), issuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
