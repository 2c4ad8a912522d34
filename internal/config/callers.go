package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/teamtoken/teamtoken/internal/authn"
)

// What Mesh can be.
const (
	NoMesh  = "none"
	Envoy   = "envoy"
	Linkerd = "linkerd"
)

// MutualTLS reports whether clients have certificates.
func (c *Config) MutualTLS() bool { return c.TLSClientCAFile != "" || c.SPIFFESocket != "" }

// identifies reports whether there is a way to know who calls.
func (c *Config) identifies() bool { return c.MutualTLS() || c.JWTIssuer != "" || c.Mesh != NoMesh }

func (c *Config) checkCallers(r *refusals) {
	jwt := c.JWTIssuer != ""
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"TEAMTOKEN_JWT_AUDIENCE (--jwt-audience)", len(c.JWTAudience) > 0},
		{"TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file)", c.JWTKeysFile != ""},
		{"TEAMTOKEN_JWT_ISSUER_CA_FILE (--jwt-issuer-ca-file)", c.JWTIssuerCAFile != ""},
		{"TEAMTOKEN_JWT_ISSUER_TOKEN_FILE (--jwt-issuer-token-file)", c.JWTIssuerTokenFile != ""},
	} {
		r.when(!jwt && s.set, "%s needs TEAMTOKEN_JWT_ISSUER (--jwt-issuer)", s.name)
	}
	r.when(jwt && c.Credentials == CallerCredentials,
		"TEAMTOKEN_CREDENTIALS (--credentials) is caller, so that a call's Authorization is for the upstream and can't be a JWT too: leave out TEAMTOKEN_JWT_ISSUER (--jwt-issuer)")
	r.when(jwt && (len(c.JWTAudience) == 0 || slices.Contains(c.JWTAudience, "")),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) needs TEAMTOKEN_JWT_AUDIENCE (--jwt-audience): a JWT that is meant for somebody else must not be taken")
	r.when(jwt && c.JWTKeysFile == "" && !validIssuer(c.JWTIssuer),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be https://HOST and maybe a path, since it is asked for its keys (http is for loopback hosts only); or set TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file)")
	r.when(jwt && c.JWTKeysFile != "" && !authn.ValidIssuer(c.JWTIssuer),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be printable ASCII, without blanks and #: a caller is ISSUER#SUBJECT")
	r.when(c.JWTKeysFile != "" && (c.JWTIssuerCAFile != "" || c.JWTIssuerTokenFile != ""),
		"TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file) has the keys, so that the issuer is not asked: leave out TEAMTOKEN_JWT_ISSUER_CA_FILE and TEAMTOKEN_JWT_ISSUER_TOKEN_FILE")
	algorithms := strings.Trim(fmt.Sprint(authn.Algorithms), "[]")
	r.when(len(c.JWTAlgorithms) == 0, "TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) must name one or more of %s", algorithms)
	for _, name := range c.JWTAlgorithms {
		r.when(!slices.Contains(authn.Algorithms, jose.SignatureAlgorithm(name)),
			"TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) has %q: it may have %s", name, algorithms)
	}
	r.when(len(c.MeshPeers) == 0, "TEAMTOKEN_MESH_PEERS (--mesh-peers) must name one or more networks")
	r.networks("TEAMTOKEN_MESH_PEERS (--mesh-peers)", c.MeshPeers, "whoever connects could be anybody")
}

// networks checks names of networks, none of which may be every address.
func (r *refusals) networks(name string, all []string, everywhere string) {
	for _, one := range all {
		network, err := netip.ParsePrefix(one)
		r.when(err != nil, "%s has %q: it must be networks such as 127.0.0.1/32 or 10.0.0.0/8", name, one)
		r.when(err == nil && network.Bits() == 0, "%s has %q, which is every address: then %s; name the proxies' networks", name, one, everywhere)
	}
}

// checkOrigins looks at what the REST surface is told about its own address.
func (c *Config) checkOrigins(r *refusals) {
	r.when(c.PublicURL != "" && !validOrigin(c.PublicURL),
		"TEAMTOKEN_PUBLIC_URL (--public-url) is %q: it must be https://HOST or http://HOST, optionally with a port and a path", c.PublicURL)
	r.networks("TEAMTOKEN_TRUSTED_PROXIES (--trusted-proxies)", c.TrustedProxies, "anyone could choose the host of links")
}

// validOrigin reports whether address can be where clients reach this server.
func validOrigin(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(address, "#") {
		return false
	}
	_, notIP := netip.ParseAddr(u.Hostname())
	return (notIP == nil || originHost.MatchString(u.Hostname()) && !strings.Contains(u.Hostname(), "..")) &&
		(u.Port() == "" || u.Port() != "0" && validPort(u.Port())) && !strings.HasSuffix(u.Host, ":") &&
		originPath.MatchString(u.EscapedPath()) && path.Clean("/"+u.Path) == "/"+strings.Trim(u.Path, "/")
}

// What the links of lists are made of, which clients have to be able to read.
var (
	originHost = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?$`)
	originPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*/?$`)
)

// validIssuer reports whether an issuer can be asked for its keys.
func validIssuer(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || !authn.ValidIssuer(issuer) || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

// Clear is a listener that takes JWTs or callers' credentials without TLS, on an
// address that other machines can reach.
type Clear struct {
	Setting, Address string
	// Mesh says that the service mesh's proxy connects to it, so that plain text is
	// what is meant, if the mesh lets nobody else connect.
	Mesh bool
}

// Clears are those listeners.
func (c *Config) Clears() []Clear {
	if c.TLSCertFile != "" || c.SPIFFESocket != "" || c.JWTIssuer == "" && c.Credentials != CallerCredentials {
		return nil
	}
	var all []Clear
	for _, l := range []struct{ name, setting, address string }{
		{"grpc", "TEAMTOKEN_GRPC_ADDRESS (--grpc-address)", c.GRPCAddress}, {"rest", "TEAMTOKEN_HTTP_ADDRESS (--http-address)", c.HTTPAddress},
	} {
		if host, _, err := net.SplitHostPort(l.address); err == nil && !loopback(host) {
			all = append(all, Clear{l.setting, l.address, c.Mesh != NoMesh && slices.Contains(c.MeshListeners, l.name)})
		}
	}
	return all
}

// validSocket reports whether address is one of a SPIFFE Workload API.
func validSocket(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "unix":
		return u.Host == "" && u.Path != "" && u.Path != "/"
	case "tcp":
		return loopback(u.Hostname()) && validPort(u.Port()) && u.Path == ""
	default:
		return false
	}
}
