package state

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// runScript has Redis run a script.
func (r *Redis) runScript(ctx context.Context, s script, keys []string, args ...any) *redis.Cmd {
	asked := time.Now()
	cmd := r.callThroughBreaker(ctx, s, keys, args...)
	if r.observe != nil {
		r.observe(ctx, s.name, failureOf(cmd.Err()), time.Since(asked))
	}
	return cmd
}

func (r *Redis) callThroughBreaker(ctx context.Context, s script, keys []string, args ...any) *redis.Cmd {
	report, err := r.circuit.Allow()
	if err != nil && !s.always {
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(errCircuitOpen)
		return cmd
	}
	news := errPanic
	if report != nil {
		defer func() { report(news) }() // also of a panic: a half-open circuit would wait for this result for ever
	}
	answered := r.suspect(ctx)
	cmd := s.script.Run(ctx, r.client, keys, args...)
	answered(cmd.Err())
	var redisErr redis.Error
	if news = cmd.Err(); errors.As(news, &redisErr) || ctx.Err() != nil {
		news = nil
	}
	return cmd
}

// failureOf is a name for what went wrong.
func failureOf(err error) string {
	var redisErr redis.Error
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errCircuitOpen):
		return "circuit_open"
	case errors.As(err, &redisErr):
		return "refused"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	default:
		return "unreachable"
	}
}

var (
	errCircuitOpen = errors.New("state: Redis did not answer lately, so it was not asked")
	errPanic       = errors.New("state: the request to Redis panicked")
)

//go:embed lua/common.lua
var commonLua string

//go:embed lua/records_per_caller.lua
var recordsPerCallerLua string

//go:embed lua/drop.lua
var dropLua string

//go:embed lua/acquire.lua
var acquireLua string

//go:embed lua/release.lua
var releaseLua string

//go:embed lua/renew.lua
var renewLua string

//go:embed lua/take_over.lua
var takeOverLua string

//go:embed lua/list_in_doubt.lua
var listInDoubtLua string

//go:embed lua/reserve_rate.lua
var reserveRateLua string

//go:embed lua/block_rate.lua
var blockRateLua string

//go:embed lua/heartbeat.lua
var heartbeatLua string

// script is what Redis does at once. What ends something is tried whatever happened to
// others before; the rest is not while Redis is known to be away.
type script struct {
	name   string
	script *redis.Script
	always bool
}

var (
	acquireScript   = script{"begin", redis.NewScript(commonLua + queueLua + recordsPerCallerLua + acquireLua), false}
	releaseScript   = script{"end", redis.NewScript(commonLua + recordsPerCallerLua + releaseLua), true}
	dropScript      = script{"drop", redis.NewScript(commonLua + dropLua), true}
	clockScript     = script{"tick", redis.NewScript(commonLua + "return n(now)"), false}
	renewScript     = script{"renew", redis.NewScript(commonLua + renewLua), true}
	takeOverScript  = script{"claim", redis.NewScript(commonLua + takeOverLua), false}
	listScript      = script{"due", redis.NewScript(commonLua + listInDoubtLua), false}
	reserveScript   = script{"reserve", redis.NewScript(commonLua + reserveRateLua), false}
	blockScript     = script{"pause", redis.NewScript(commonLua + blockRateLua), false}
	heartbeatScript = script{"beat", redis.NewScript(commonLua + heartbeatLua), false}
)

var errReply = errors.New("state: Redis gave an answer that no script of this version gives")

// reply is what a script returned: strings.
type reply []any

func parseReply(cmd *redis.Cmd) (reply, error) {
	s, err := cmd.Slice()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

func (r reply) str(i int) string {
	if i >= len(r) {
		return ""
	}
	s, _ := r[i].(string)
	return s
}

func (r reply) int(i int) int64 {
	n, _ := strconv.ParseInt(r.str(i), 10, 64)
	return n
}
