package identity_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// presenter is a program, and the header by which a caller says there who it is.
type presenter struct {
	name      string
	f         *harness.Server
	tls       *tls.Config
	header    string
	good, bad string
	id        string   // of the caller, when exactly one good header is there
	otherwise string   // of the caller, when the header is not there
	ignored   bool     // the header means nothing to this program
	besides   []string // headers of every call
	bearer    bool     // the header has the scheme of a bearer token
}

// verdict is what a form of the header leads to.
type verdict int

const (
	known   verdict = iota // one good header
	refused                // anything else in its name
	absent                 // nothing in its name
)

// form is a way to send the header. Headers are name, value, name, value….
type form struct {
	name     string
	headers  []string
	trailers []string
	want     verdict
	http1    bool // HTTP/2 has no such thing
}

func (p presenter) forms() []form {
	n, good, bad := p.header, p.good, p.bad
	forms := []form{
		{name: "none", want: absent},
		{name: "one good", headers: []string{n, good}, want: known},
		{name: "one bad", headers: []string{n, bad}, want: refused},
		{name: "two bad", headers: []string{n, bad, n, bad}, want: refused},
		{name: "two good", headers: []string{n, good, n, good}, want: refused},
		{name: "good and bad", headers: []string{n, good, n, bad}, want: refused},
		{name: "bad and good", headers: []string{n, bad, n, good}, want: refused},
		{name: "three bad", headers: []string{n, bad, n, bad, n, bad}, want: refused},
		{name: "empty", headers: []string{n, ""}, want: refused},
		{name: "two empty", headers: []string{n, "", n, ""}, want: refused},
		{name: "empty and good", headers: []string{n, "", n, good}, want: refused},
		{name: "good and empty", headers: []string{n, good, n, ""}, want: refused},
		{name: "good and bad, in one", headers: []string{n, good + ", " + bad}, want: refused},
		{name: "bad and good, in one", headers: []string{n, bad + ", " + good}, want: refused},
		{name: "good and good, in one", headers: []string{n, good + "," + good}, want: refused},
		{name: "apart", headers: []string{n, bad, "x-between", "1", n, bad}, want: refused},
		{name: "in capitals", headers: []string{strings.ToUpper(n), good}, want: known, http1: true},
		{name: "in two spellings", headers: []string{strings.ToUpper(n), good, n, good}, want: refused, http1: true},
		{name: "in two spellings, both bad", headers: []string{n, bad, strings.ToUpper(n), bad}, want: refused, http1: true},
		{name: "folded", headers: []string{n, good + "\r\n\t" + bad}, want: refused, http1: true},
		{name: "named by the connection, good", headers: []string{"Connection", n, n, good}, want: known, http1: true},
		{name: "named by the connection, bad", headers: []string{"Connection", n, n, bad}, want: refused, http1: true},
		{name: "named by the connection, two bad", headers: []string{"Connection", "keep-alive, " + n, n, bad, n, bad}, want: refused, http1: true},
		{name: "named as a trailer, bad", headers: []string{"trailer", n, n, bad}, want: refused},
		{name: "in the trailer, bad", trailers: []string{n, bad}, want: absent},
		{name: "in the trailer, good", trailers: []string{n, good}, want: absent},
		{name: "bad, and good in the trailer", headers: []string{n, bad}, trailers: []string{n, good}, want: refused},
		{name: "two bad, and good in the trailer", headers: []string{n, bad, n, bad}, trailers: []string{n, good}, want: refused},
		{name: "good, and bad in the trailer", headers: []string{n, good}, trailers: []string{n, bad}, want: known},
	}
	for _, other := range []string{
		"proxy-" + n, "grpc-metadata-" + n, "grpcgateway-" + n, "x-" + n, "x-forwarded-" + n, "x-original-" + n, strings.ReplaceAll(n+"-", "-", "_"),
	} {
		forms = append(forms,
			form{name: "good as " + other, headers: []string{other, good}, want: absent},
			form{name: "two bad, good as " + other, headers: []string{n, bad, n, bad, other, good}, want: refused},
			form{name: "good twice, bad as " + other, headers: []string{n, good, n, good, other, bad}, want: refused})
	}
	forms = append(forms, form{name: "as binary", headers: []string{n + "-bin", "QmVhcmVyIGE"}, want: absent})
	if p.bearer {
		token := strings.TrimPrefix(good, "Bearer ")
		for _, scheme := range []string{"bearer", "BEARER", "bEaReR"} {
			forms = append(forms, form{name: "the scheme " + scheme, headers: []string{n, scheme + " " + token}, want: known})
		}
		for name, value := range map[string]string{
			"another scheme": "Basic dTpw", "another scheme for the token": "Basic " + token, "no scheme": token, "the scheme alone": "Bearer",
			"the scheme twice": "Bearer Bearer " + token, "two words": good + " " + token, "the scheme, and a tab": "Bearer\t" + token,
			"another scheme in one": "Basic dTpw, " + good, "after another in one": good + ", Basic dTpw",
		} {
			forms = append(forms, form{name: name, headers: []string{n, value}, want: refused})
		}
		forms = append(forms,
			form{name: "another scheme, then good", headers: []string{n, "Basic dTpw", n, good}, want: refused},
			form{name: "good, then another scheme", headers: []string{n, good, n, "Basic dTpw"}, want: refused},
			form{name: "another scheme twice", headers: []string{n, "Basic dTpw", n, "Basic dTpw"}, want: refused})
	}
	return forms
}

