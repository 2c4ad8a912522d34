package replicas_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// mostAfterFailover is how long after Redis's own failover changes may be refused.
const mostAfterFailover = 5 * time.Second

// A primary dies while changes are made. Once Redis has made another node the primary,
// or is there again, changes are made within seconds, and what was answered before is
// answered again.
func TestRedisFailsOver(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(t *testing.T) (url string, fail func(), whole func() bool){
		"cluster, the primary is killed": failingCluster((*statetest.Redis).Kill),
		"cluster, the primary hangs":     failingCluster((*statetest.Redis).Hang),
		"sentinel":                       failingSentinel,
		"single, started again": func(t *testing.T) (string, func(), func() bool) {
			r := statetest.Start(t)
			return r.URL(), func() { r.Kill(); time.Sleep(3 * time.Second); r.Run() }, func() bool { return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, fail, whole := begin(t)
			sim, upstream := harness.NewSimulator(t)
			s := harness.WithService(sim, upstream)
			s.Env = append(s.Env, "TEAMTOKEN_STATE="+url, "TEAMTOKEN_STATE_KEY_FILE="+harness.StateKey(t))
			f := harness.Start(t, s)
			harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("before")))

			stop, ended := make(chan struct{}), make(chan struct{})
			served := make(chan time.Time, 1024) // when a change began that was served
			go func() {
				defer close(ended)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					begun := time.Now()
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					_, err := f.Client.GenerateToken(ctx, harness.Asking(""))
					cancel()
					if err == nil {
						select {
						case served <- begun:
						default:
						}
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			<-served
			fail()
			harness.Eventually(t, "Redis is whole again", whole)
			again := time.Now()
			for len(served) > 0 {
				<-served
			}
			deadline := time.After(2 * harness.Patience)
			select {
			case <-served:
			case <-deadline:
				t.Fatal("no change is made any more")
			}
			took := time.Since(again)
			close(stop)
			<-ended
			t.Logf("changes are made %v after Redis was whole", took)
			if took > mostAfterFailover {
				t.Errorf("changes were refused for %v after Redis was whole, and %v are allowed", took, mostAfterFailover)
			}
			if _, err := f.Client.GenerateToken(t.Context(), harness.Asking("before")); harness.Details(err).Reason != "TOKEN_SUPERSEDED" {
				t.Errorf("what was written down before: %v", err)
			}
		})
	}
}

func failingCluster(fail func(*statetest.Redis)) func(t *testing.T) (string, func(), func() bool) {
	return func(t *testing.T) (string, func(), func() bool) {
		c := statetest.StartCluster(t, 3, redis.Options{})
		primary, replica := c.Primary("{teamtoken}", redis.Options{})
		url := fmt.Sprintf("redis://%s?cluster=true", c.Nodes[0].Address())
		for _, node := range c.Nodes[1:] {
			url += "&addr=" + node.Address()
		}
		client := redis.NewClient(&redis.Options{Addr: replica.Address()})
		t.Cleanup(func() { _ = client.Close() })
		return url, whenReplicated(t, primary, fail), func() bool {
			role, err := client.Info(context.Background(), "replication").Result()
			state, stateErr := client.ClusterInfo(context.Background()).Result()
			return err == nil && stateErr == nil && strings.Contains(role, "role:master") && strings.Contains(state, "cluster_state:ok")
		}
	}
}

func failingSentinel(t *testing.T) (string, func(), func() bool) {
	primary := statetest.Start(t)
	replica := statetest.Start(t, fmt.Sprintf("replicaof 127.0.0.1 %d", primary.Port))
	sentinel := statetest.Start(t, fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1", primary.Port),
		"sentinel down-after-milliseconds m 500", "sentinel failover-timeout m 5000")
	sentinels := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Address()})
	t.Cleanup(func() { _ = sentinels.Close() })
	harness.Eventually(t, "the sentinel knows the replica", func() bool {
		replicas, err := sentinels.Replicas(context.Background(), "m").Result()
		return err == nil && len(replicas) == 1
	})
	client := redis.NewClient(&redis.Options{Addr: replica.Address()})
	t.Cleanup(func() { _ = client.Close() })
	harness.Eventually(t, "the replica follows", func() bool {
		info, err := client.Info(context.Background(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	return fmt.Sprintf("redis://%s?master_name=m", sentinel.Address()), whenReplicated(t, primary, (*statetest.Redis).Kill), func() bool {
		role, err := client.Info(context.Background(), "replication").Result()
		return err == nil && strings.Contains(role, "role:master")
	}
}

// whenReplicated has a primary fail once its replica has what was written before.
func whenReplicated(t *testing.T, primary *statetest.Redis, fail func(*statetest.Redis)) func() {
	client := redis.NewClient(&redis.Options{Addr: primary.Address()})
	t.Cleanup(func() { _ = client.Close() })
	return func() {
		harness.Eventually(t, "the replica has it", func() bool {
			n, err := client.Wait(context.Background(), 1, time.Second).Result()
			return err == nil && n == 1
		})
		fail(primary)
	}
}
