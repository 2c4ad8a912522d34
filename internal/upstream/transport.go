package upstream

import (
	"crypto/x509"
	"net"
	"net/http"
	"time"

	"github.com/teamtoken/teamtoken/internal/ciphers"
)

// Limits of the connections to the upstream. What follows the connection, up to
// the last byte of the answer, is bounded by Options.Timeout alone.
const (
	dialTimeout     = 5 * time.Second
	tlsTimeout      = 5 * time.Second
	idleTimeout     = 90 * time.Second
	idleConnections = 128 // net/http keeps 2 for a host by default, and dials anew for every call over that
	maxHeaderBytes  = 64 << 10
	pingTimeout     = 5 * time.Second // after which an HTTP/2 connection that says nothing is asked, and then given up
)

// NewTransport returns the one transport that all calls to the upstream share.
// It trusts roots, or the system's where roots is nil, speaks TLS 1.2 or newer,
// and honours HTTPS_PROXY and NO_PROXY.
//
// Reads go over HTTP/2 where the server offers it. Changes go over HTTP/1.1
// always: net/http sends an HTTP/2 request again by itself when the stream is
// reset with PROTOCOL_ERROR, which a proxy may do after its backend has carried
// the request out.
func NewTransport(roots *x509.CertPool) *Transport {
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	return &Transport{reads: newTransport(roots, both), changes: newTransport(roots, http1)}
}

// Transport carries requests to the upstream.
type Transport struct{ reads, changes *http.Transport }

// RoundTrip sends a request.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return t.reads.RoundTrip(r)
	}
	return t.changes.RoundTrip(r)
}

// CloseIdleConnections gives up the connections that no request is on.
func (t *Transport) CloseIdleConnections() {
	t.reads.CloseIdleConnections()
	t.changes.CloseIdleConnections()
}

func newTransport(roots *x509.CertPool, protocols *http.Protocols) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        ciphers.Client(roots),
		TLSHandshakeTimeout:    tlsTimeout,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingTimeout, PingTimeout: pingTimeout},
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // documents of 600 bytes, and no room for a decompression bomb
	}
}
