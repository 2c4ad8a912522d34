package service

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// turns keep a change that expects a certain token apart from all other changes
// of its team in this process. Others go side by side: the upstream orders them.
// The zero value is ready.
type turns struct {
	mu    sync.Mutex
	teams map[upstream.TeamID]*turn
}

type turn struct {
	places *semaphore.Weighted
	users  int // who has a place and who waits for one
}

// A change takes one place, or all of them if it must be alone.
const (
	shared = 1
	alone  = 1 << 30
)

// busyRetry is what a caller that found a team busy is told to wait.
const busyRetry = time.Second

// places is how many a change takes that expects the token of this id, if any.
func places(expectedTokenID string) int64 {
	if expectedTokenID == "" {
		return shared
	}
	return alone
}

// take waits for places of the team until ctx ends. They are given back by free.
func (t *turns) take(ctx context.Context, team upstream.TeamID, places int64) (free func(), err error) {
	t.mu.Lock()
	if t.teams == nil {
		t.teams = make(map[upstream.TeamID]*turn)
	}
	own := t.teams[team]
	if own == nil {
		own = &turn{places: semaphore.NewWeighted(alone)}
		t.teams[team] = own
	}
	own.users++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(t.teams, team)
		}
	}
	if err := own.places.Acquire(ctx, places); err != nil {
		leave()
		return nil, &reason.Error{
			Reason:  teamtokenv1.ErrorReason_ERROR_REASON_TEAM_BUSY,
			Outcome: reason.NotApplied, RetryAfter: busyRetry, Cause: err,
		}
	}
	return func() { own.places.Release(places); leave() }, nil
}

// expect fails if id is not empty and not the id of the team's present token.
// The caller must be alone with the team.
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
