package state_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// wholeTurn takes a turn and gives it back, by every step that there is.
func wholeTurn(t *testing.T, s state.Store, team string) {
	t.Helper()
	a := ask(team, "r-"+team)
	a.Rate = state.RateRequest{Key: "b", Interval: time.Microsecond, MaxWait: time.Second}
	got := begin(t, s, a, state.Acquired)
	for _, err := range []error{
		s.Renew(t.Context(), got.Lock), s.Restart(t.Context(), got.Lock, "at-1"), s.BlockRate(t.Context(), a.Rate, time.Microsecond),
		s.Release(t.Context(), got.Lock, state.Release{CurrentTokenID: "at-2", Record: state.RecordCompleted, Response: state.Response{Sealed: []byte("a"), TokenID: "at-2"}}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	begin(t, s, a, state.Completed)
	if _, err := s.ListInDoubt(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Heartbeat(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

// Every step's keys lie in one slot, so that a Cluster takes them.
func TestCluster(t *testing.T) {
	t.Parallel()
	r := statetest.Start(t, "cluster-enabled yes")
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	if err := client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		info, err := client.ClusterInfo(context.Background()).Result()
		return err == nil && len(info) > 16 && info[:16] == "cluster_state:ok"
	})
	wholeTurn(t, open(t, r.URL()+"?cluster=true", "teamtoken"), "a")
}

// After a failover the replica that took over is asked, and what had reached it is
// there.
func TestSentinel(t *testing.T) {
	t.Parallel()
	primary := statetest.Start(t)
	second := statetest.Start(t, fmt.Sprintf("replicaof 127.0.0.1 %d", primary.Port))
	sentinel := statetest.Start(t,
		fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1", primary.Port),
		"sentinel down-after-milliseconds m 500", "sentinel failover-timeout m 5000")
	s := open(t, fmt.Sprintf("redis://127.0.0.1:%d?master_name=m", sentinel.Port), "teamtoken")
	wholeTurn(t, s, "a")

	client := redis.NewClient(&redis.Options{Addr: second.Address()})
	defer client.Close()
	eventually(t, func() bool {
		n, err := client.Exists(context.Background(), "{teamtoken}:record:r-a").Result()
		return err == nil && n == 1
	})
	sentinels := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Address()})
	t.Cleanup(func() { _ = sentinels.Close() })
	eventually(t, func() bool { // it knows to whom to fail over
		replicas, err := sentinels.Replicas(context.Background(), "m").Result()
		return err == nil && len(replicas) == 1
	})
	primary.Kill()
	eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		got, err := s.Acquire(ctx, ask("a", "r-a"))
		return err == nil && got.Status == state.Completed
	})
	wholeTurn(t, s, "b")
}

