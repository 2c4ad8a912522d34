package authn_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
)

func part(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestJWT(t *testing.T) {
	ec, rs, stranger := newES256("ec"), newRS256("rs"), newES256("ec")
	encryption := newES256("enc")
	unused := encryption.public()
	unused.Use = "enc"
	set := keySet(t, ec.public(), rs.public(), unused)
	a := byJWT(t, authn.FileKeys(func() authn.KeySet { return set }))
	public, err := rs.public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	symmetric := signer{"rs", jose.HS256, public}
	nameless := signer{"", ec.algorithm, ec.private}
	otherID := signer{"rs", ec.algorithm, ec.private}
	now := time.Now()
	good := ec.sign(claims())
	head, body, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(body, ".")

	for _, row := range []struct {
		name string
		sent []string
		want string // the subject; "" is refused
	}{
		{"signed by ES256", []string{"Bearer " + good}, "ci"},
		{"signed by RS256", []string{"Bearer " + rs.sign(claims())}, "ci"},
		{"a scheme in lower case", []string{"bearer " + good}, "ci"},
		{"one of several audiences", []string{"Bearer " + ec.sign(claims("aud", []string{"x", "other"}))}, "ci"},
		{"of a Kubernetes service account", []string{"Bearer " + rs.sign(claims("aud", []string{audience}, "sub", "system:serviceaccount:ci:deployer",
			"kubernetes.io", map[string]any{"namespace": "ci", "serviceaccount": map[string]any{"name": "deployer", "uid": "1"}}))}, "system:serviceaccount:ci:deployer"},
		{"without a key's id, and one key that it can be", []string{"Bearer " + nameless.sign(claims())}, "ci"},
		{"expired within the leeway", []string{"Bearer " + ec.sign(claims("exp", now.Add(-20*time.Second).Unix()))}, "ci"},
		{"not before within the leeway", []string{"Bearer " + ec.sign(claims("nbf", now.Add(20*time.Second).Unix()))}, "ci"},
		{"no time but the expiry", []string{"Bearer " + ec.sign(claims("nbf", nil, "iat", nil))}, "ci"},

		{"expired", []string{"Bearer " + ec.sign(claims("exp", now.Add(-31*time.Second).Unix()))}, ""},
		{"never expires", []string{"Bearer " + ec.sign(claims("exp", nil))}, ""},
		{"expires at a word", []string{"Bearer " + ec.sign(claims("exp", "soon"))}, ""},
		{"not yet", []string{"Bearer " + ec.sign(claims("nbf", now.Add(40*time.Second).Unix()))}, ""},
		{"made later", []string{"Bearer " + ec.sign(claims("iat", now.Add(40*time.Second).Unix()))}, ""},
		{"for somebody else", []string{"Bearer " + ec.sign(claims("aud", "x"))}, ""},
		{"for nobody", []string{"Bearer " + ec.sign(claims("aud", nil))}, ""},
		{"for nobody, in a list", []string{"Bearer " + ec.sign(claims("aud", []string{}))}, ""},
		{"of another issuer", []string{"Bearer " + ec.sign(claims("iss", issuer+"/"))}, ""},
		{"of no issuer", []string{"Bearer " + ec.sign(claims("iss", nil))}, ""},
		{"without a subject", []string{"Bearer " + ec.sign(claims("sub", nil))}, ""},
		{"with an empty subject", []string{"Bearer " + ec.sign(claims("sub", ""))}, ""},
		{"with a subject that has no end", []string{"Bearer " + ec.sign(claims("sub", strings.Repeat("a", 1025)))}, ""},
		{"with a subject that is a number", []string{"Bearer " + ec.sign(claims("sub", 1))}, ""},

		{"by another's key under the same id", []string{"Bearer " + stranger.sign(claims())}, ""},
		{"by a key under another's id", []string{"Bearer " + otherID.sign(claims())}, ""},
		{"by a key that is not for signatures", []string{"Bearer " + encryption.sign(claims())}, ""},
		{"by the public key as a password", []string{"Bearer " + symmetric.sign(claims())}, ""},
		{"by nobody", []string{"Bearer " + part(map[string]any{"alg": "none"}) + "." + body + "."}, ""},
		{"by nobody, who says so in capitals", []string{"Bearer " + part(map[string]any{"alg": "NONE", "kid": "ec"}) + "." + body + "." + signature}, ""},
		{"by a key of its own", []string{"Bearer " + part(map[string]any{"alg": "ES256", "jwk": stranger.public()}) + "." + body + "." + signature}, ""},
		{"with an extension that must be understood", []string{"Bearer " + part(map[string]any{"alg": "ES256", "kid": "ec", "crit": []string{"x"}, "x": 1}) + "." + body + "." + signature}, ""},
		{"with another body", []string{"Bearer " + head + "." + part(claims("sub", "admin")) + "." + signature}, ""},
		{"without signature", []string{"Bearer " + head + "." + body + "."}, ""},
		{"cut short", []string{"Bearer " + head + "." + body}, ""},
		{"as JSON", []string{`Bearer {"payload":"` + body + `","protected":"` + head + `","signature":"` + signature + `"}`}, ""},
		{"as a list", []string{"Bearer " + good + "," + good}, ""},
		{"with a space behind", []string{"Bearer " + good + " x"}, ""},
		{"two", []string{"Bearer " + good, "Bearer " + good}, ""},
		{"empty", []string{""}, ""},
		{"the scheme alone", []string{"Bearer "}, ""},
		{"another scheme", []string{"Basic " + good}, ""},
		{"too long", []string{"Bearer " + strings.Repeat("a", 9000)}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var headers []string
			for _, value := range row.sent {
				headers = append(headers, "authorization", value)
			}
			for range 2 { // by its signature, and as one that is known
				c, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", headers...))
				switch {
				case row.want == "" && (err == nil || errors.Is(err, authn.ErrNoCredentials)):
					t.Errorf("%+v, %v", c, err)
				case row.want != "" && (err != nil || c.ID != issuer+"#"+row.want || c.VerifiedBy != caller.JWT || c.Claims["env"] != "prod"):
					t.Errorf("%+v, %v", c, err)
				case err != nil && (len(err.Error()) > 120 || strings.Contains(err.Error(), body[:20])):
					t.Errorf("the error shows what was presented: %v", err)
				}
			}
		})
	}
}

