package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Authority is a CA, and the certificate of a server and a client made by it.
type Authority struct {
	Pool                      *x509.CertPool
	CAFile, CertFile, KeyFile string
	Pair                      tls.Certificate
	CA                        *x509.Certificate
	caKey                     *ecdsa.PrivateKey
}

// NewAuthority makes a CA, and a certificate of localhost.
func NewAuthority(t *testing.T) *Authority {
	t.Helper()
	a := &Authority{Pool: x509.NewCertPool(), caKey: Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := Must(x509.CreateCertificate(rand.Reader, template, template, a.caKey.Public(), a.caKey))
	a.CA = Must(x509.ParseCertificate(der))
	a.Pool.AddCert(a.CA)
	a.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	WritePEM(t, a.CAFile, "CERTIFICATE", der)
	a.CertFile, a.KeyFile = a.Issue(t, func(leaf *x509.Certificate) {
		leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	a.Pair = Must(tls.LoadX509KeyPair(a.CertFile, a.KeyFile))
	return a
}

// Issue makes one more certificate, for a server and a client, valid for as long
// as the CA unless change says otherwise.
func (a *Authority) Issue(t *testing.T, change func(leaf *x509.Certificate)) (certFile, keyFile string) {
	t.Helper()
	key := Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leaf := &x509.Certificate{
		SerialNumber: Must(rand.Int(rand.Reader, big.NewInt(1<<62))), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: a.CA.NotBefore, NotAfter: a.CA.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(leaf)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	WritePEM(t, certFile, "CERTIFICATE", Must(x509.CreateCertificate(rand.Reader, leaf, a.CA, key.Public(), a.caKey)))
	WritePEM(t, keyFile, "PRIVATE KEY", Must(x509.MarshalPKCS8PrivateKey(key)))
	return certFile, keyFile
}

// DNSName gives a certificate a name.
func DNSName(name string) func(leaf *x509.Certificate) {
	return func(leaf *x509.Certificate) { leaf.DNSNames = []string{name} }
}

// ClientCert issues a certificate for a client with these SANs, URIs and DNS names,
// and returns what such a client needs.
func (a *Authority) ClientCert(t *testing.T, sans ...string) *tls.Config {
	t.Helper()
	certFile, keyFile := a.Issue(t, func(leaf *x509.Certificate) {
		for _, san := range sans {
			if strings.Contains(san, "://") {
				leaf.URIs = append(leaf.URIs, Must(url.Parse(san)))
				continue
			}
			leaf.DNSNames = append(leaf.DNSNames, san)
		}
	})
	client := a.Client()
	client.Certificates = []tls.Certificate{Must(tls.LoadX509KeyPair(certFile, keyFile))}
	return client
}

// WritePEM makes a file of one block.
func WritePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Client is what a client of a server of this authority needs.
func (a *Authority) Client() *tls.Config {
	return &tls.Config{RootCAs: a.Pool, MinVersion: tls.VersionTLS12}
}
