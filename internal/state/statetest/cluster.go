package statetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster on loopback: primaries, and a replica of each.
type Cluster struct {
	Nodes []*Redis // the primaries first, and then their replicas in the same order
	t     testing.TB
}

// StartCluster runs a Cluster until the test ends, with these lines in each node's
// configuration. options are those of a client, but for its address.
func StartCluster(t testing.TB, primaries int, options redis.Options, lines ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	buses := make([]int, 2*primaries)
	for i := range buses {
		buses[i] = FreePort(t)
		c.Nodes = append(c.Nodes, Start(t, append([]string{
			"cluster-enabled yes", fmt.Sprintf("cluster-port %d", buses[i]), "cluster-node-timeout 1500", "cluster-replica-validity-factor 0",
		}, lines...)...))
	}
	ctx := context.Background()
	clients := make([]*redis.Client, len(c.Nodes))
	for i, node := range c.Nodes {
		o := options
		o.Addr = node.Address()
		clients[i] = redis.NewClient(&o)
		defer clients[i].Close()
	}
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	const slots = 16384
	for i := range primaries {
		check(clients[i].ClusterAddSlotsRange(ctx, i*slots/primaries, (i+1)*slots/primaries-1).Err())
	}
	for i, node := range c.Nodes[1:] {
		check(clients[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", node.Port, buses[i+1]).Err())
	}
	c.wait("all nodes know each other", func() bool {
		for _, client := range clients {
			if info, err := client.ClusterInfo(ctx).Result(); err != nil || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(clients))) {
				return false
			}
		}
		return true
	})
	for i := range primaries {
		id, err := clients[i].ClusterMyID(ctx).Result()
		check(err)
		c.wait("a replica knows its primary", func() bool { return clients[primaries+i].ClusterReplicate(ctx, id).Err() == nil })
	}
	c.wait("the cluster is whole", func() bool {
		for i, client := range clients {
			info, err := client.ClusterInfo(ctx).Result()
			link, linkErr := client.Info(ctx, "replication").Result()
			if err != nil || linkErr != nil || !strings.Contains(info, "cluster_state:ok") ||
				i >= primaries && !strings.Contains(link, "master_link_status:up") ||
				i < primaries && !strings.Contains(link, "connected_slaves:1") {
				return false
			}
		}
		return true
	})
	return c
}

// Primary returns which of the nodes has a key, and its replica.
func (c *Cluster) Primary(key string, options redis.Options) (primary, replica *Redis) {
	c.t.Helper()
	options.Addr = c.Nodes[0].Address()
	client := redis.NewClient(&options)
	defer client.Close()
	slot, err := client.ClusterKeySlot(context.Background(), key).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	primaries := len(c.Nodes) / 2
	i := int(slot) * primaries / 16384
	for i > 0 && int(slot) < i*16384/primaries {
		i--
	}
	for i < primaries-1 && int(slot) >= (i+1)*16384/primaries {
		i++
	}
	return c.Nodes[i], c.Nodes[primaries+i]
}

func (c *Cluster) wait(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within a minute: %s", what)
		}
	}
}
