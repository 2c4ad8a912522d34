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
	"time"

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

func (c *Config) checkCallers(refuse func(bool, string, ...any)) {
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
		refuse(!jwt && s.set, "%s needs TEAMTOKEN_JWT_ISSUER (--jwt-issuer)", s.name)
	}
	refuse(jwt && c.Credentials == CallerCredentials,
		"TEAMTOKEN_CREDENTIALS (--credentials) is caller, so that a call's Authorization is for the upstream and can't be a JWT too: leave out TEAMTOKEN_JWT_ISSUER (--jwt-issuer)")
	refuse(jwt && (len(c.JWTAudience) == 0 || slices.Contains(c.JWTAudience, "")),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) needs TEAMTOKEN_JWT_AUDIENCE (--jwt-audience): a JWT that is meant for somebody else must not be taken")
	refuse(jwt && c.JWTKeysFile == "" && !validIssuer(c.JWTIssuer),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be https://HOST and maybe a path, since it is asked for its keys (http is for loopback hosts only); or set TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file)")
	refuse(jwt && c.JWTKeysFile != "" && !authn.ValidIssuer(c.JWTIssuer),
		"TEAMTOKEN_JWT_ISSUER (--jwt-issuer) must be printable ASCII, without blanks and #: a caller is ISSUER#SUBJECT")
	refuse(c.JWTKeysFile != "" && (c.JWTIssuerCAFile != "" || c.JWTIssuerTokenFile != ""),
		"TEAMTOKEN_JWT_KEYS_FILE (--jwt-keys-file) has the keys, so that the issuer is not asked: leave out TEAMTOKEN_JWT_ISSUER_CA_FILE and TEAMTOKEN_JWT_ISSUER_TOKEN_FILE")
	algorithms := strings.Trim(fmt.Sprint(authn.Algorithms), "[]")
	refuse(len(c.JWTAlgorithms) == 0, "TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) must name one or more of %s", algorithms)
	for _, name := range c.JWTAlgorithms {
		refuse(!slices.Contains(authn.Algorithms, jose.SignatureAlgorithm(name)),
			"TEAMTOKEN_JWT_ALGORITHMS (--jwt-algorithms) has %q: it may have %s", name, algorithms)
	}
	refuse(c.JWTLeeway < 0 || c.JWTLeeway > authn.MaxLeeway,
		"TEAMTOKEN_JWT_LEEWAY (--jwt-leeway) is %v: it must be from 0s to %v", c.JWTLeeway, authn.MaxLeeway)

	refuse(c.Mesh != NoMesh && c.Mesh != Envoy && c.Mesh != Linkerd,
		"TEAMTOKEN_MESH (--mesh) is %q: it must be none, envoy or linkerd", c.Mesh)
	refuse(len(c.MeshPeers) == 0, "TEAMTOKEN_MESH_PEERS (--mesh-peers) must name one or more networks")
	for _, peer := range c.MeshPeers {
		network, err := netip.ParsePrefix(peer)
		refuse(err != nil, "TEAMTOKEN_MESH_PEERS (--mesh-peers) has %q: it must be networks such as 127.0.0.1/32 or 10.0.0.0/8", peer)
		refuse(err == nil && network.Bits() == 0,
			"TEAMTOKEN_MESH_PEERS (--mesh-peers) has %q: then whoever connects could be anybody; name the proxies' networks", peer)
	}
	refuse(len(c.MeshListeners) == 0, "TEAMTOKEN_MESH_LISTENERS (--mesh-listeners) must be grpc, rest, or both")
	for _, name := range c.MeshListeners {
		refuse(name != "grpc" && name != "rest", "TEAMTOKEN_MESH_LISTENERS (--mesh-listeners) has %q: it must be grpc, rest, or both", name)
	}
}

// checkOrigins looks at what the REST surface is told about its own address.
func (c *Config) checkOrigins(refuse func(bool, string, ...any)) {
	refuse(c.PublicURL != "" && !validOrigin(c.PublicURL),
		"TEAMTOKEN_PUBLIC_URL (--public-url) is %q: it must be https://HOST or http://HOST, optionally with a port and a path", c.PublicURL)
	for _, proxy := range c.TrustedProxies {
		network, err := netip.ParsePrefix(proxy)
		refuse(err != nil, "TEAMTOKEN_TRUSTED_PROXIES (--trusted-proxies) has %q: it must be networks such as 127.0.0.1/32 or 10.0.0.0/8", proxy)
		refuse(err == nil && network.Bits() == 0,
			"TEAMTOKEN_TRUSTED_PROXIES (--trusted-proxies) has %q, which is every address: anyone could then choose the host of links; name the proxies' networks", proxy)
	}
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

func (c *Config) checkLimits(refuse func(bool, string, ...any)) {
	for _, n := range []struct {
		name           string
		value, min, to int
	}{
		{"TEAMTOKEN_MAX_CALLS_PER_CALLER (--max-calls-per-caller)", c.MaxCallsPerCaller, 1, 1e6},
		{"TEAMTOKEN_MAX_CONNECTIONS (--max-connections)", c.MaxConnections, 1, 1e6},
		{"TEAMTOKEN_MAX_STREAMS (--max-streams)", c.MaxStreams, 1, 1e6},
		{"TEAMTOKEN_MAX_HEADER_BYTES (--max-header-bytes)", c.MaxHeaderBytes, 4 << 10, 1 << 20},
		{"TEAMTOKEN_MAX_MESSAGE_BYTES (--max-message-bytes)", c.MaxMessageBytes, 1 << 10, 1 << 20},
	} {
		refuse(n.value < n.min || n.value > n.to, "%s is %d: it must be from %d to %d", n.name, n.value, n.min, n.to)
	}
	for _, d := range []struct {
		name      string
		value, to time.Duration
	}{
		{"TEAMTOKEN_HANDSHAKE_TIMEOUT (--handshake-timeout)", c.HandshakeTimeout, maxTimeout},
		{"TEAMTOKEN_READ_HEADER_TIMEOUT (--read-header-timeout)", c.ReadHeaderTimeout, maxTimeout},
		{"TEAMTOKEN_READ_TIMEOUT (--read-timeout)", c.ReadTimeout, maxTimeout},
		{"TEAMTOKEN_IDLE_TIMEOUT (--idle-timeout)", c.IdleTimeout, 24 * time.Hour},
		{"TEAMTOKEN_MAX_CONNECTION_AGE (--max-connection-age)", c.MaxConnectionAge, 24 * time.Hour},
		{"TEAMTOKEN_CONNECTION_AGE_GRACE (--connection-age-grace)", c.ConnectionAgeGrace, 24 * time.Hour},
		{"TEAMTOKEN_MIN_PING_INTERVAL (--min-ping-interval)", c.MinPingInterval, time.Hour},
	} {
		refuse(d.value <= 0 || d.value > d.to, "%s is %v: it must be over 0 and at most %v", d.name, d.value, d.to)
	}
	refuse(c.ConnectionAgeGrace < c.RequestTimeout,
		"TEAMTOKEN_CONNECTION_AGE_GRACE (--connection-age-grace) is %v, shorter than TEAMTOKEN_REQUEST_TIMEOUT (--request-timeout), which is %v: calls would be cut off",
		c.ConnectionAgeGrace, c.RequestTimeout)
}

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
