package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/service"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// refusing is an upstream that says no to every change, or makes a token if it has none
// to say.
type refusing struct {
	mutation.Upstream
	room *ratelimit.Limiter
	no   error
}

func (u refusing) CreateToken(ctx context.Context, team upstream.TeamID, _ time.Time) (upstream.Token, secret.Text, error) {
	if err := u.room.Wait(ctx, true); err != nil {
		return upstream.Token{}, secret.Text{}, err
	}
	return upstream.Token{ID: "at-0000000000000000", TeamID: team.String()}, secret.New("a secret"), u.no
}

func (u refusing) CreateNamedToken(ctx context.Context, team upstream.TeamID, _ string, at time.Time) (upstream.Token, secret.Text, error) {
	return u.CreateToken(ctx, team, at)
}

func (u refusing) DeleteToken(ctx context.Context, _ upstream.TeamID) error {
	if err := u.room.Wait(ctx, true); err != nil {
		return err
	}
	return u.no
}

func (u refusing) ReadToken(ctx context.Context, _ upstream.TeamID) (upstream.Token, error) {
	if err := u.room.Wait(ctx, false); err != nil {
		return upstream.Token{}, err
	}
	return upstream.Token{ID: "at-0000000000000001"}, u.no
}

// newService is a service in front of u.
func newService(t testing.TB, u mutation.Upstream, store state.Store, limiter *ratelimit.Limiter, keys func() *seal.Keys, maxRecords int) *service.Service {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	told, err := telemetry.New(t.Context(), "test", log)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := audit.Open(audit.Options{Destination: audit.Stdout, Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lines.Close() })
	return service.New(u, mutation.New(u, mutation.Options{
		Store: store, Hold: 30 * time.Second, Limiter: limiter, Keys: keys, Audit: lines, Metrics: told.Metrics, MaxRecords: maxRecords,
		Rejected: func(context.Context, string, string, error) {},
	}, log), service.Limits{})
}

// stores are those that a test runs on, with what they hold: how many keys, and bytes.
func stores(t *testing.T, test func(t *testing.T, s state.Store, keys func() *seal.Keys, held func(pattern string) (keys, bytes int64))) {
	k, err := seal.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	keys := func() *seal.Keys { return k }
	t.Run("memory", func(t *testing.T) {
		test(t, state.NewMemory(state.NewTTLs(30*time.Second)), keys, func(string) (int64, int64) { return 0, 0 })
	})
	t.Run("redis", func(t *testing.T) {
		r := statetest.Start(t, "appendonly no")
		s, err := state.OpenRedis(state.RedisOptions{URL: secret.New(r.URL()), Prefix: "x", Times: state.NewTTLs(30 * time.Second), Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		client := redis.NewClient(&redis.Options{Addr: r.Address()})
		t.Cleanup(func() { _ = client.Close() })
		test(t, s, keys, func(pattern string) (int64, int64) {
			names, err := client.Keys(context.Background(), pattern).Result()
			if err != nil {
				t.Fatal(err)
			}
			var bytes int64
			for _, name := range names {
				n, _ := client.MemoryUsage(context.Background(), name, 0).Result()
				bytes += n
			}
			return int64(len(names)), bytes
		})
	})
}

// heap is what is in use, once what is garbage is gone.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Calls that changed nothing, each of another team and with another request id, leave
// nothing behind, whatever it was that they were refused for.
func TestWhatChangedNothingLeavesNothing(t *testing.T) {
	calls := 8_000
	if os.Getenv("TEAMTOKEN_LONG") != "" {
		calls = 1_000_000
	}
	const most = 5 << 20
	log := slog.New(slog.DiscardHandler)
	stores(t, func(t *testing.T, store state.Store, keys func() *seal.Keys, held func(string) (int64, int64)) {
		room := ratelimit.New(0, store, log, nil)
		no := &upstream.Error{Kind: upstream.NotFound, Cause: errors.New("404")}
		s := newService(t, refusing{room: room, no: no}, store, room, keys, 0)
		run := func(calls int) {
			var all sync.WaitGroup
			for range 32 {
				all.Go(func() {
					for i := range calls / 32 {
						team := fmt.Sprintf("team-%016d", rand.Int64N(1e16))
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
						var err error
						switch i % 5 {
						case 0:
							_, err = s.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: team})
						case 1:
							_, err = s.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: team, RequestId: fmt.Sprint(rand.Int64())})
						case 2:
							_, err = s.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: team})
						case 3:
							_, err = s.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: team, Description: new("d"), RequestId: fmt.Sprint(rand.Int64())})
						case 4:
							_, err = s.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: team, ExpectedTokenId: "at-0000000000000000", RequestId: fmt.Sprint(rand.Int64())})
						}
						cancel()
						var told *apierror.Error
						if !errors.As(err, &told) || told.Outcome != apierror.NotApplied {
							t.Errorf("%v", err)
						}
					}
				})
			}
			all.Wait()
		}
		run(min(calls/4, 20_000)) // for pools and what is bounded to be full
		before := heap()
		run(calls)
		grown := heap() - before
		n, bytes := held("*")
		t.Logf("%d calls: %d bytes more in memory, %d keys and %d bytes more in Redis", calls, grown, n, bytes)
		if grown > most/2 || bytes > most/2 || n > 0 {
			t.Errorf("%d calls that changed nothing leave %d bytes in memory, %d keys and %d bytes in Redis", calls, grown, n, bytes)
		}
		runtime.KeepAlive(s)
	})
}

// A caller has so many records and no more: the next call with a request id is refused
// before anything is done. What he has is answered again, others have their own, and a
// call without a request id needs none.
func TestRecordsPerCaller(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	stores(t, func(t *testing.T, store state.Store, keys func() *seal.Keys, held func(string) (int64, int64)) {
		room := ratelimit.New(0, store, log, nil)
		const most = 50
		s := newService(t, refusing{room: room}, store, room, keys, most)
		call := func(who, id string, i int) error {
			ctx, cancel := context.WithTimeout(calls.NewContext(t.Context(), &calls.Call{Caller: caller.Caller{ID: who}}), time.Minute)
			defer cancel()
			_, err := s.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: fmt.Sprintf("team-%016d", i), RequestId: id})
			return err
		}
		for i := range most {
			if err := call("one", fmt.Sprint("id-", i), i); err != nil {
				t.Fatal(err)
			}
		}
		_, records := held("*:record:*")
		_, answers := held("*:answer:*")
		_, teams := held("*:team:*")
		t.Logf("in Redis, for each call with a request id: %d bytes for a day, %d bytes more for ten minutes; %d bytes for each team", records/most, answers/most, teams/most)
		for i := range 3 {
			err := call("one", "one-more", i)
			var told *apierror.Error
			if !errors.As(err, &told) || told.Reason != teamtokenv1.ErrorReason_ERROR_REASON_CALLER_QUOTA_EXCEEDED || told.Outcome != apierror.NotApplied || told.RetryAfter <= 0 {
				t.Errorf("%v", err)
			}
		}
		if err := call("one", "", 1); err != nil {
			t.Errorf("without a request id: %v", err)
		}
		if err := call("two", "one-more", 2); err != nil {
			t.Errorf("another caller: %v", err)
		}
		err := call("one", "id-7", 7)
		var told *apierror.Error
		if !errors.As(err, &told) || told.Reason != teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_SUPERSEDED { // the stub shows another one
			t.Errorf("the same again: %v", err)
		}
	})
}
