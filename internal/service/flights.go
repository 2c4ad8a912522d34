package service

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/reason"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

// flights are the changes under way, each of which goes on without its caller.
type flights struct {
	wg    sync.WaitGroup
	crews chan func()
	ended chan struct{} // closed when callers are to wait no longer
	end   func()
}

// maxCrews goroutines are kept for flights. Their stacks have grown to what a
// request upstream needs, which costs a new goroutine a tenth of the whole call.
const maxCrews = 64

func newFlights() *flights {
	f := &flights{crews: make(chan func()), ended: make(chan struct{})}
	f.end = sync.OnceFunc(func() { close(f.ended) })
	for range maxCrews {
		go func() {
			for flight := range f.crews {
				flight()
			}
		}()
	}
	return f
}

// start runs flight, by a crew that is free or else by a new one.
func (f *flights) start(flight func()) {
	f.wg.Add(1)
	flown := func() { defer f.wg.Done(); flight() }
	select {
	case f.crews <- flown:
	default:
		go flown()
	}
}

func (f *flights) drain(ctx context.Context) {
	landed := make(chan struct{})
	go func() { f.wg.Wait(); close(landed) }()
	select {
	case <-landed:
	case <-ctx.Done():
	}
}

// landing is how long a flight that has not yet sent anything upstream may take
// to end when its caller's time is over: its answer then says for certain that
// nothing was changed.
const landing = 10 * time.Millisecond

// change is a call that changes something: for the log, and what is to be done with
// its result if nobody is there to be given it.
type change struct {
	method, subject string
	undelivered     func(ctx context.Context, result any)
}

// fly runs carryOut to its end, and returns its result; or that the outcome is
// unknown, when ctx ends before it or the program is about to. The context that
// carryOut is given ends with ctx: upstream.Client knows up to when that may
// stop it.
func fly[T any](
	ctx context.Context, s *Service, what change, carryOut func(context.Context) (*T, error),
) (*T, error) {
	type result struct {
		value *T
		err   error
	}
	done := make(chan result, 1)
	var settled atomic.Bool // by the flight that ends, or by the caller that leaves: whoever is first
	landed := s.options.Flying(ctx)
	s.flights.start(func() {
		value, err := recovered(ctx, carryOut)
		landed() // before the caller is answered, who may call again at once
		if settled.CompareAndSwap(false, true) {
			done <- result{value, err}
			return
		}
		s.landedLate(ctx, what, value, err)
	})
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	case <-s.flights.ended:
	}
	grace := time.NewTimer(landing)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-grace.C:
	}
	if !settled.CompareAndSwap(false, true) {
		r := <-done
		return r.value, r.err
	}
	return nil, &reason.Error{
		Reason: teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT, Outcome: reason.Unknown, Cause: ctx.Err(),
	}
}

// recovered is carryOut, with a panic as an error: nobody above the flight's own
// goroutine could recover it.
func recovered[T any](ctx context.Context, carryOut func(context.Context) (*T, error)) (value *T, err error) {
	defer func() {
		if p := recover(); p != nil {
			value, err = nil, reason.Panic(p, reason.Unknown)
		}
	}()
	return carryOut(ctx)
}

// landedLate writes down what became of a change whose caller had left.
func (s *Service) landedLate(ctx context.Context, what change, resp any, err error) {
	s.options.Late(ctx, resp, err)
	attrs := []slog.Attr{slog.String(telemetry.KeyMethod, what.method), slog.String(telemetry.KeySubject, what.subject)}
	message := "a change was carried out after its caller had left"
	if err != nil {
		message = "a change failed after its caller had left"
		attrs = append(attrs, slog.Any(telemetry.KeyError, err))
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
	if err == nil && what.undelivered != nil {
		what.undelivered(context.WithoutCancel(ctx), resp)
	}
}
