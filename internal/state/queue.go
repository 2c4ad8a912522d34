package state

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Waiter is the place of an Ask in the queue for a team's lock. Replicas that wait
// for it have it by turns: the better class first, in that whoever waited longest,
// and all that a caller has waiting goes to the end when one of its calls is served.
// A replica that did not ask for a second waits no longer. Within a replica it is the
// asking one that keeps order: it asks for one call at a time.
type Waiter struct {
	Replica string // in letters and digits; empty for who does not wait in the queue
	Caller  string
	Class   int  // 0 is the best, 9 the last
	DryRun  bool // only to see whether the lock can be had: Over says that it can
}

// DryRun is the Ask that only sees whether the lock can be had. Nothing is taken.
func (a AcquireRequest) DryRun() AcquireRequest {
	a.Waiter.DryRun = true
	a.Rate.Interval, a.Rate.MaxWait = 0, -time.Microsecond
	return a
}

// args are the last arguments of begin.
func (w Waiter) args() []any {
	caller, look := "", "0"
	if w.Caller != "" {
		sum := sha256.Sum256([]byte(w.Caller))
		caller = hex.EncodeToString(sum[:8])
	}
	if w.DryRun {
		look = "1"
	}
	return []any{w.Replica, w.Class, caller, look}
}

//go:embed lua/queue.lua
var queueLua string

//go:embed lua/leave_queue.lua
var leaveQueueLua string

var leaveScript = script{"leave", redis.NewScript(commonLua + leaveQueueLua), true}

func (r *Redis) queueKey(team string) string { return r.prefix + "queue:" + team }

// Leave is of Store.
func (r *Redis) Leave(ctx context.Context, a AcquireRequest) error {
	if err := r.runScript(ctx, leaveScript, []string{r.queueKey(a.Operation.Team)}, a.Waiter.Replica, a.Owner).Err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Leave is of Store: one replica has the queue to itself.
func (m *Memory) Leave(context.Context, AcquireRequest) error { return nil }
