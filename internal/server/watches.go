package server

import (
	"container/list"
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// watches are the open streams of health and reflection.
type watches struct {
	mu      sync.Mutex
	stopped bool
	open    list.List // of *watch, the oldest first
	of      map[*connection]int
}

type watch struct {
	conn *connection
	end  context.CancelCauseFunc
	at   *list.Element // nil once it has ended
}

type watchKey struct{}

// begin registers a stream and returns its context. A context in it ends with late after
// limit, or when the stream is evicted, and ending ends the stream then: were the stream's
// own context to end, grpc-go would answer CANCELED by itself. begin returns an error if
// there is no room.
func (w *watches) begin(of context.Context, conn *connection, limit time.Duration, late error) (context.Context, error) {
	ctx, end := context.WithCancelCause(of)
	timer := time.AfterFunc(limit, func() { end(late) })
	one := &watch{conn: conn, end: end}
	if err := w.enter(one); err != nil {
		timer.Stop()
		end(err)
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		timer.Stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.leave(one)
	})
	return context.WithValue(of, watchKey{}, ctx), nil
}

func (w *watches) enter(one *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return errStopping
	}
	if w.of == nil {
		w.of = map[*connection]int{}
	}
	most := maxWatchesOfStranger
	if one.conn != nil && one.conn.known.Load() {
		most = maxWatchesOfOne
	}
	if w.of[one.conn] >= most {
		return errTooManyWatches
	}
	if w.open.Len() >= maxWatches {
		out := w.open.Front().Value.(*watch)
		for e := w.open.Front(); e != nil; e = e.Next() {
			if other := e.Value.(*watch); other.conn == nil || !other.conn.known.Load() {
				out = other
				break
			}
		}
		w.leave(out)
		out.end(errTooManyWatches)
	}
	one.at = w.open.PushBack(one)
	w.of[one.conn]++
	return nil
}

// leave unregisters a stream. The caller holds mu.
func (w *watches) leave(one *watch) {
	if one.at == nil {
		return
	}
	w.open.Remove(one.at)
	one.at = nil
	if w.of[one.conn]--; w.of[one.conn] == 0 {
		delete(w.of, one.conn)
	}
}

// stop ends them all, and lets none begin.
func (w *watches) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for e := w.open.Front(); e != nil; e = e.Next() {
		e.Value.(*watch).end(errStopping)
	}
}

// ending ends a health or reflection stream when its watch does, and returns to its client why.
func ending(next grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ended, ok := ss.Context().Value(watchKey{}).(context.Context)
		if !ok {
			return next(srv, ss, info, handler)
		}
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(ended, cancel)()
		err := next(srv, watched{ss, ctx, ended}, info, handler)
		if why, ok := context.Cause(ended).(interface { //nolint:errorlint // one of the errors above, as it is
			error
			GRPCStatus() *status.Status
		}); ok {
			return why
		}
		return err
	}
}

// watched is a stream whose handler waits no longer than its watch lasts.
type watched struct {
	grpc.ServerStream

	ctx, ended context.Context //nolint:containedctx // ctx is what the stream's own is replaced by
}

func (w watched) Context() context.Context { return w.ctx }

// RecvMsg waits in a goroutine of its own, which ends with the stream, soon after the
// handler returns.
func (w watched) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { received <- w.ServerStream.RecvMsg(m) }()
	select {
	case err := <-received:
		return err
	case <-w.ended.Done():
		return context.Cause(w.ended)
	}
}
