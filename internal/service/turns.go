package service

import (
	"context"
	"sync"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// turns lets one change of a team at a time go on in this process. Its zero
// value is ready.
type turns struct {
	mu    sync.Mutex
	teams map[upstream.TeamID]*turn
}

type turn struct {
	held  chan struct{} // holds one element while somebody has the turn
	count int           // who has it and who waits for it
}

// busyRetry is what a caller that found a team busy is told to wait.
const busyRetry = time.Second

// take waits for the team's turn until ctx ends. The caller gives it back by
// calling free.
func (t *turns) take(ctx context.Context, team upstream.TeamID) (free func(), err error) {
	t.mu.Lock()
	if t.teams == nil {
		t.teams = make(map[upstream.TeamID]*turn)
	}
	own := t.teams[team]
	if own == nil {
		own = &turn{held: make(chan struct{}, 1)}
		t.teams[team] = own
	}
	own.count++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.count--; own.count == 0 {
			delete(t.teams, team)
		}
	}
	select {
	case own.held <- struct{}{}:
		return func() { <-own.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_TEAM_BUSY,
			Outcome: reason.NotApplied, RetryAfter: busyRetry, Cause: ctx.Err(),
		}
	}
}

// expect fails if id is not empty and not the id of the team's present token.
// The team's turn must be held.
func (s *Service) expect(ctx context.Context, team upstream.TeamID, id string) error {
	if id == "" {
		return nil
	}
	token, err := s.upstream.ReadToken(ctx, team)
	switch {
	case isNotFound(err), err == nil && token.ID != id:
		return &reason.Error{
			Reason: teamtokenv1.ErrorReason_ERROR_REASON_TOKEN_CHANGED, Outcome: reason.NotApplied, Cause: err,
		}
	case err != nil:
		return unsent(translate(ctx, err, changeTeam))
	}
	return nil
}
