package gateway

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// A link begins with the public address if there is one, else with what a trusted
// proxy says, else with what the request names. What is doubled or malformed means
// nothing, and takes the other headers with it.
func TestOrigins(t *testing.T) {
	public, _ := url.Parse("https://tokens.example.com/teamtoken")
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	h := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	const proto, host, port = "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"
	const own = "http://own.test:8080/p"
	trusted := Origins{Proxies: proxies}
	for _, row := range []struct {
		name    string
		origins Origins
		peer    string
		secure  bool
		headers http.Header
		want    string
	}{
		{"nothing said", Origins{}, "10.1.2.3:4", false, nil, own},
		{"TLS of its own", Origins{}, "10.1.2.3:4", true, nil, "https://own.test:8080/p"},
		{"nobody trusted", Origins{}, "10.1.2.3:4", false, h(proto, "https", host, "evil.test"), own},
		{"a public address", Origins{Public: public}, "192.0.2.1:4", false, nil, "https://tokens.example.com/teamtoken/p"},
		{"a public address, and a proxy", Origins{public, proxies}, "10.1.2.3:4", false, h(host, "a.test"), "https://tokens.example.com/teamtoken/p"},
		{"somebody else", trusted, "192.0.2.1:4", false, h(proto, "https", host, "evil.test", port, "1"), own},
		{"somebody without an address", trusted, "@", false, h(proto, "https"), own},
		{"a proxy that says nothing", trusted, "10.1.2.3:4", false, nil, own},
		{"the scheme", trusted, "10.1.2.3:4", false, h(proto, "https"), "https://own.test:8080/p"},
		{"the scheme in capitals", trusted, "10.1.2.3:4", false, h(proto, "HTTPS"), "https://own.test:8080/p"},
		{"plain HTTP before TLS", trusted, "10.1.2.3:4", true, h(proto, "http"), "http://own.test:8080/p"},
		{"over IPv6", trusted, "[fd00::1]:4", false, h(proto, "https", host, "a.test"), "https://a.test/p"},
		{"over mapped IPv4", trusted, "[::ffff:10.1.2.3]:4", false, h(proto, "https", host, "a.test"), "https://a.test/p"},
		{"all three", trusted, "10.1.2.3:4", false, h(proto, "https", host, "a.test", port, "8443"), "https://a.test:8443/p"},
		{"the scheme's own port", trusted, "10.1.2.3:4", false, h(proto, "https", host, "a.test", port, "443"), "https://a.test/p"},
		{"the scheme's own port in the host", trusted, "10.1.2.3:4", false, h(proto, "http", host, "a.test:80"), "http://a.test/p"},
		{"the other scheme's port", trusted, "10.1.2.3:4", false, h(proto, "https", host, "a.test", port, "80"), "https://a.test:80/p"},
		{"a port in the host and another", trusted, "10.1.2.3:4", false, h(proto, "https", host, "a.test:444", port, "8443"), "https://a.test:444/p"},
		{"an address", trusted, "10.1.2.3:4", false, h(host, "192.0.2.9"), "http://192.0.2.9/p"},
		{"an IPv6 address", trusted, "10.1.2.3:4", false, h(host, "[2001:db8::1]"), "http://[2001:db8::1]/p"},
		{"an IPv6 address and a port", trusted, "10.1.2.3:4", false, h(host, "[2001:db8::1]", port, "8080"), "http://[2001:db8::1]:8080/p"},
		{"an IPv6 address with a port", trusted, "10.1.2.3:4", false, h(host, "[2001:db8::1]:8080"), "http://[2001:db8::1]:8080/p"},
		{"a port alone", trusted, "10.1.2.3:4", false, h(port, "9"), own}, // the client has named one
		{"Forwarded", trusted, "10.1.2.3:4", false, h("Forwarded", "proto=https;host=a.test"), own},
	} {
		if got := linkOf(row.origins, row.peer, "own.test:8080", row.secure, row.headers); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	for name, values := range map[string][]string{
		proto: {"", " ", "ftp", "https,http", "https, https", "https://", "javascript", "http\x00", "h"},
		host: {
			"", " ", "a.test, b.test", "a.test/", "a.test/..", "//a.test", "https://a.test", "user@a.test", "a.test?", "a.test#", "a b", "a..b", ".a", "-a.test", "a.test:",
			"a.test:0", "a.test:99999", "a.test:x", "a.test:80:80", "[::1", "::1", "[::1]x", "[a.test]", "[fe80::1%25eth0]", "[192.0.2.1]", `"`, "<script>", "a.test\\", "%61.test", "ä.test", "*",
		},
		port: {"", "0", "-1", "+1", "65536", "http", "80,443", "080", "8443x", " 1"},
	} {
		for _, value := range values {
			headers := h(proto, "https", host, "a.test", port, "8443")
			headers.Set(name, value)
			if got := linkOf(trusted, "10.1.2.3:4", "own.test:8080", false, headers); got != own {
				t.Errorf("%s %q: %s, want %s", name, value, got, own)
			}
		}
		headers := h(proto, "https", host, "a.test", port, "8443")
		headers.Add(name, headers.Get(name))
		if got := linkOf(trusted, "10.1.2.3:4", "own.test:8080", false, headers); got != own {
			t.Errorf("%s twice: %s, want %s", name, got, own)
		}
	}
	if got := linkOf(Origins{}, "192.0.2.1:4", "", false, nil); got != "/p" {
		t.Errorf("without a host: %s", got)
	}
}

func linkOf(o Origins, peer, host string, secure bool, headers http.Header) string {
	r := httptest.NewRequest(http.MethodGet, "/p", nil)
	r.Host, r.Header = host, headers
	if headers == nil {
		r.Header = http.Header{}
	}
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	from, _ := netip.ParseAddrPort(peer)
	r = r.WithContext(caller.WithCredentials(r.Context(), caller.Credentials{Peer: from}))
	in := &request{Request: r}
	u, _ := url.Parse(link(o.of(in), in, 1, 20))
	u.RawQuery = ""
	return u.String()
}
