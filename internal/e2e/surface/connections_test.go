package surface_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A replica that comes while clients are connected gets its share of their calls
// once their connections are of age: they are then asked to connect anew, and look
// who is there. No call is lost by that.
func TestANewReplicaTakesItsShare(t *testing.T) {
	t.Parallel()
	const age = 2 * time.Second
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_MAX_CONNECTION_AGE="+age.String())
	first := harness.Start(t, s)

	var replicas atomic.Pointer[[]resolver.Address]
	replicas.Store(&[]resolver.Address{{Addr: first.GRPC}})
	names := manual.NewBuilderWithScheme("replicas")
	look := func() { names.UpdateState(resolver.State{Addresses: *replicas.Load()}) }
	names.InitialState(resolver.State{Addresses: *replicas.Load()})
	names.ResolveNowCallback = func(resolver.ResolveNowOptions) { go look() } // as a DNS resolver does, when it is asked to
	conn := harness.Must(grpc.NewClient("replicas:///teamtoken", grpc.WithResolvers(names),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)))
	t.Cleanup(func() { _ = conn.Close() })
	client := teamtokenv1.NewTeamTokenServiceClient(conn)
	answeredBy := func() string {
		var who grpcpeer.Peer
		if _, err := client.ListTokens(context.Background(), &teamtokenv1.ListTokensRequest{Organization: simulator.Organization}, grpc.Peer(&who)); err != nil {
			t.Fatal(err)
		}
		return who.Addr.String()
	}
	answeredBy()
	second := harness.Start(t, s)
	replicas.Store(&[]resolver.Address{{Addr: first.GRPC}, {Addr: second.GRPC}})
	came, calls := time.Now(), 0
	harness.Eventually(t, "the new replica is called", func() bool { calls++; return answeredBy() == second.GRPC })
	t.Logf("it was called %.1f connection ages after it came, by call number %d", time.Since(came).Seconds()/age.Seconds(), calls)
	share := 0
	for range 100 {
		if answeredBy() == second.GRPC {
			share++
		}
	}
	if share < 30 || share > 70 {
		t.Errorf("of 100 calls it gets %d", share)
	}
}

// A client that sends keep-alive pings every 10 s, which is as often as gRPC's
// libraries do, is never cut off, even if it makes no call.
func TestPingsOfGRPCsLibraries(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	var sent atomic.Int64
	conn := harness.Must(grpc.NewClient(f.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return counting{c, &sent}, err
		})))
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := teamtokenv1.NewTeamTokenServiceClient(conn).ListTokens(t.Context(), &teamtokenv1.ListTokensRequest{Organization: simulator.Organization}); err != nil {
		t.Fatal(err)
	}
	before := sent.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second) // grpc-go cuts off at the third ping too many
	defer cancel()
	if conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Errorf("the connection is %v after %d writes", conn.GetState(), sent.Load()-before)
	}
	if n := sent.Load() - before; n < 4 {
		t.Errorf("%d writes in 45 s: there were too few pings to show anything", n)
	}
}

// counting counts what is written to a connection.
type counting struct {
	net.Conn
	writes *atomic.Int64
}

func (c counting) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}
