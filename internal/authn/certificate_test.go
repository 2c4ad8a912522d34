package authn_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
)

// certificate is one that is valid now, with these URIs and DNS names.
func certificate(uris, names []string) *x509.Certificate {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cn.example.com"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return c
}

// verified is a connection whose client's certificate is leaf.
func verified(leaf *x509.Certificate) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

func TestCertificate(t *testing.T) {
	old, young := certificate(nil, []string{"a.b"}), certificate(nil, []string{"a.b"})
	old.NotAfter, young.NotBefore = time.Now().Add(-time.Second), time.Now().Add(time.Minute)
	unverified := verified(certificate([]string{deployer}, nil))
	unverified.VerifiedChains = nil
	unverifiedName := verified(certificate(nil, []string{"a.b"}))
	unverifiedName.VerifiedChains = nil
	none := errors.New("none")
	for _, row := range []struct {
		name   string
		spiffe bool
		state  *tls.ConnectionState
		want   string
		err    error // any, or authn.ErrNone
	}{
		{"a SPIFFE id", false, verified(certificate([]string{deployer}, nil)), deployer, nil},
		{"a SPIFFE id and a name", false, verified(certificate([]string{deployer}, []string{"a.example.com"})), deployer, nil},
		{"a name", false, verified(certificate(nil, []string{"A.example.com"})), "a.example.com", nil},
		{"the first of two names", false, verified(certificate(nil, []string{"a.example.com", "b.example.com"})), "a.example.com", nil},
		{"verified by go-spiffe", true, unverified, deployer, nil},

		{"none", false, &tls.ConnectionState{}, "", authn.ErrNoCredentials},
		{"no TLS", false, nil, "", authn.ErrNoCredentials},
		{"not verified", false, unverified, "", none},
		{"a name where there must be a SPIFFE id", true, unverifiedName, "", none},
		{"expired since the handshake", false, verified(old), "", none},
		{"not valid yet", false, verified(young), "", none},
		{"two URIs", false, verified(certificate([]string{deployer, "spiffe://example.org/b"}, nil)), "", none},
		{"a URI that is none of SPIFFE, and a name", false, verified(certificate([]string{"https://a"}, []string{"a.example.com"})), "", none},
		{"a trust domain alone", false, verified(certificate([]string{"spiffe://example.org"}, nil)), "", none},
		{"a common name alone", false, verified(certificate(nil, nil)), "", none},
		{"a wildcard", false, verified(certificate(nil, []string{"*.example.com"})), "", none},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := authn.New(authn.Options{Certificates: true, SPIFFE: row.spiffe})
			call := presented("10.0.0.1:1", xfcc, "URI=spiffe://example.org/admin", "authorization", "Bearer x")
			call.TLS = row.state
			c, err := a.Authenticate(t.Context(), call)
			switch {
			case row.err == nil:
				if err != nil || c.ID != row.want || c.VerifiedBy != caller.Certificate {
					t.Errorf("%+v, %v", c, err)
				}
			case err == nil || errors.Is(err, authn.ErrNoCredentials) != (row.err == authn.ErrNoCredentials):
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
	if _, err := authn.New(authn.Options{}).Authenticate(t.Context(), func() caller.Credentials {
		p := presented("10.0.0.1:1")
		p.TLS = verified(certificate([]string{deployer}, nil))
		return p
	}()); !errors.Is(err, authn.ErrNoCredentials) {
		t.Errorf("a certificate names somebody although none is to be believed: %v", err)
	}
}

// Of several identities the first source's decides, for good or ill.
func TestOrder(t *testing.T) {
	ec := newES256("ec")
	set := keySet(t, ec.public())
	j, err := authn.NewJWT(authn.JWTOptions{
		Issuer: issuer, Audiences: []string{audience}, Algorithms: []string{"ES256"}, Keys: authn.FileKeys(func() authn.KeySet { return set }),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := authn.New(authn.Options{Certificates: true, JWT: j, Mesh: &authn.Mesh{
		Header: authn.Envoy, Peers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Surfaces: []caller.Surface{caller.GRPC},
	}})
	good, bad := "Bearer "+ec.sign(claims()), "Bearer "+newES256("ec").sign(claims())
	for _, row := range []struct {
		name    string
		peer    string
		cert    bool
		headers []string
		want    string
	}{
		{"all three", "127.0.0.1:1", true, []string{"authorization", good, xfcc, "DNS=m"}, issuer + "#ci"},
		{"header and certificate", "127.0.0.1:1", true, []string{xfcc, "DNS=m"}, "m"},
		{"certificate", "10.0.0.1:1", true, nil, "c"},
		{"certificate, and a header that is not believed", "10.0.0.1:1", true, []string{xfcc, "DNS=m"}, "c"},
		{"a bad token, and a good certificate", "10.0.0.1:1", true, []string{"authorization", bad}, ""},
		{"a bad token, and a good header", "127.0.0.1:1", true, []string{"authorization", bad, xfcc, "DNS=m"}, ""},
		{"a bad header, and a good certificate", "127.0.0.1:1", true, []string{xfcc, "DNS=m,DNS=n"}, ""},
		{"the proxy's own certificate", "127.0.0.1:1", true, nil, ""},
		{"nothing", "10.0.0.1:1", false, nil, ""},
	} {
		call := presented(row.peer, row.headers...)
		if row.cert {
			call.TLS = verified(certificate(nil, []string{"c"}))
		}
		c, err := a.Authenticate(t.Context(), call)
		if c.ID != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %+v, %v", row.name, c, err)
		}
	}
}
