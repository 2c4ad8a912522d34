package authn_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/authn"
)

// signHeader makes a token whose header has these members besides alg and kid, which
// they may replace. The signature is good, whatever the header says.
func (s signer) signHeader(t *testing.T, header map[string]any, payload string) string {
	t.Helper()
	all := map[string]any{"alg": s.algorithm, "kid": s.id}
	for name, value := range header {
		all[name] = value
	}
	return s.signRaw(t, part(all)+"."+base64.RawURLEncoding.EncodeToString([]byte(payload)))
}

// signRaw signs what stands before the second dot, by ES256.
func (s signer) signRaw(t *testing.T, input string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(input))
	r, sum, err := ecdsa.Sign(rand.Reader, s.private.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), sum.FillBytes(make([]byte, 32))...)
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// A JWT says by its header of which kind it is: what is signed by the same keys to
// say something else, or is to be read in another way, says nothing here.
func TestKindOfJWT(t *testing.T) {
	ec, stranger := newES256("ec"), newES256("ec")
	set := keySet(t, ec.public())
	a := byJWT(t, authn.FileKeys(func() authn.KeySet { return set }))
	payload, err := json.Marshal(claims())
	if err != nil {
		t.Fatal(err)
	}
	type h = map[string]any
	for _, row := range []struct {
		name   string
		header h
		want   bool
	}{
		{"no type", nil, true},
		{"a type of null, which is none", h{"typ": nil}, true},
		{"JWT", h{"typ": "JWT"}, true},
		{"jwt", h{"typ": "jwt"}, true},
		{"at+jwt", h{"typ": "at+jwt"}, true},
		{"AT+JWT", h{"typ": "AT+JWT"}, true},
		{"application/at+jwt", h{"typ": "application/at+jwt"}, true},
		{"Application/JWT", h{"typ": "Application/JWT"}, true},
		{"members that nobody knows", h{"typ": "JWT", "x": 1, "ver": "2"}, true},
		{"a key by its address, which is not asked", h{"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/c"}, true},
		{"a key of its own, which is not read", h{"jwk": ec.public()}, true},
		{"a content type that is none of a JWT", h{"cty": "json"}, true},

		{"logout+jwt", h{"typ": "logout+jwt"}, false},
		{"dpop+jwt", h{"typ": "dpop+jwt"}, false},
		{"secevent+jwt", h{"typ": "secevent+jwt"}, false},
		{"token-introspection+jwt", h{"typ": "token-introspection+jwt"}, false},
		{"oauth-authz-req+jwt", h{"typ": "oauth-authz-req+jwt"}, false},
		{"vc+sd-jwt", h{"typ": "vc+sd-jwt"}, false},
		{"entity-statement+jwt", h{"typ": "entity-statement+jwt"}, false},
		{"application/logout+jwt", h{"typ": "application/logout+jwt"}, false},
		{"JOSE", h{"typ": "JOSE"}, false},
		{"an empty type", h{"typ": ""}, false},
		{"application/", h{"typ": "application/"}, false},
		{"application/application/jwt", h{"typ": "application/application/jwt"}, false},
		{"text/jwt", h{"typ": "text/jwt"}, false},
		{"a blank before", h{"typ": " JWT"}, false},
		{"a blank behind", h{"typ": "JWT "}, false},
		{"a parameter", h{"typ": "application/jwt; charset=utf-8"}, false},
		{"a list", h{"typ": []string{"JWT"}}, false},
		{"a number", h{"typ": 1}, false},
		{"true", h{"typ": true}, false},
		{"an object", h{"typ": h{"a": "JWT"}}, false},
		{"crit", h{"crit": []string{"x"}, "x": 1}, false},
		{"crit of what the library knows", h{"crit": []string{"b64"}, "b64": true}, false},
		{"crit of nothing", h{"crit": []string{}}, false},
		{"crit that is no list", h{"crit": "b64"}, false},
		{"b64", h{"b64": false}, false},
		{"b64 of true", h{"b64": true}, false},
		{"a JWT within", h{"cty": "JWT"}, false},
		{"a jwt within", h{"cty": "application/jwt"}, false},
		{"a content type that is no text", h{"cty": 1}, false},
		{"none", h{"alg": "none"}, false},
		{"another algorithm", h{"alg": "ES384"}, false},
		{"an algorithm in lower case", h{"alg": "es256"}, false},
		{"no algorithm", h{"alg": nil}, false},
		{"an id that is a number", h{"kid": 1}, false},
	} {
		_, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+ec.signHeader(t, row.header, string(payload))))
		if (err == nil) != row.want || errors.Is(err, authn.ErrNoCredentials) {
			t.Errorf("%s: %v", row.name, err)
		}
	}

	// Keys that a token brings are no keys.
	for name, header := range map[string]h{
		"jwk": {"jwk": stranger.public()}, "jwk and no id": {"jwk": stranger.public(), "kid": nil},
		"jku": {"jku": issuer + "/keys"}, "x5u": {"x5u": issuer + "/keys"},
	} {
		if _, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+stranger.signHeader(t, header, string(payload)))); err == nil {
			t.Errorf("a token is believed by its own key, %s", name)
		}
	}

	// What is signed is not always claims.
	nested := ec.sign(claims())
	again := strings.Replace(string(payload), `"sub":"ci"`, `"sub":"ci","sub":"admin"`, 1)
	for name, payload := range map[string]string{
		"a JWT": nested, "a text": `"` + nested + `"`, "null": "null", "a list": "[" + string(payload) + "]", "nothing": "", "two": string(payload) + string(payload),
		"a subject that stands twice": again, "a name in capitals": strings.Replace(string(payload), `"sub"`, `"SUB"`, 1),
	} {
		if _, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+ec.signHeader(t, nil, payload))); err == nil {
			t.Errorf("%s is taken for claims", name)
		}
	}
	for name, header := range map[string]string{
		"a type that stands twice": `{"alg":"ES256","kid":"ec","typ":"JWT","typ":"logout+jwt"}`,
		"an id that stands twice":  `{"alg":"ES256","kid":"ec","kid":"ec"}`,
	} {
		input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
		if _, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+ec.signRaw(t, input))); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// A subject is whatever can be seen, and two that differ look different.
