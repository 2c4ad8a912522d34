package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// MovingIssuer is an issuer of JWTs, over TLS, that answers as it is told to.
type MovingIssuer struct {
	URL, CAFile string
	Document    atomic.Pointer[func(w http.ResponseWriter, r *http.Request)] // of discovery
	Keys        atomic.Pointer[string]
	asked       atomic.Int64 // for keys
	Closed      atomic.Bool  // no connection lasts
}

// NewMovingIssuer runs an issuer with these keys until the test ends.
func NewMovingIssuer(t *testing.T, keys string) *MovingIssuer {
	t.Helper()
	i := &MovingIssuer{}
	i.Keys.Store(&keys)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			i.asked.Add(1)
			_, _ = io.WriteString(w, *i.Keys.Load())
			return
		}
		(*i.Document.Load())(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.SetKeepAlivesEnabled(false)
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew && i.Closed.Load() {
			_ = c.Close()
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	i.URL = server.URL
	i.CAFile = WriteTemp(t, "")
	WritePEM(t, i.CAFile, "CERTIFICATE", server.Certificate().Raw)
	i.Heal()
	return i
}

// Says has the discovery document be this.
func (i *MovingIssuer) Says(document func(w http.ResponseWriter, r *http.Request)) {
	i.Document.Store(&document)
}

// Heal has it answer as an issuer does.
func (i *MovingIssuer) Heal() {
	i.Closed.Store(false)
	i.Says(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	})
}

// Signer is an issuer's key.
type Signer struct{ Key jose.JSONWebKey }

// NewSigner makes a key.
func NewSigner(t *testing.T, id string) *Signer {
	t.Helper()
	return &Signer{jose.JSONWebKey{Key: Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}
}

// Sign makes a JWT of a subject.
func (s *Signer) Sign(t *testing.T, subject string) secret.Text {
	t.Helper()
	return s.SignAs(t, JWTIssuer, subject)
}

// SignAs makes a JWT of a subject, by another issuer.
func (s *Signer) SignAs(t *testing.T, issuer, subject string) secret.Text {
	t.Helper()
	claims := map[string]any{
		"iss": issuer, "sub": subject, "aud": JWTAudience, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
	}
	by := Must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.Key}, (&jose.SignerOptions{}).WithType("JWT")))
	return secret.New(Must(Must(by.Sign(Must(json.Marshal(claims)))).CompactSerialize()))
}

// JWKS is the public half of keys, as issuers give it.
func JWKS(keys ...*Signer) string {
	var set jose.JSONWebKeySet
	for _, s := range keys {
		set.Keys = append(set.Keys, s.Key.Public())
	}
	return string(Must(json.Marshal(set)))
}
