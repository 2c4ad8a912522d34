package server

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/teamtoken/teamtoken/internal/ciphers"
)

// Identity is what the listeners' TLS is made of. All of it is asked for anew at
// each handshake, so that it can be rotated while the server runs.
type Identity struct {
	Certificate func() (*tls.Certificate, error)
	// ClientCAs are those that clients' certificates must come from. Nil asks for no
	// certificate, unless there is Verify.
	ClientCAs func() *x509.CertPool
	// Verify checks clients' certificates in place of ClientCAs.
	Verify func(raw [][]byte, _ [][]*x509.Certificate) error
	// Optional lets in clients without a certificate.
	Optional bool
}

// TLS returns the listeners' configuration.
func TLS(id Identity) *tls.Config {
	base := ciphers.Restrict(&tls.Config{ //nolint:gosec // Restrict sets the version
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return id.Certificate()
		},
	})
	switch {
	case id.Verify != nil:
		base.ClientAuth = tls.RequireAnyClientCert
		if id.Optional {
			base.ClientAuth = tls.RequestClientCert
		}
		base.VerifyConnection = func(state tls.ConnectionState) error { // of each handshake, resumed ones too
			if len(state.PeerCertificates) == 0 && id.Optional {
				return nil
			}
			raw := make([][]byte, 0, len(state.PeerCertificates))
			for _, certificate := range state.PeerCertificates {
				raw = append(raw, certificate.Raw)
			}
			return id.Verify(raw, nil)
		}
	case id.ClientCAs != nil:
		base.ClientAuth = tls.RequireAndVerifyClientCert
		if id.Optional {
			base.ClientAuth = tls.VerifyClientCertIfGiven
		}
		outer := base.Clone()
		outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			inner := base.Clone()
			inner.ClientCAs = id.ClientCAs()
			return inner, nil
		}
		return outer
	}
	return base
}
