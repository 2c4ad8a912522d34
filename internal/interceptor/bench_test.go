//go:build unix

package interceptor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/authn"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/interceptor"
	"github.com/teamtoken/teamtoken/internal/policy"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// mostAdded is what knowing the caller, deciding and writing down may cost a call.
const mostAdded = 15 * time.Microsecond

// BenchmarkAdded tells what who calls, the policy and the audit add to a call, of
// CPU time: that of the chain with all three, less that of the chain without. There
// is no chain without an audit, so that the other has one that goes nowhere, whose
// two lines are measured by themselves. The policy has 100 rules, the audit is a
// file, and 64 callers call at a time. It fails if the median of the rounds is over
// mostAdded.
func BenchmarkAdded(b *testing.B) {
	const spiffe = "spiffe://example.org/ns/ci/sa/deployer"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	uri, _ := url.Parse(spiffe)
	leaf := &x509.Certificate{URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, way := range []struct {
		name    string
		headers metadata.MD
		tls     *tls.ConnectionState
	}{
		{name: "mtls", tls: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}},
		{name: "jwt", headers: metadata.Pairs("authorization", "Bearer "+token(b, key))},
		{name: "mesh", headers: metadata.Pairs("x-forwarded-client-cert", `By=spiffe://example.org/ns/tt/sa/tt;Hash=468ed33be74eee65;Subject="";URI=`+spiffe)},
	} {
		b.Run(way.name, func(b *testing.B) {
			chain := known(b, key, way.headers.Get("x-forwarded-client-cert") != nil)
			nowhere := open(b, audit.Options{Destination: "-", Stdout: io.Discard})
			bare := interceptor.New(descriptor, interceptor.Options{
				Log: telemetry.NewLogger(io.Discard, 0, false), Metrics: metrics(b), Audit: nowhere, Timeout: timeout,
			})
			ctx := metadata.NewIncomingContext(b.Context(), way.headers)
			from := &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}}
			if way.tls != nil {
				from.AuthInfo = verified{credentials.TLSInfo{State: *way.tls}}
			}
			ctx = peer.NewContext(ctx, from)
			handler := func(context.Context, any) (any, error) { return &teamtokenv1.GenerateTokenResponse{}, nil }
			info := &grpc.UnaryServerInfo{FullMethod: fullName("GenerateToken")}
			req := &teamtokenv1.GenerateTokenRequest{TeamId: "team-BUHBEM97xboT8TVz"}

			through := func(c *interceptor.Chain) func() {
				return func() {
					if _, err := c.Unary(ctx, req, info, handler); err != nil {
						b.Error(err)
					}
				}
			}
			record := audit.Record{RequestID: "a", Method: "GenerateToken", Surface: "grpc", Team: req.GetTeamId(), Decision: "allow"}
			lines := func() {
				attempt, outcome := record, record
				attempt.Event, outcome.Event = audit.EventAttempt, audit.EventOutcome
				_ = nowhere.Attempt(ctx, &attempt)
				nowhere.Outcome(&outcome)
			}
			var rounds []time.Duration
			for b.Loop() {
				rounds = append(rounds, cpuOf(through(chain))-cpuOf(through(bare))+cpuOf(lines))
			}
			slices.Sort(rounds)
			added := rounds[len(rounds)/2]
			b.ReportMetric(float64(added.Nanoseconds())/1e3, "added-µs/call")
			if added > mostAdded {
				b.Errorf("a call costs %v more, and may cost %v", added, mostAdded)
			}
		})
	}
}

// known is a chain for callers who are known in every way, to a policy of 100 rules
// and an audit file.
func known(b *testing.B, key *ecdsa.PrivateKey, mesh bool) *interceptor.Chain {
	b.Helper()
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
	if err != nil {
		b.Fatal(err)
	}
	keys, err := authn.ParseKeys(jwks)
	if err != nil {
		b.Fatal(err)
	}
	o := authn.Options{Certificates: true}
	o.JWT, err = authn.NewJWT(authn.JWTOptions{
		Issuer: "https://issuer.example.com", Audiences: []string{"teamtoken"}, Algorithms: []string{"ES256"},
		Keys: authn.FileKeys(func() authn.KeySet { return keys }),
	})
	if err != nil {
		b.Fatal(err)
	}
	if mesh {
		o.Mesh = &authn.Mesh{
			Header: authn.Envoy, Peers: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Surfaces: []caller.Surface{caller.GRPC},
		}
	}
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 99 {
		fmt.Fprintf(&text, "  - {name: r%d, callers: ['spiffe://example.org/ns/n%d/sa/*'], methods: ['*'], teams: [team-%016d]}\n", i, i, i)
	}
	text.WriteString("  - {name: last, callers: ['spiffe://example.org/ns/ci/sa/*', 'https://issuer.example.com#*'], methods: ['*'], teams: ['team-*']}\n")
	rules, err := policy.Parse([]byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	book := open(b, audit.Options{Destination: filepath.Join(b.TempDir(), "audit.jsonl")})
	return interceptor.New(descriptor, interceptor.Options{
		Log: telemetry.NewLogger(io.Discard, 0, false), Metrics: metrics(b), Audit: book, Timeout: timeout,
		Authenticate: authn.New(o).Authenticate, Policy: func() *policy.Policy { return rules }, MaxInFlightPerCaller: 1000,
	})
}

func open(b *testing.B, o audit.Options) *audit.Log {
	b.Helper()
	book, err := audit.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = book.Close() })
	return book
}

func token(b *testing.B, key *ecdsa.PrivateKey) string {
	b.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		b.Fatal(err)
	}
	claims := fmt.Sprintf(`{"iss":"https://issuer.example.com","aud":"teamtoken","sub":"ci","exp":%d}`, time.Now().Add(time.Hour).Unix())
	signed, err := signer.Sign([]byte(claims))
	if err != nil {
		b.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// cpuOf is the CPU time of one call of f, on average, when 64 callers make it.
func cpuOf(f func()) time.Duration {
	const callers, calls = 64, 50
	before := cpu()
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for range calls {
				f()
			}
		})
	}
	group.Wait()
	return (cpu() - before) / (callers * calls)
}

// cpu is what this process has used so far.
func cpu() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// verified is a connection whose client certificate is still valid.
type verified struct{ credentials.TLSInfo }

func (v verified) TLS() *tls.ConnectionState { return &v.State }
func (verified) Verified() error             { return nil }
