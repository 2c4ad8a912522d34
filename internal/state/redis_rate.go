package state

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"time"
)

// ReserveRate is of Store.
func (r *Redis) ReserveRate(ctx context.Context, s RateRequest) (time.Duration, error) {
	if s.Interval == 0 {
		return 0, nil
	}
	wait, err := r.runScript(ctx, reserveScript, []string{r.rateKey(s.Key)},
		s.Interval.Microseconds(), s.Burst.Microseconds(), s.MaxWait.Microseconds()).Int64()
	if err != nil {
		return 0, fmt.Errorf("state: %w", err)
	}
	return time.Duration(wait) * time.Microsecond, nil
}

// BlockRate is of Store.
func (r *Redis) BlockRate(ctx context.Context, s RateRequest, d time.Duration) error {
	if err := r.runScript(ctx, blockScript, []string{r.rateKey(s.Key)}, (d + s.Burst).Microseconds()).Err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Heartbeat is of Store.
func (r *Redis) Heartbeat(ctx context.Context, replica string) (ClusterStatus, error) {
	reply, err := parseReply(r.runScript(ctx, heartbeatScript, []string{r.replicasKey(), r.heldKey()}, replica, heartbeatTTL.Milliseconds()))
	if err != nil {
		return ClusterStatus{}, err
	}
	r.clockOffset.Store(cmp.Or(reply.int(1)-time.Now().UnixMilli(), 1))
	return ClusterStatus{Replicas: int(reply.int(0)), InDoubt: int(reply.int(2))}, nil
}