// answerTo sends a GetToken, as bytes that no library has cleaned, and returns its
// HTTP status, or over gRPC that of gRPC.
func (p presenter) answerTo(t *testing.T, surface, id string, form form) string {
	t.Helper()
	headers := slices.Concat(p.besides, []string{requestid.Header, id}, form.headers)
	if surface == "rest over HTTP/1.1" {
		return p.http1(t, headers, form.trailers)
	}
	address, method, path, wanted := p.f.GRPC, http.MethodPost, harness.Get, "grpc-status"
	if surface == "rest over HTTP/2" {
		address, method, path, wanted = p.f.HostPort(), http.MethodGet, harness.TokenPath, ":status"
	}
	c := harness.DialHTTP2(t, address, p.tls)
	defer c.Conn.Close()
	stream := c.Start(t, method, path, form.trailers, headers...)
	var answer []string
	c.Until(t, func(fr h2.Frame) bool {
		data, ok := fr.(*h2.DataFrame)
		return ok && data.StreamID == stream && data.StreamEnded() || harness.Ends(fr, stream, &answer)
	})
	for _, line := range answer {
		if value, ok := strings.CutPrefix(line, wanted+": "); ok {
			return value
		}
	}
	return "none"
}

func (p presenter) http1(t *testing.T, headers, trailers []string) string {
	t.Helper()
	conn := harness.Must(net.Dial("tcp", p.f.HostPort()))
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Patience))
	if p.tls != nil {
		config := p.tls.Clone()
		config.NextProtos, config.ServerName = []string{"http/1.1"}, "localhost"
		conn = tls.Client(conn, config)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: localhost\r\n", harness.TokenPath)
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if len(trailers) > 0 {
		fmt.Fprintf(&b, "Trailer: %[1]s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%[1]s: %[2]s\r\n", trailers[0], trailers[1])
	}
	b.WriteString("\r\n")
	harness.Say(t, conn, b.String())
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return fmt.Sprint(resp.StatusCode)
}

