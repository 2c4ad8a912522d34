package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"
)

// Limits of the connections to the upstream. What follows the connection, up to
// the last byte of the answer, is bounded by Options.Timeout alone.
const (
	dialTimeout     = 5 * time.Second
	tlsTimeout      = 5 * time.Second
	idleTimeout     = 90 * time.Second
	idleConnections = 128 // net/http keeps 2 for a host by default, and dials anew for every call over that
	maxHeaderBytes  = 64 << 10
)

// NewTransport returns the one transport that all calls to the upstream share.
// It trusts roots, or the system's where roots is nil, speaks TLS 1.2 or newer,
// HTTP/2 where the server does, and honours HTTPS_PROXY and NO_PROXY.
func NewTransport(roots *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    tlsTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // documents of 600 bytes, and no room for a decompression bomb
	}
}
