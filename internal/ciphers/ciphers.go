// Package ciphers has the TLS versions and cipher suites of every TLS connection of the
// program, as server and as client.
package ciphers

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
)

// suites are those of TLS 1.2 that keep secrets and detect every change (AEAD),
// with forward secrecy. Those of TLS 1.3 all do.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Restrict keeps c to TLS 1.2 or newer and the suites above, and returns c.
func Restrict(c *tls.Config) *tls.Config {
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.CipherSuites = slices.Clone(suites)
	return c
}

// Client returns the configuration of a client that trusts roots, or the system's
// where roots is nil.
func Client(roots *x509.CertPool) *tls.Config {
	return Restrict(&tls.Config{RootCAs: roots})
}
