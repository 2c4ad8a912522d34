package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/teamtoken/teamtoken/internal/ciphers"
)

// Identity is what the listeners' TLS is made of. All of it is asked for anew at
// each handshake, so that it can be rotated while the server runs.
type Identity struct {
	Certificate func() (*tls.Certificate, error)
	// ClientCAs are those that clients' certificates must come from. Nil asks for no
	// certificate, unless there is Verify.
	ClientCAs func() *x509.CertPool
	// Verify checks clients' certificates in place of ClientCAs. Changed returns another
	// value whenever Verify may come to another result than before.
	Verify  func(raw [][]byte, _ [][]*x509.Certificate) error
	Changed func() any
	// Optional lets in clients without a certificate.
	Optional bool
}

// TLS returns the listeners' configuration.
func TLS(id Identity) *tls.Config {
	base := ciphers.Restrict(&tls.Config{
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return id.Certificate()
		},
	})
	var verify verifier
	asks := id.Verify != nil || id.ClientCAs != nil
	if asks {
		verify = id.verifier()
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		inner := base.Clone()
		switch {
		case !asks:
		case id.Verify != nil:
			inner.ClientAuth = tls.RequireAnyClientCert
			if id.Optional {
				inner.ClientAuth = tls.RequestClientCert
			}
		default:
			inner.ClientCAs = id.ClientCAs()
			inner.ClientAuth = tls.RequireAndVerifyClientCert
			if id.Optional {
				inner.ClientAuth = tls.VerifyClientCertIfGiven
			}
		}
		// Of each handshake, resumed ones too: a session's ticket outlives the CA that its
		// certificate was verified by.
		inner.VerifyConnection = func(state tls.ConnectionState) error {
			conn, ok := hello.Conn.(*connection)
			if ok {
				conn.secured()
			}
			if len(state.PeerCertificates) == 0 {
				return nil // which ClientAuth has allowed
			}
			p := &proof{certificates: state.PeerCertificates, verifier: verify}
			if err := p.check(time.Now()); err != nil {
				return err
			}
			if ok {
				conn.proof.Store(p)
			}
			return nil
		}
		return inner, nil
	}
	return outer
}

// verifier is how clients' certificates are verified at present, and a value that
// is another one when that may come to another result.
type verifier struct {
	verify  func([]*x509.Certificate, time.Time) error
	changed func() any
}

func (id Identity) verifier() verifier {
	if id.Verify != nil {
		return verifier{func(certificates []*x509.Certificate, _ time.Time) error {
			raw := make([][]byte, 0, len(certificates))
			for _, c := range certificates {
				raw = append(raw, c.Raw)
			}
			return id.Verify(raw, nil)
		}, id.Changed}
	}
	return verifier{func(certificates []*x509.Certificate, now time.Time) error {
		o := x509.VerifyOptions{
			Roots: id.ClientCAs(), Intermediates: x509.NewCertPool(), CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		for _, c := range certificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := certificates[0].Verify(o)
		return err
	}, func() any { return id.ClientCAs() }}
}

// recheck is how long a verification holds at most, by which the end of a CA's own
// time is noticed.
const recheck = 15 * time.Second

// errOutlived says why a new handshake with the connection's certificate would fail.
var errOutlived = errors.New("the client's certificate is no longer valid: its CA was removed, or it has expired")

// proof verifies the client certificate of a connection, again when that may have changed.
type proof struct {
	verifier
	certificates []*x509.Certificate
	last         atomic.Pointer[verification]
}

// verification is what came of verifying once.
type verification struct {
	err   error
	by    any       // what changed was
	until time.Time // when it is to be made again
}

// check verifies the certificates, unless that was done lately and nothing has
// changed since. Once they have failed they fail for good: the client is to
// connect anew.
func (p *proof) check(now time.Time) error {
	by := p.changed()
	if last := p.last.Load(); last != nil && (last.err != nil || last.by == by && now.Before(last.until)) {
		return last.err
	}
	next := &verification{by: by, until: now.Add(recheck)}
	for _, c := range p.certificates {
		if c.NotAfter.Before(next.until) {
			next.until = c.NotAfter
		}
	}
	if err := p.verify(p.certificates, now); err != nil {
		next.err = err
	}
	p.last.Store(next)
	return next.err
}

// Verified returns nil if the connection's client certificate would be accepted at
// present, and otherwise why not.
func (c *connection) Verified() error {
	if p := c.proof.Load(); p != nil && p.check(time.Now()) != nil {
		return errOutlived // and no more: what x509 says quotes the certificate
	}
	return nil
}

const (
	// looking is how often all connections' certificates are checked.
	looking = time.Second
	// answered is how long after its last call's end a connection is closed, so that
	// the answer gets out.
	answered = 2 * time.Second
)

// retire closes connections whose certificate is no longer valid, once they have no call
// under way. Their new calls are refused already.
func (p *pool) retire(now time.Time) {
	p.each(func(c *connection) {
		if c.proof.Load() == nil || c.Verified() == nil {
			return
		}
		c.of.mu.Lock()
		ready := c.busy == 0 && now.Sub(c.ended) > answered
		c.of.mu.Unlock()
		if ready {
			_ = c.Close()
		}
	})
}

// netConn is the connection of this package beneath c.
func netConn(c net.Conn) *connection {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	conn, _ := c.(*connection)
	return conn
}