// A token is believed until it expires, and not after, though it is known.
func TestKnownTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ec := newES256("ec")
		set := keySet(t, ec.public())
		a := byJWT(t, authn.FileKeys(func() authn.KeySet { return set }))
		call := presented("10.0.0.1:1", "authorization", "Bearer "+ec.sign(claims("exp", time.Now().Add(10*time.Second).Unix())))
		for _, step := range []struct {
			after time.Duration
			good  bool
		}{{0, true}, {39 * time.Second, true}, {time.Second, false}, {time.Hour, false}} {
			time.Sleep(step.after)
			if _, err := a.Authenticate(t.Context(), call); (err == nil) != step.good {
				t.Errorf("%v later: %v", step.after, err)
			}
		}
	})
}

// A key that is gone is believed no longer, though its token is known, and one
// that came is.
func TestKeysChange(t *testing.T) {
	before, after := newES256("1"), newES256("2")
	current := keySet(t, before.public())
	a := byJWT(t, authn.FileKeys(func() authn.KeySet { return current }))
	old := presented("10.0.0.1:1", "authorization", "Bearer "+before.sign(claims()))
	fresh := presented("10.0.0.1:1", "authorization", "Bearer "+after.sign(claims()))
	for _, step := range []struct {
		name             string
		keys             []jose.JSONWebKey
		oldGood, newGood bool
	}{
		{"before", []jose.JSONWebKey{before.public()}, true, false},
		{"both", []jose.JSONWebKey{before.public(), after.public()}, true, true},
		{"after", []jose.JSONWebKey{after.public()}, false, true},
	} {
		current = keySet(t, step.keys...)
		for range 2 {
			_, oldErr := a.Authenticate(t.Context(), old)
			_, newErr := a.Authenticate(t.Context(), fresh)
			if (oldErr == nil) != step.oldGood || (newErr == nil) != step.newGood {
				t.Errorf("%s: %v, %v", step.name, oldErr, newErr)
			}
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	ec := newES256("a")
	enc := ec.public()
	enc.Use = "enc"
	for name, set := range map[string][]byte{
		"a private key":        jwks(jose.JSONWebKey{Key: ec.private, KeyID: "a"}),
		"a symmetric key":      jwks(jose.JSONWebKey{Key: []byte("0123456789abcdef"), KeyID: "a"}),
		"none":                 jwks(),
		"none for signatures":  jwks(enc),
		"nothing":              nil,
		"what is no JSON":      []byte("{"),
		"a list":               []byte("[]"),
		"a key without a kind": []byte(`{"keys":[{"kid":"a"}]}`),
	} {
		if _, err := authn.ParseKeys(set); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestJWTOptionsThatAreRefused(t *testing.T) {
	set := keySet(t, newES256("a").public())
	good := authn.JWTOptions{
		Issuer: issuer, Audiences: []string{audience}, Algorithms: []string{"ES256"}, Keys: authn.FileKeys(func() authn.KeySet { return set }),
	}
	if _, err := authn.NewJWT(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*authn.JWTOptions){
		"symmetric":           func(o *authn.JWTOptions) { o.Algorithms = []string{"ES256", "HS256"} },
		"unsigned":            func(o *authn.JWTOptions) { o.Algorithms = []string{"none"} },
		"no algorithm":        func(o *authn.JWTOptions) { o.Algorithms = nil },
		"no audience":         func(o *authn.JWTOptions) { o.Audiences = nil },
		"an empty audience":   func(o *authn.JWTOptions) { o.Audiences = []string{""} },
		"no issuer":           func(o *authn.JWTOptions) { o.Issuer = "" },
		"an issuer with a #":  func(o *authn.JWTOptions) { o.Issuer = "https://a#b" },
		"over a minute":       func(o *authn.JWTOptions) { o.Leeway = 61 * time.Second },
		"under nothing":       func(o *authn.JWTOptions) { o.Leeway = -1 },
		"nobody has the keys": func(o *authn.JWTOptions) { o.Keys = nil },
	} {
		o := good
		change(&o)
		if _, err := authn.NewJWT(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func BenchmarkKnownToken(b *testing.B) {
	ec := newES256("ec")
	set := keySet(b, ec.public())
	a := byJWT(b, authn.FileKeys(func() authn.KeySet { return set }))
	call := presented("10.0.0.1:1", "authorization", "Bearer "+ec.sign(claims()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever is sent, only what the test's key has signed is believed.
func FuzzBearer(f *testing.F) {
	ec := newES256("ec")
	set := keySet(f, ec.public())
	a := byJWT(f, authn.FileKeys(func() authn.KeySet { return set }))
	good := ec.sign(claims())
	head, _, _ := strings.Cut(good, ".")
	f.Add("Bearer " + head + "." + part(claims()) + ".AAAA")
	f.Add("Bearer " + part(map[string]any{"alg": "none"}) + "." + part(claims()) + ".")
	f.Add("Bearer ..")
	f.Add(`Bearer {"signatures":[]}`)
	f.Add("bearer " + part(map[string]any{"alg": "ES256", "kid": "ec", "crit": []string{"b64"}, "b64": false}) + ".a.AAAA")
	f.Fuzz(func(t *testing.T, sent string) {
		c, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", sent))
		if err == nil && !strings.HasSuffix(sent, good) {
			t.Errorf("%q is %q", sent, c.ID)
		}
	})
}