func TestSubject(t *testing.T) {
	ec := newES256("ec")
	set := keySet(t, ec.public())
	a := byJWT(t, authn.FileKeys(func() authn.KeySet { return set }))
	for _, good := range []string{
		"organization:acme:project:Default Project:workspace:app:run_phase:apply", // HCP Terraform's
		"repo:acme/app:environment:Production EU",                                 // GitHub's
		"system:serviceaccount:ci:deployer",                                       // Kubernetes'
		"spiffe://example.org/ns/ci/sa/deployer", "auth0|5f7c8ec7c33c6c004bbafe82", "user@example.com", "C=DE, O=Acme, CN=a",
		"a  b", "a#b", "#", "a*b", `"quoted"`, `back\slash`, "<b>", "Zürich", "ключ", "鍵", "🔑", strings.Repeat("é", 512), strings.Repeat("a", 1024),
	} {
		c, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+ec.sign(claims("sub", good))))
		if err != nil || c.ID != issuer+"#"+good {
			t.Errorf("%q: %q, %v", good, c.ID, err)
		}
	}
	for _, bad := range []string{
		" ", " a", "a ", "  ", "a\n", "a\tb", "a\x00b", "a\x7fb", "a\u0085b", // blanks at an end, control characters
		"a\u200bb", "a\u200db", "\ufeffa", "a\u202eb", "a\u2066b", "a\u00adb", "a\U000e0041b", // zero width, direction, hyphens and tags that nobody sees
		"a\u00a0b", "a\u2003b", "a\u3000b", "a\u2028b", "a\u2029b", "a\u115fb", "a\u3164b", "a\u2800b", "a\ufe0fb", // what looks like a blank, or like nothing
		"a\ufffdb", "\ue000", "\ufdd0", // what could not be read, and what nobody knows
		"Zu\u0308rich", "\u2126", // what another text looks like
		strings.Repeat("a", 1025), strings.Repeat("é", 513),
	} {
		if c, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+ec.sign(claims("sub", bad)))); err == nil {
			t.Errorf("%q is %q", bad, c.ID)
		}
	}
	payload, err := json.Marshal(claims("sub", "X"))
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"a\xffb", `a\ud800b`, "a\xc3", `\u0000`} { // no UTF-8, half a character, and so on
		token := ec.signHeader(t, nil, strings.Replace(string(payload), `"X"`, `"`+raw+`"`, 1))
		if c, err := a.Authenticate(t.Context(), presented("10.0.0.1:1", "authorization", "Bearer "+token)); err == nil {
			t.Errorf("%q is %q", raw, c.ID)
		}
	}
}
