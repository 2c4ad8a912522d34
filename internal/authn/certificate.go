package authn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/teamtoken/teamtoken/internal/caller"
)

var (
	errNotVerified = errors.New("the client's certificate was not verified")
	errNotValidNow = errors.New("the client's certificate is not valid now: the connection has outlived it")
	errManyURIs    = errors.New("the certificate has more than one URI, and a SPIFFE id stands alone")
	errNoSPIFFEID  = errors.New("the URI is no SPIFFE id of a workload")
	errNoName      = errors.New("there is neither a SPIFFE id nor a DNS name")
	errDNSName     = errors.New("the DNS name is not one of a host")
)

// fromCertificate is whom the client's certificate names.
func fromCertificate(state *tls.ConnectionState, spiffe bool) (caller.Caller, error) {
	if len(state.VerifiedChains) == 0 && !spiffe {
		return caller.Caller{}, errNotVerified
	}
	leaf := state.PeerCertificates[0]
	if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return caller.Caller{}, errNotValidNow
	}
	id, err := identityOf(leaf, spiffe)
	return caller.Caller{ID: id}, err
}

// identityOf is the SPIFFE id, or else the first DNS name. What stands as the subject
// is never read: nobody checks it against anything.
func identityOf(leaf *x509.Certificate, spiffe bool) (string, error) {
	switch {
	case len(leaf.URIs) > 1:
		return "", errManyURIs
	case len(leaf.URIs) == 1:
		return parseWorkloadID(leaf.URIs[0].String())
	case spiffe:
		return "", errNoSPIFFEID
	case len(leaf.DNSNames) == 0:
		return "", errNoName
	}
	return normalizeDNSName(leaf.DNSNames[0])
}

// parseWorkloadID is uri, if that is the SPIFFE id of a parseWorkloadID: a trust domain alone is
// the id of nobody who calls.
func parseWorkloadID(uri string) (string, error) {
	id, err := spiffeid.FromString(uri)
	if err != nil || id.Path() == "" || len(uri) > maxName {
		return "", errNoSPIFFEID
	}
	return id.String(), nil
}

// maxName is as long as a SPIFFE id may be; a DNS name is shorter.
const maxName = 2048

// normalizeDNSName is name in lower case, if it is one of a normalizeDNSName, and of one alone.
func normalizeDNSName(name string) (string, error) {
	name = strings.ToLower(name)
	if name == "" || len(name) > 253 {
		return "", errDNSName
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", errDNSName
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", errDNSName
			}
		}
	}
	return name, nil
}
