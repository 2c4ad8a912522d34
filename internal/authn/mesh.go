package authn

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// MeshHeader is in which header the mesh's proxy says who calls.
type MeshHeader string

// The headers that there are.
const (
	Envoy   MeshHeader = "envoy"   // x-forwarded-client-cert, of Istio too
	Linkerd MeshHeader = "linkerd" // l5d-client-id
)

func (h MeshHeader) name() string {
	if h == Linkerd {
		return "l5d-client-id"
	}
	return "x-forwarded-client-cert"
}

// Mesh is a service mesh whose proxy says who calls. Whoever can connect from one
// of Peers to one of Surfaces can be anybody.
type Mesh struct {
	Header   MeshHeader
	Peers    []netip.Prefix
	Surfaces []caller.Surface
}

var (
	errManyHeaders  = errors.New("the header stands more than once")
	errManyElements = errors.New("the header has more than one element: somebody before the proxy sent one too")
	errMalformed    = errors.New("the header is malformed")
)

// caller is whom the one header names.
func (m *Mesh) caller(sent []string) (caller.Caller, error) {
	if len(sent) != 1 {
		return caller.Caller{}, errManyHeaders
	}
	name := workloadOrHost
	if m.Header == Envoy {
		name = parseXFCC
	}
	id, err := name(sent[0])
	return caller.Caller{ID: id}, err
}

// workloadOrHost is whom Linkerd names: a workload of the cluster by its DNS name, and
// one outside, whose certificate SPIRE gives, by its SPIFFE id. A DNS name has no
// colon, so that nothing is both.
func workloadOrHost(name string) (string, error) {
	if strings.Contains(name, ":") {
		return parseWorkloadID(name)
	}
	return normalizeDNSName(name)
}

// maxForwarded is far over the header of one certificate, its chain included.
const maxForwarded = 16 << 10

// parseXFCC is whom an x-parseXFCC-client-cert of exactly one element names: by its
// URI, which must be a SPIFFE id, or by its first DNS if it has no URI. The element
// is `key=value` pairs with `;` between them; a value may stand in double quotes,
// with a backslash before what is meant as it is.
func parseXFCC(header string) (string, error) {
	if header == "" || len(header) > maxForwarded {
		return "", errMalformed
	}
	var uri, dns string
	uris, rest := 0, header
	for more := true; more; {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || !isKey(key) {
			if strings.Contains(key, ",") {
				return "", errManyElements
			}
			return "", errMalformed
		}
		value, end, err := cutValue(after)
		if err != nil {
			return "", err
		}
		switch strings.ToLower(key) {
		case "uri":
			if value != "" { // Envoy sends it empty of a certificate without one
				uri = value
				uris++
			}
		case "dns":
			if dns == "" {
				dns = value
			}
		}
		if more = end != ""; more {
			if end[0] == ',' {
				return "", errManyElements
			}
			rest = end[1:] // after the semicolon
		}
	}
	switch {
	case uris > 1:
		return "", errManyURIs
	case uris == 1:
		return parseWorkloadID(uri)
	case dns == "":
		return "", errNoName
	}
	return normalizeDNSName(dns)
}

func isKey(key string) bool {
	for i := range len(key) {
		if c := key[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return key != ""
}

// cutValue takes a value off the front of s. What is left is empty, or begins with
// the `;` or `,` after it.
func cutValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ";,")
		if end < 0 {
			end = len(s)
		}
		if !printable(s[:end]) || strings.Contains(s[:end], `"`) {
			return "", "", errMalformed
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '"':
			rest = s[i+1:]
			if rest != "" && rest[0] != ';' && rest[0] != ',' || !printable(b.String()) {
				return "", "", errMalformed
			}
			return b.String(), rest, nil
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errMalformed // no quote ends it
}

// printable reports whether s has no control characters. It may have letters beyond
// ASCII, as the subject of a certificate does.
func printable(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }
