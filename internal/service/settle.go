package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/budget"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/state"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

const (
	maxTick       = time.Second
	settleTimeout = 20 * time.Second
	settlers      = 8 // teams that are settled at a time
)

// Run settles what calls left unknown, those of replicas that died as well, until
// ctx ends.
func (s *Service) Run(ctx context.Context) {
	replica := state.NewHolder()
	tick := time.NewTicker(max(min(s.options.Hold/4, maxTick), 10*time.Millisecond))
	defer tick.Stop()
	away := false
	for {
		pulse, err := s.store.Beat(ctx, replica)
		var due []string
		if err == nil {
			s.budget.Shared(pulse.Replicas)
			due, err = s.store.Due(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		s.options.Pulse(pulse, err)
		switch {
		case err != nil && !away:
			s.log.LogAttrs(ctx, slog.LevelError, "the state store does not answer: changes are refused until it does", slog.Any(telemetry.KeyError, err))
		case err == nil && away:
			s.log.LogAttrs(ctx, slog.LevelInfo, "the state store answers again")
		}
		away = err != nil
		s.settleAll(ctx, due)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) settleAll(ctx context.Context, teams []string) {
	var all sync.WaitGroup
	places := make(chan struct{}, settlers)
	for _, team := range teams {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, settleTimeout)
			defer cancel()
			u, ok, err := s.store.Claim(ctx, team, state.NewHolder())
			if err == nil && ok {
				_ = s.settle(ctx, u)
			}
		})
	}
	all.Wait()
}

// settle finds out what became of a change, if that can be known by now, and
// writes it down. Its error is that of the upstream, which could not be asked.
func (s *Service) settle(ctx context.Context, u state.Unsettled) error {
	here := budget.Bucket(ctx)
	ctx, stop := s.keep(s.options.Resume(budget.Changing(ctx), u.Change.Journal), u.Turn)
	defer stop()
	end, outcome, token, err := s.settled(ctx, u, here)
	if s.end(ctx, u.Turn, end) == nil && !end.Unknown {
		s.options.Settled(ctx, token, outcome)
		s.log.LogAttrs(ctx, slog.LevelInfo, "what became of a change is known, or need not be any more",
			slog.String(telemetry.KeyMethod, u.Change.Method), slog.String(telemetry.KeySubject, u.Change.Team),
			slog.String(telemetry.KeyOutcome, string(outcome)))
	}
	return err
}

// settled says how the turn ends that a change is settled in, what became of that,
// and which token it made.
func (s *Service) settled(ctx context.Context, u state.Unsettled, bucket string) (state.End, reason.Outcome, string, error) {
	notYet := state.End{Unknown: true, Known: state.Same}
	givenUp := state.End{Fate: state.Forget}
	d, err := s.deedOf(u.Change)
	if err != nil {
		return givenUp, reason.Unknown, "", nil //nolint:nilerr // nothing can be asked about it
	}
	if bucket != u.Change.Bucket { // another's credential may not see what it did
		if u.Hold > 0 {
			return notYet, "", "", nil
		}
		return givenUp, reason.Unknown, "", nil
	}
	seen, err := d.look(ctx, u.Since, u.Known)
	end := state.End{Known: state.Same, Fate: state.Forget}
	if seen.present != "" {
		end.Known = seen.present
	}
	switch {
	case err != nil && d.traits().narrow:
		return givenUp, reason.Unknown, "", nil
	case err != nil && u.Hold <= 0 && isAnswer(err): // and no other will come
		s.log.LogAttrs(ctx, slog.LevelError, "what became of a change can't be found out: a token that nobody was given may be live",
			slog.String(telemetry.KeyMethod, u.Change.Method), slog.String(telemetry.KeySubject, u.Change.Team), slog.Any(telemetry.KeyError, err))
		return givenUp, reason.Unknown, "", nil
	case err != nil:
		return notYet, "", "", err
	case seen.done && d.traits().suffices:
		return end, applied, "", nil
	case seen.done && d.traits().orphans && seen.used: // what the state says is older than the truth
		return end, applied, seen.token, nil
	case seen.done && d.traits().orphans:
		if err := s.remove(ctx, u.Change, seen.token, d); err != nil {
			return notYet, "", "", err
		}
		return end, reason.AppliedUndelivered, seen.token, nil
	case seen.done:
		end.Fate, end.Recorded = state.Lost, state.Recorded{Token: seen.token}
		return end, reason.AppliedUndelivered, seen.token, nil
	case d.traits().narrow:
		return end, reason.Unknown, "", nil
	case u.Hold > 0:
		return notYet, "", "", nil
	case seen.gone:
		return end, applied, "", nil
	default:
		return end, reason.NotApplied, "", nil
	}
}

// applied is the outcome of a deletion that was carried out: there is nothing that
// its caller was not given.
const applied = reason.Applied
