//go:build unix

package service_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/mutation"
	"github.com/teamtoken/teamtoken/internal/ratelimit"
	"github.com/teamtoken/teamtoken/internal/seal"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// mostAdded is what one turn at a time, its record and the budget may cost a call: a
// tenth of the least that a call costs (see `go run ./internal/bench`).
const mostAdded = 10 * time.Microsecond

// instant is an upstream that costs nothing, for what is measured to be all the rest.
type instant struct {
	mutation.Upstream
	room *ratelimit.Limiter
}

func (u instant) CreateToken(ctx context.Context, team upstream.TeamID, _ time.Time) (upstream.Token, secret.Text, error) {
	if err := u.room.Wait(ctx, true); err != nil {
		return upstream.Token{}, secret.Text{}, err
	}
	return upstream.Token{ID: "at-0000000000000000", TeamID: team.String()}, secret.New("secret"), nil
}

// BenchmarkAdded tells what the state in memory and the budget add to a call without
// `request_id`, of CPU time, with 64 callers at a time: the service in front of an
// upstream that costs nothing, with all that it does besides. It fails if the
// median of the rounds is over mostAdded.
func BenchmarkAdded(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	store := state.NewMemory(state.NewTTLs(30 * time.Second))
	room := ratelimit.New(1e6, store, log, nil)
	keys, err := seal.Ephemeral()
	if err != nil {
		b.Fatal(err)
	}
	s := newService(b, instant{room: room}, store, room, func() *seal.Keys { return keys }, 0)
	var calls atomic.Int64
	before := cpu(b)
	begun := time.Now()
	var all sync.WaitGroup
	each := max(b.N/64, 1)
	for i := range 64 {
		all.Go(func() {
			req := &teamtokenv1.GenerateTokenRequest{TeamId: fmt.Sprintf("team-%016d", i)}
			for range each {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				if _, err := s.GenerateToken(ctx, req); err != nil {
					b.Error(err)
				}
				cancel()
				calls.Add(1)
			}
		})
	}
	all.Wait()
	per := (cpu(b) - before) / time.Duration(calls.Load())
	b.ReportMetric(float64(per.Nanoseconds())/1000, "cpu-µs/call")
	b.ReportMetric(float64(time.Since(begun).Nanoseconds())/float64(calls.Load()), "ns/op")
	if calls.Load() > 50_000 && per > mostAdded {
		b.Errorf("%v of CPU for each call, and %v are allowed", per, mostAdded)
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
