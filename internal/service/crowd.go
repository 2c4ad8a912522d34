package service

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// crowds are those of this process who wait for the turn of a team: one of them
// asks for it, the others stand in line behind him. The zero value is ready.
type crowds struct {
	mu    sync.Mutex
	teams map[string]*crowd
}

type crowd struct {
	head  *semaphore.Weighted
	ended chan struct{} // holds a word when a change of the team has ended here
	users int
}

// place is one's place in a crowd.
type place struct {
	crowds *crowds
	team   string
	crowd  *crowd
	first  bool
}

func (c *crowds) join(team string) *place {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.teams == nil {
		c.teams = make(map[string]*crowd)
	}
	own := c.teams[team]
	if own == nil {
		own = &crowd{head: semaphore.NewWeighted(1), ended: make(chan struct{}, 1)}
		c.teams[team] = own
	}
	own.users++
	return &place{crowds: c, team: team, crowd: own}
}

// wait waits until it is worth asking: a change has ended here, or d is over once
// one is the first. It reports whether that was before ctx ended.
func (p *place) wait(ctx context.Context, d time.Duration) bool {
	if !p.first {
		if p.crowd.head.Acquire(ctx, 1) != nil {
			return false
		}
		p.first = true
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.crowd.ended:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// leave lets the next one be the first. A nil place is nobody's.
func (p *place) leave() {
	if p == nil {
		return
	}
	if p.first {
		p.crowd.head.Release(1)
	}
	p.crowds.mu.Lock()
	defer p.crowds.mu.Unlock()
	if p.crowd.users--; p.crowd.users == 0 {
		delete(p.crowds.teams, p.team)
	}
}

// ended tells the first of a team that one may ask.
func (c *crowds) ended(team string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own := c.teams[team]; own != nil {
		select {
		case own.ended <- struct{}{}:
		default:
		}
	}
}