// What a caller presents reaches authentication as it came, whatever the surface:
// the identity is that of the one good header; with anything else in its name the
// call is refused, and never made by whom the connection names.
func TestPresented(t *testing.T) {
	t.Parallel()
	const behind = "spiffe://teamtoken.test/ns/ci/sa/gateway"
	const byName = "victim.teamtoken.test"
	sim, url := harness.NewSimulator(t)
	ca, key := harness.NewAuthority(t), harness.NewSigner(t, "k")
	good, bad := "Bearer "+key.Sign(t, "victim").Reveal(), "Bearer "+harness.NewSigner(t, "k").Sign(t, "victim").Reveal()
	own := sim.UserToken()
	rules := harness.PolicyFor(harness.Victim, byName, harness.JWTIssuer+"#victim", behind)
	byJWT := []string{"TEAMTOKEN_JWT_ISSUER=" + harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + harness.JWTAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + harness.WriteTemp(t, harness.JWKS(key))}
	mutual := []string{"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + ca.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional"}
	with := func(secure bool, env ...[]string) *harness.Server {
		s := harness.WithPolicy(t, sim, url, rules, slices.Concat(env...)...)
		if secure {
			s.TLS = ca
		}
		return harness.Start(t, s)
	}
	callers := harness.WithCallers(sim, url)
	callers.TLS = ca
	callers.Env = append(callers.Env, mutual...)
	gateway := ca.ClientCert(t, behind)
	xfcc, l5d := "x-forwarded-client-cert", "l5d-client-id"
	presenters := []presenter{
		{name: "a JWT", f: with(false, byJWT), header: "authorization", good: good, bad: bad, id: harness.JWTIssuer + "#victim", bearer: true},
		{
			name: "a JWT, by a gateway's certificate", f: with(true, byJWT, mutual), tls: gateway, header: "authorization",
			good: good, bad: bad, id: harness.JWTIssuer + "#victim", otherwise: behind, bearer: true,
		},
		{
			name: "a JWT, by Envoy", f: with(false, byJWT, []string{"TEAMTOKEN_MESH=envoy"}), header: "authorization",
			good: good, bad: bad, id: harness.JWTIssuer + "#victim", otherwise: behind, besides: []string{xfcc, "URI=" + behind}, bearer: true,
		},
		{
			name: "a JWT, by Linkerd", f: with(false, byJWT, []string{"TEAMTOKEN_MESH=linkerd"}), header: "authorization",
			good: good, bad: bad, id: harness.JWTIssuer + "#victim", otherwise: byName, besides: []string{l5d, byName}, bearer: true,
		},
		{
			name: "Envoy's header, by a proxy's certificate", f: with(true, mutual, []string{"TEAMTOKEN_MESH=envoy"}), tls: gateway,
			header: xfcc, good: "URI=" + harness.Victim, bad: "URI=spiffe://", id: harness.Victim,
		},
		{
			name: "Linkerd's header, by a proxy's certificate", f: with(true, mutual, []string{"TEAMTOKEN_MESH=linkerd"}), tls: gateway,
			header: l5d, good: byName, bad: "-", id: byName,
		},
		{
			name: "the caller's credential", f: harness.Start(t, harness.WithCallers(sim, url)), header: "authorization",
			good: "Bearer " + own.Reveal(), bad: "Bearer a b", id: "credential#", bearer: true,
		},
		{
			name: "the caller's credential, by a certificate", f: harness.Start(t, callers), tls: gateway, header: "authorization",
			good: "Bearer " + own.Reveal(), bad: "Bearer a b", id: behind, bearer: true,
		},
		{
			name: "a certificate alone", f: with(true, mutual), tls: gateway, header: "authorization",
			good: good, bad: bad, otherwise: behind, ignored: true, bearer: true,
		},
	}
	sim.Reset()
	for _, p := range presenters {
		surfaces := []string{"grpc", "rest over HTTP/1.1"}
		if p.tls != nil {
			surfaces = append(surfaces, "rest over HTTP/2")
		}
		for _, form := range p.forms() {
			for _, surface := range surfaces {
				if surface != "rest over HTTP/1.1" && form.http1 || surface == "grpc" && form.trailers != nil {
					continue // gRPC's clients have no trailers: grpc-go ends such a connection
				}
				t.Run(fmt.Sprintf("%s/%s/%s", p.name, form.name, surface), func(t *testing.T) { p.run(t, sim, surface, form) })
			}
		}
	}
}

func (p presenter) run(t *testing.T, sim *simulator.Simulator, surface string, form form) {
	id := requestid.New()
	before := len(sim.Requests())
	got := p.answerTo(t, surface, id, form)
	var lines []audit.Record
	harness.Eventually(t, "the audit has the end of the call", func() bool {
		var events string
		lines, events = harness.EventsOf(p.f, id)
		return strings.HasSuffix(events, audit.EventOutcome) || strings.HasSuffix(events, audit.EventRefusal)
	})
	who := p.otherwise
	if form.want == known && !p.ignored {
		who = p.id
	}
	if form.want == refused && !p.ignored || who == "" {
		if (got != "16" && got != "401") || len(lines) != 1 || lines[0].Event != audit.EventRefusal || lines[0].Reason != harness.Unauthenticated ||
			lines[0].Caller != "" || lines[0].VerifiedBy != "" || len(sim.Requests()) != before {
			t.Errorf("answered %s, %d requests went upstream, and the audit has %+v; want it refused", got, len(sim.Requests())-before, lines)
		}
		return
	}
	last := lines[len(lines)-1]
	if last.Event != audit.EventOutcome || !strings.HasPrefix(last.Caller, who) || got == "16" || got == "401" {
		t.Errorf("answered %s, and the audit has %+v; want it made by %s", got, lines, who)
	}
}
