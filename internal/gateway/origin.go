package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// Origins says under which address clients reach the REST surface, for the links
// in its answers. The zero value takes the address that each request names.
type Origins struct {
	// Public is that address: a scheme, a host, and maybe a path that a proxy takes
	// off. Nil if it is not known.
	Public *url.URL
	// Proxies are the networks of the proxies whose X-Forwarded-Proto, -Host and
	// -Port count. From any other peer these headers mean nothing.
	Proxies []netip.Prefix
}

// of returns the public address of a request's URL, without its path. The host is
// empty if nothing names one: HTTP/1.0 needs no Host.
func (o Origins) of(r *request) url.URL {
	if o.Public != nil {
		return *o.Public
	}
	at := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		at.Scheme = "https"
	}
	if from, _ := caller.CredentialsFrom(r.Context()); o.proxied(from.Peer) {
		at = forwarded(at, r.Header)
	}
	return at
}

func (o Origins) proxied(peer netip.AddrPort) bool {
	address := peer.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(o.Proxies, func(n netip.Prefix) bool { return n.Contains(address) })
}

// forwarded returns the address that a proxy says it was asked for. One header that
// stands twice, is a list, or is malformed makes all three mean nothing: half of
// what several proxies say would be an address that none of them has.
//
// A port in X-Forwarded-Host is what the client asked for, and so goes before
// X-Forwarded-Port, which is where the proxy listens. The scheme's own port is left out.
func forwarded(at url.URL, h http.Header) url.URL {
	proto, ok1 := one(h, "X-Forwarded-Proto")
	host, ok2 := one(h, "X-Forwarded-Host")
	port, ok3 := one(h, "X-Forwarded-Port")
	proto = strings.ToLower(proto)
	if !ok1 || !ok2 || !ok3 || proto != "" && proto != "http" && proto != "https" || host != "" && !validHost(host) || port != "" && !validPort(port) {
		return at
	}
	if proto != "" {
		at.Scheme = proto
	}
	if host != "" {
		at.Host = host
	}
	name, own, err := net.SplitHostPort(at.Host)
	if err != nil { // it has no port
		name, own = strings.Trim(at.Host, "[]"), port
	}
	if own == map[string]string{"http": "80", "https": "443"}[at.Scheme] {
		own = ""
	}
	switch {
	case own != "":
		at.Host = net.JoinHostPort(name, own)
	case strings.Contains(name, ":"):
		at.Host = "[" + name + "]"
	default:
		at.Host = name
	}
	return at
}

// one returns the only value of a header, empty if there is none.
func one(h http.Header, name string) (value string, ok bool) {
	switch values := h.Values(name); len(values) {
	case 0:
		return "", true
	case 1:
		return values[0], values[0] != ""
	default:
		return "", false
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?$`)

// validHost reports whether host is a name or an IP address, maybe with a port.
func validHost(host string) bool {
	name, port, err := net.SplitHostPort(host)
	switch {
	case err != nil: // it has no port
		name = host
	case !validPort(port):
		return false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, _, _ = strings.Cut(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return err == nil && ip.Is6() && ip.Zone() == "" && (port != "" || strings.HasSuffix(host, "]"))
	}
	return hostName.MatchString(name) && !strings.Contains(name, "..")
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && port == strconv.FormatUint(n, 10)
}