// authority makes certificates for loopback.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))
	a.cert = must(x509.ParseCertificate(der))
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(name string) *tls.Certificate {
	a.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Redis by TLS, which asks clients for a certificate, as it does unless it is told not to:
// alone, behind a Sentinel, and as a Cluster. The certificate is asked for at each
// connection, so that one that comes later will do.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	ca.issue("server")
	client, foreign := ca.issue("client"), other.issue("client")
	lines := []string{
		"tls-port auto", "tls-auth-clients yes", "tls-cert-file " + ca.file("server.pem"), "tls-key-file " + ca.file("server.key"),
		"tls-ca-cert-file " + ca.file("ca.pem"),
	}
	for name, url := range map[string]func(t *testing.T) string{
		"single": func(t *testing.T) string { return "rediss://" + statetest.Start(t, lines...).TLSAddress() },
		"sentinel": func(t *testing.T) string {
			primary := statetest.Start(t, lines...)
			sentinel := statetest.Start(t, append([]string{"tls-replication yes", fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1", primary.TLSPort)}, lines...)...)
			return "rediss://" + sentinel.TLSAddress() + "?master_name=m"
		},
		"cluster": func(t *testing.T) string {
			c := statetest.StartCluster(t, 3, redis.Options{}, append([]string{"tls-cluster yes", "tls-replication yes"}, lines...)...)
			return "rediss://" + c.Nodes[0].TLSAddress() + "?cluster=true&addr=" + c.Nodes[1].TLSAddress()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := secret.New(url(t))
			for name, row := range map[string]struct {
				trusts *x509.CertPool
				has    *tls.Certificate
				ok     bool
			}{
				"a certificate of the CA":            {ca.pool(), client, true},
				"one of another CA":                  {ca.pool(), foreign, false},
				"none":                               {ca.pool(), &tls.Certificate{}, false},
				"a server that is not to be trusted": {other.pool(), client, false},
				"the system's CAs":                   {nil, client, false},
			} {
				var has atomic.Pointer[tls.Certificate]
				var trusts atomic.Pointer[x509.CertPool]
				has.Store(row.has)
				trusts.Store(row.trusts)
				s, err := state.OpenRedis(state.RedisOptions{
					URL: at, Prefix: "x", Times: state.NewTTLs(hold), Keys: keys, TLS: func() *tls.Config {
						return &tls.Config{RootCAs: trusts.Load(), MinVersion: tls.VersionTLS12, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
							return has.Load(), nil
						}}
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Acquire(t.Context(), ask(name, "")); (err == nil) != row.ok {
					t.Errorf("%s: %v", name, err)
				}
				has.Store(client)
				trusts.Store(ca.pool())
				eventually(t, func() bool { _, err := s.Acquire(t.Context(), ask(name+" then", "")); return err == nil })
				_ = s.Close()
			}
			plain := strings.Replace(at.Reveal(), "rediss:", "redis:", 1)
			if _, err := open(t, plain, "x").Acquire(t.Context(), ask("plain", "")); err == nil {
				t.Error("it can be had without TLS")
			}
		})
	}
}

// A name that moves to another host is looked up anew as soon as the old host does not
// answer, or says that it is a replica by now.
func TestTheNameMoves(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(r *statetest.Redis){
		"the old one is gone": func(r *statetest.Redis) { r.Kill() },
		"the old one hangs":   func(r *statetest.Redis) { r.Hang() },
		"the old one is a replica": func(r *statetest.Redis) {
			client := redis.NewClient(&redis.Options{Addr: r.Address()})
			defer client.Close()
			must(client.ReplicaOf(context.Background(), "127.0.0.1", "1").Result())
		},
	} {
		t.Run(name, func(t *testing.T) {
			old := statetest.Start(t)
			statetest.Start(t, fmt.Sprintf("port %d", old.Port), "bind 127.0.0.2")
			address := resolve(t)
			s := open(t, fmt.Sprintf("redis://redis.test:%d", old.Port), "teamtoken")
			wholeTurn(t, s, "a")
			address.Store(&[4]byte{127, 0, 0, 2})
			leave(old)
			moved := time.Now()
			eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				got, err := s.Acquire(ctx, ask("b", ""))
				return err == nil && got.Status == state.Acquired
			})
			if took := time.Since(moved); took > 5*time.Second {
				t.Errorf("after %v", took)
			}
		})
	}
}

// nameServer answers for names; nil is the system's. Clients that dial in the
// background may look names up at any time, so that the resolver is set before any test.
var nameServer atomic.Pointer[string]

func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if at := nameServer.Load(); at != nil {
			network, address = "udp", *at
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
}

// resolve has names resolved to an address, until the test ends.
func resolve(t *testing.T) *atomic.Pointer[[4]byte] {
	t.Helper()
	address := &atomic.Pointer[[4]byte]{}
	address.Store(&[4]byte{127, 0, 0, 1})
	server := must(net.ListenPacket("udp", "127.0.0.1:0"))
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: *address.Load()},
				}}
			}
			_, _ = server.WriteTo(must(m.Pack()), from)
		}
	}()
	at := server.LocalAddr().String()
	nameServer.Store(&at)
	t.Cleanup(func() { nameServer.Store(nil); _ = server.Close() })
	return address
}
