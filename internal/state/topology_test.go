package state_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// wholeTurn takes a turn and gives it back, by every step that there is.
func wholeTurn(t *testing.T, s state.Store, team string) {
	t.Helper()
	a := ask(team, "r-"+team)
	a.Slot = state.Slot{Bucket: "b", Interval: time.Microsecond, MaxWait: time.Second}
	got := begin(t, s, a, state.Granted)
	for _, err := range []error{
		s.Renew(t.Context(), got.Turn), s.Redo(t.Context(), got.Turn, "at-1"), s.Pause(t.Context(), a.Slot, time.Microsecond),
		s.End(t.Context(), got.Turn, state.End{Known: "at-2", Fate: state.Keep, Recorded: state.Recorded{Answer: []byte("a"), Token: "at-2"}}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	begin(t, s, a, state.Done)
	if _, err := s.Due(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Beat(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

// Every step's keys lie in one slot, so that a Cluster takes them.
func TestCluster(t *testing.T) {
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
		got, err := s.Begin(ctx, ask("a", "r-a"))
		return err == nil && got.Verdict == state.Done
	})
	wholeTurn(t, s, "b")
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain := statetest.Start(t) // for a port that is free once it is gone
	plain.Kill()
	statetest.Start(t, fmt.Sprintf("tls-port %d", plain.Port), "tls-auth-clients no",
		"tls-cert-file "+filepath.Join(dir, "cert"), "tls-key-file "+filepath.Join(dir, "key"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	for name, row := range map[string]struct {
		trusted func() *tls.Config
		ok      bool
	}{
		"a CA that is trusted": {func() *tls.Config { return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} }, true},
		"one that is not":      {nil, false},
	} {
		s, err := state.OpenRedis(state.RedisOptions{
			URL: secret.New(fmt.Sprintf("rediss://127.0.0.1:%d", plain.Port)), TLS: row.trusted, Prefix: "x", Times: state.NewTimes(hold), Keys: keys,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Begin(t.Context(), ask("a", "")); (err == nil) != row.ok {
			t.Errorf("%s: %v", name, err)
		}
		_ = s.Close()
	}
}
