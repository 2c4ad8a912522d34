package authn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
)

const (
	issuer   = "https://issuer.example.com"
	audience = "teamtoken"
)

// presented is a call from address with headers, name and value by turns.
func presented(address string, headers ...string) caller.Credentials {
	return caller.Credentials{
		Surface: caller.GRPC, Peer: netip.MustParseAddrPort(address),
		Header: func(name string) (values []string) {
			for i := 0; i+1 < len(headers); i += 2 {
				if strings.EqualFold(headers[i], name) {
					values = append(values, headers[i+1])
				}
			}
			return values
		},
	}
}

// signer makes tokens.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   any
}

func newES256(id string) signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return signer{id, jose.ES256, key}
}

func newRS256(id string) signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return signer{id, jose.RS256, key}
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.(crypto.Signer).Public(), KeyID: s.id}
}

// sign makes a token of claims.
func (s signer) sign(claims map[string]any) string {
	options := &jose.SignerOptions{}
	if s.id != "" {
		options = options.WithHeader("kid", s.id)
	}
	made, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.private}, options)
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed, err := made.Sign(payload)
	if err != nil {
		panic(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return token
}

// claims are good ones but for changes, key and value by turns; nil leaves one out.
func claims(changes ...any) map[string]any {
	now := time.Now()
	all := map[string]any{
		"iss": issuer, "aud": audience, "sub": "ci", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "env": "prod",
	}
	for i := 0; i+1 < len(changes); i += 2 {
		all[changes[i].(string)] = changes[i+1]
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func jwks(keys ...jose.JSONWebKey) []byte {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		panic(err)
	}
	return b
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) authn.KeySet {
	t.Helper()
	set, err := authn.ParseKeys(jwks(keys...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// byJWT believes tokens signed by keys, with a leeway of 30 s.
func byJWT(t testing.TB, keys authn.KeySource) *authn.Authenticator {
	t.Helper()
	j, err := authn.NewJWT(authn.JWTOptions{
		Issuer: issuer, Audiences: []string{audience, "other"}, Algorithms: []string{"RS256", "ES256"}, Leeway: 30 * time.Second, Keys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	return authn.New(authn.Options{JWT: j})
}

func answerOf(body []byte) *http.Response {
	w := httptest.NewRecorder()
	_, _ = w.Write(body)
	return w.Result()
}
