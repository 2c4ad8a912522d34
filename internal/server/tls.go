package server

import (
	"crypto/tls"
	"crypto/x509"
)

// TLS returns a configuration that asks for the certificate, and if clientCAs is
// not nil for the CAs that clients' certificates must come from, anew for each
// handshake: both may be rotated while the server runs.
func TLS(certificate func() *tls.Certificate, clientCAs func() *x509.CertPool) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate(), nil
		},
	}
	if clientCAs == nil {
		return base
	}
	base.ClientAuth = tls.RequireAndVerifyClientCert
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		inner := base.Clone()
		inner.ClientCAs = clientCAs()
		return inner, nil
	}
	return outer
}
