package authn_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
)

const (
	xfcc     = "x-forwarded-client-cert"
	l5d      = "l5d-client-id"
	deployer = "spiffe://example.org/ns/ci/sa/deployer"
)

func byMesh(header authn.MeshHeader, surfaces ...caller.Surface) *authn.Authenticator {
	return authn.New(authn.Options{Mesh: &authn.Mesh{
		Header: header, Peers: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}, Surfaces: surfaces,
	}})
}

func TestForwardedClientCert(t *testing.T) {
	a := byMesh(authn.Envoy, caller.GRPC)
	for _, row := range []struct {
		name   string
		header string
		want   string // "" is refused
	}{
		{"as Istio sends it", `By=spiffe://example.org/ns/tt/sa/tt;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;Subject="";URI=` + deployer, deployer},
		{"as Envoy sends it, with a name", `Hash=aa;Subject="CN=a,O=\"b, c\";d";URI=` + deployer + `;DNS=a.example.com`, deployer},
		{"keys in capitals", "URI=" + deployer, deployer},
		{"keys in lower case", "uri=" + deployer, deployer},
		{"a quoted URI", `URI="` + deployer + `"`, deployer},
		{"a name alone", "Hash=aa;DNS=Billing.Example.COM", "billing.example.com"},
		{"as Envoy sends it, of a certificate without a URI", "Hash=aa;URI=;DNS=a.example.com", "a.example.com"},
		{"the first of two names", "DNS=a.example.com;DNS=b.example.com", "a.example.com"},
		{"a subject in UTF-8", `Subject="CN=Jörg";URI=` + deployer, deployer},
		{"a certificate", `Cert="-----BEGIN%20CERTIFICATE-----%0Aa%2Bb%3D%3D%0A";URI=` + deployer, deployer},

		{"two elements", "URI=" + deployer + ",URI=spiffe://example.org/ns/a/sa/b", ""},
		{"two elements, the same", "URI=" + deployer + ",URI=" + deployer, ""},
		{"two elements, with a space", "URI=" + deployer + ", URI=" + deployer, ""},
		{"an element and nothing", "URI=" + deployer + ",", ""},
		{"nothing and an element", ",URI=" + deployer, ""},
		{"an element that a quote hides", `Subject="a";URI=` + deployer + `,Subject="b"`, ""},
		{"a quote that ends too early", `Subject="a"b";URI=` + deployer, ""},
		{"a quote that does not end", `Subject="a;URI=` + deployer, ""},
		{"a quote that is escaped at the end", `Subject="a\`, ""},
		{"a quote within", `Subject=a"b;URI=` + deployer, ""},
		{"two URIs", "URI=" + deployer + ";URI=spiffe://example.org/ns/a/sa/b", ""},
		{"the same URI twice", "URI=" + deployer + ";uri=" + deployer, ""},
		{"a URI that is none of SPIFFE", "URI=https://example.org/a;DNS=a.example.com", ""},
		{"an empty URI and nothing", "Hash=a;URI=", ""},
		{"a trust domain alone", "URI=spiffe://example.org", ""},
		{"a path that climbs", "URI=spiffe://example.org/ns/../sa/deployer", ""},
		{"a path with a percent sign", "URI=spiffe://example.org/ns%2fci", ""},
		{"who receives, alone", "By=" + deployer, ""},
		{"a hash alone", "Hash=aa", ""},
		{"a name with a wildcard", "DNS=*.example.com", ""},
		{"a name with a space", "DNS=a b", ""},
		{"a name that is empty", "DNS=", ""},
		{"a key alone", "URI", ""},
		{"a key with a space", "URI =" + deployer, ""},
		{"a semicolon at the end", "URI=" + deployer + ";", ""},
		{"two semicolons", "Hash=a;;URI=" + deployer, ""},
		{"a line break", "Hash=a\nb;URI=" + deployer, ""},
		{"empty", "", ""},
		{"too long", "Hash=" + strings.Repeat("a", 16<<10) + ";URI=" + deployer, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := a.Authenticate(t.Context(), presented("127.0.0.1:1", xfcc, row.header))
			if row.want != "" && (err != nil || c.ID != row.want || c.VerifiedBy != caller.Mesh) || row.want == "" && (err == nil || c.ID != "") {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// Only the proxy is believed, and only where it is to connect.
func TestMesh(t *testing.T) {
	const (
		workload = "deployer.ci.serviceaccount.identity.linkerd.cluster.local"
		external = "spiffe://root.linkerd.cluster.local/external-vm"
	)
	good := "URI=" + deployer
	for _, row := range []struct {
		name    string
		a       *authn.Authenticator
		peer    string
		headers []string
		want    string
		none    bool // nobody is named; otherwise what is named is refused
	}{
		{"Envoy", byMesh(authn.Envoy, caller.GRPC), "127.0.0.1:1", []string{xfcc, good}, deployer, false},
		{"Envoy over IPv6", byMesh(authn.Envoy, caller.GRPC), "[::1]:1", []string{xfcc, good}, deployer, false},
		{"Envoy over IPv4 in IPv6", byMesh(authn.Envoy, caller.GRPC), "[::ffff:127.0.0.1]:1", []string{xfcc, good}, deployer, false},
		{"Linkerd", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, workload}, workload, false},
		{"from elsewhere", byMesh(authn.Envoy, caller.GRPC), "127.0.0.2:1", []string{xfcc, good}, "", true},
		{"on another listener", byMesh(authn.Envoy, caller.REST), "127.0.0.1:1", []string{xfcc, good}, "", true},
		{"without the header", byMesh(authn.Envoy, caller.GRPC), "127.0.0.1:1", nil, "", true},
		{"with the other mesh's header", byMesh(authn.Envoy, caller.GRPC), "127.0.0.1:1", []string{l5d, workload}, "", true},
		{"with the other mesh's header, the other way round", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{xfcc, good}, "", true},
		{"two headers", byMesh(authn.Envoy, caller.GRPC), "127.0.0.1:1", []string{xfcc, good, xfcc, good}, "", false},
		{"two headers of Linkerd", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, workload, l5d, workload}, "", false},
		{"Linkerd, of a workload outside of the cluster", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, external}, external, false},
		{"Linkerd, a name in capitals", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "A.B"}, "a.b", false},
		{"two SPIFFE ids of Linkerd", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, external + "," + external}, "", false},
		{"a SPIFFE id and a name", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, external + "," + workload}, "", false},
		{"a trust domain alone", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://root.linkerd.cluster.local"}, "", false},
		{"a trust domain and a slash", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://root.linkerd.cluster.local/"}, "", false},
		{"a path that climbs", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://root.linkerd.cluster.local/a/../b"}, "", false},
		{"a scheme in capitals", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "SPIFFE://root.linkerd.cluster.local/external-vm"}, "", false},
		{"a trust domain in capitals", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://Root/external-vm"}, "", false},
		{"a SPIFFE id with a query", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, external + "?a"}, "", false},
		{"a SPIFFE id with a port", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://root:1/external-vm"}, "", false},
		{"a SPIFFE id with a blank before", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, " " + external}, "", false},
		{"another scheme", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "https://root.linkerd.cluster.local/external-vm"}, "", false},
		{"a path without a scheme", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "root.linkerd.cluster.local/external-vm"}, "", false},
		{"a SPIFFE id too long", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "spiffe://root/" + strings.Repeat("a", 2048)}, "", false},
		{"as Envoy says it", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, "URI=" + external}, "", false},
		{"a list", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, workload + ",a.b"}, "", false},
		{"an empty name", byMesh(authn.Linkerd, caller.GRPC), "127.0.0.1:1", []string{l5d, ""}, "", false},
		{"no mesh", authn.New(authn.Options{}), "127.0.0.1:1", []string{xfcc, good, l5d, workload}, "", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := row.a.Authenticate(t.Context(), presented(row.peer, row.headers...))
			switch {
			case row.want != "":
				if err != nil || c.ID != row.want {
					t.Errorf("%+v, %v", c, err)
				}
			case err == nil || errors.Is(err, authn.ErrNoCredentials) != row.none:
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// What is taken names exactly one caller, and would again; what has a comma outside
// of quotes is never taken.
func FuzzForwardedClientCert(f *testing.F) {
	for _, s := range []string{
		"URI=" + deployer, `Hash=a;Subject="a,\"b";URI=` + deployer, "DNS=a.b", "URI=a,URI=b", `Subject="`, "By=a;", "uri=" + deployer + ";DNS=x",
	} {
		f.Add(s)
	}
	a := byMesh(authn.Envoy, caller.GRPC)
	f.Fuzz(func(t *testing.T, header string) {
		c, err := a.Authenticate(t.Context(), presented("127.0.0.1:1", xfcc, header))
		if err != nil {
			return
		}
		quoted := false
		for i := 0; i < len(header); i++ {
			switch {
			case quoted && header[i] == '\\':
				i++
			case header[i] == '"':
				quoted = !quoted
			case header[i] == ',' && !quoted:
				t.Errorf("%q has two elements and is %q", header, c.ID)
			}
		}
		key := "DNS"
		if strings.HasPrefix(c.ID, "spiffe://") {
			key = "URI"
		}
		again, err := a.Authenticate(t.Context(), presented("127.0.0.1:1", xfcc, fmt.Sprintf("%s=%s", key, c.ID)))
		if err != nil || again.ID != c.ID {
			t.Errorf("%q is %q, and that is %q, %v", header, c.ID, again.ID, err)
		}
	})
}

func BenchmarkForwardedClientCert(b *testing.B) {
	a := byMesh(authn.Envoy, caller.GRPC)
	call := presented("127.0.0.1:1", xfcc, `By=spiffe://example.org/ns/tt/sa/tt;Hash=468ed33be74eee65;Subject="CN=a,O=b";URI=`+deployer)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
}
