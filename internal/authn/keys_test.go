package authn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
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

func (s *server) discover(ctx context.Context, changed, waiting func(error)) *authn.IssuerKeys {
	return authn.DiscoverKeys(ctx, authn.IssuerOptions{
		Issuer: issuer, Client: &http.Client{Transport: s}, Token: func() secret.Text { return secret.New("pod") },
		Changed: changed, Waiting: func(err error, _ time.Duration) { waiting(err) }, LeftOut: func([]authn.LeftOut) {},
	})
}

func ignore(error) {}

func TestIssuerIsAskedForItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first, second := newES256("1"), newES256("2")
		s := newServer(first.public())
		var told []error
		keys := s.discover(ctx, func(err error) { told = append(told, err) }, func(err error) { t.Error(err) })
		a := byJWT(t, keys)
		good := func(by signer) bool {
			_, err := a.Authenticate(ctx, presented("10.0.0.1:1", "authorization", "Bearer "+by.sign(claims())))
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
		var err error
		keys := s.discover(t.Context(), ignore, func(e error) { err = e })
		select {
		case <-keys.Ready():
			t.Errorf("%s: and it is believed", name)
		default:
		}
		if err == nil || !strings.Contains(err.Error(), issuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An issuer that can't be reached, or answers with what is not to be believed, is
// asked again, ever more seldom, until it has keys. Until then nobody by JWT is
// refused for good, and what is no JWT at all is.
func TestIssuerThatIsNotThereYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		key := newES256("1")
		s := newServer(key.public())
		s.fails = true
		var failures recorder
		keys := s.discover(ctx, func(err error) { t.Errorf("told of a change: %v", err) }, failures.add)
		a := byJWT(t, keys)
		ask := func(bearer string) error {
			_, err := a.Authenticate(ctx, presented("10.0.0.1:1", "authorization", bearer))
			return err
		}
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		good, bad := "Bearer "+key.sign(claims()), "Bearer "+newES256("1").sign(claims())
		for _, step := range []struct {
			after time.Duration
			tries int
		}{{0, 1}, {time.Second, 2}, {2 * time.Second, 3}, {4 * time.Second, 4}, {8 * time.Second, 5}, {16 * time.Second, 6}, {30 * time.Second, 7}, {time.Hour, 127}} {
			if pass(step.after); len(failures.all()) != step.tries {
				t.Errorf("after another %v it was asked %d times, want %d", step.after, len(failures.all()), step.tries)
			}
			for range 10 {
				if err := ask(good); !errors.Is(err, caller.ErrUnavailable) {
					t.Fatalf("without keys: %v", err)
				}
				if err := ask(bad); !errors.Is(err, caller.ErrUnavailable) {
					t.Fatalf("without keys, nobody knows that it is bad: %v", err)
				}
				if err := ask("Bearer nonsense"); err == nil || errors.Is(err, caller.ErrUnavailable) {
					t.Fatalf("without keys, nonsense is still nonsense: %v", err)
				}
			}
		}
		if n := len(failures.all()); n != 127 {
			t.Errorf("calls have the issuer asked: %d times", n)
		}
		s.set(func() { s.fails, s.issuer = false, "https://another.example.com" })
		pass(30 * time.Second)
		if all := failures.all(); !strings.Contains(all[len(all)-1].Error(), "another.example.com") || !errors.Is(ask(good), caller.ErrUnavailable) {
			t.Error("an issuer that says that it is another is believed, or nobody is told")
		}
		s.set(func() { s.issuer, s.keys = issuer, nil })
		if pass(30 * time.Second); !errors.Is(ask(good), caller.ErrUnavailable) {
			t.Error("an issuer without keys counts as one with keys")
		}
		s.set(func() { s.keys = []jose.JSONWebKey{key.public()} })
		pass(30 * time.Second)
		select {
		case <-keys.Ready():
		default:
			t.Error("the issuer has keys, and nobody is told")
		}
		if err := ask("Bearer " + key.sign(claims())); err != nil {
			t.Error(err)
		}
		if err := ask(bad); err == nil || errors.Is(err, caller.ErrUnavailable) {
			t.Errorf("a bad token, with keys: %v", err)
		}
	})
}

// recorder keeps errors that are told from another goroutine.
type recorder struct {
	mu     sync.Mutex
	errors []error
}

func (r *recorder) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, err)
}

func (r *recorder) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.errors)
}

// An issuer that does not answer at all delays the start by three seconds, no more.
func TestIssuerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		authn.DiscoverKeys(ctx, authn.IssuerOptions{
			Issuer: issuer, Client: &http.Client{Transport: hanging{}}, Changed: ignore,
			Waiting: func(error, time.Duration) {}, LeftOut: func([]authn.LeftOut) {},
		})
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
