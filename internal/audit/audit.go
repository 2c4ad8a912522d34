// Package audit writes down what was tried and what came of it, a line of JSON
// each: the attempt before anything is done, and how it ended after.
//
// An attempt that can't be written must not be made. How it ended can't be taken
// back by then, so that such a line goes to standard error if it can't be written,
// and whoever runs this is told.
//
// Lines that are there at the same time are written at once, by one goroutine:
// a call waits for its own, and costs less than a write of the system. Nobody
// waits longer than two seconds, however the sink hangs.
//
// Calls that are refused at once have a queue of their own, and are counted together
// when they come too fast, so that whoever causes them keeps no attempt waiting.
package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a line may take to be written.
	writeTimeout = 2 * time.Second
	// maxPending is how many bytes may wait to be written before attempts are refused.
	maxPending = 4 << 20
	// resultRoom is how many bytes more may, of how attempts ended.
	resultRoom = 2 << 20
	// probeInterval is how often a sink that failed is tried.
	probeInterval = time.Second
)

// The destinations that are no files.
const (
	Stdout = "-"
	OTLP   = "otlp"
)

// Why a line was not written, where it is not the sink's own error.
var (
	errClosed  = errors.New("audit: the log is closed")
	errBlocked = fmt.Errorf("audit: the sink takes no lines, for %s", writeTimeout)
	errFull    = fmt.Errorf("audit: more than %d bytes wait to be written", maxPending)
)

// Options say where lines go.
type Options struct {
	// Destination is Stdout, OTLP, or the path of a file.
	Destination string
	// Sync has the disk hold a line before it counts as written. It needs a file.
	Sync bool
	// Stdout is the destination of that name. Stderr is given what can't be written.
	// Nil, they are the process's own.
	Stdout, Stderr io.Writer
	// OnStatusChange is told when lines can't be written any more, and why; and when they
	// can again. It is called once for each such change, one after the other.
	OnStatusChange func(ok bool, err error)
	// OnFallback, if set, is told of each line that went to standard error instead.
	OnFallback func()
	// Counted, if set, is told of each refusal that was counted and has no line of its own.
	Counted func()
}

// Log is the audit log. Its methods may be called at once.
type Log struct {
	options Options

	wake     chan struct{} // there may be something to write
	sinkLock chan struct{} // held by who uses or changes the sink
	done     chan struct{} // closed when write has returned

	stderr    sync.Mutex // held by who writes there
	notifiers sync.WaitGroup

	mu            sync.Mutex
	sink          sink
	refusals      refusals
	pending       *batch // nil if nothing is
	writing       *batch // nil if nothing is
	timer         *time.Timer
	timerArmed    bool          // watch runs
	wrote         time.Time     // when the last write ended
	took          time.Duration // and how long it took
	failing       bool          // lines can't be written
	failure       error
	fallbackLines int          // lines on standard error, of which no line tells yet
	transitions   []transition // of broken, to tell Working
	notifying     bool
	closed        bool
}

type transition struct {
	ok  bool
	err error
}

// Open opens the log. An error names the file that it is about.
func Open(o Options) (*Log, error) {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	s, err := open(o)
	if err != nil {
		return nil, err
	}
	l := &Log{
		options: o, sink: s,
		wake: make(chan struct{}, 1), sinkLock: make(chan struct{}, 1), done: make(chan struct{}),
	}
	l.mu.Lock() // overdue must not see it half made
	l.timer, l.timerArmed = time.AfterFunc(writeTimeout, l.expire), true
	l.mu.Unlock()
	go l.run()
	return l, nil
}

// Attempt writes that what r tells of is about to be done. After an error it must
// not be: the line is not known to be written, though it may be later. r may be
// changed as soon as it returns, which is when ctx ends, or after two seconds, at
// the latest.
func (l *Log) Attempt(ctx context.Context, r *Record) error {
	if ctx.Err() != nil {
		return fmt.Errorf("audit: %w", context.Cause(ctx))
	}
	line := encode(r)
	b, err := l.enqueue(line, false)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("audit: the line is not known to be written: %w", context.Cause(ctx))
	}
}

// Outcome writes what became of an attempt, in a line that is never counted with
// others: see Refusal for a call that had no attempt. What can't be
// written within two seconds goes to standard error, as the same line; it may be
// written all the same, later. r may be changed as soon as it returns.
func (l *Log) Outcome(r *Record) {
	if r.Event == EventRefusal && r.Decision == "" { // there was no attempt: the policy was not asked yet
		_ = l.Refusal(r)
		return
	}
	line := encode(r)
	b, err := l.enqueue(line, true)
	if err == nil {
		<-b.done
		err = b.err
	}
	if err != nil {
		l.divert(line.text)
	}
}

// divert writes lines to standard error.
func (l *Log) divert(lines []byte) {
	if len(lines) == 0 {
		return
	}
	l.stderr.Lock()
	defer l.stderr.Unlock()
	_, _ = l.options.Stderr.Write(lines)
	if l.options.OnFallback != nil {
		for range bytes.Count(lines, []byte{'\n'}) {
			l.options.OnFallback()
		}
	}
}

// Reopen opens the file anew, once it was moved away: when it returns, nothing is
// written to the old one any more. After an error the old one stays in use.
func (l *Log) Reopen() error {
	if l.options.Destination == Stdout || l.options.Destination == OTLP {
		return nil
	}
	s, err := open(l.options)
	if err != nil {
		return err
	}
	if !l.lockSink() {
		_ = s.close()
		return fmt.Errorf("%s: %w", l.options.Destination, errBlocked)
	}
	l.mu.Lock()
	old := s
	if !l.closed {
		old, l.sink = l.sink, s
	}
	l.mu.Unlock()
	<-l.sinkLock
	_ = old.close() // each of its lines was written, or not, by itself
	l.signal()
	return nil
}

// Close writes what is pending and ends the log, within two seconds.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
	timeout := time.NewTimer(writeTimeout)
	defer timeout.Stop()
	select {
	case <-l.done:
	case <-timeout.C:
		l.mu.Lock()
		s := l.sink
		l.mu.Unlock()
		if !s.interrupt() {
			l.mu.Lock()
			rest := l.refusals.drain(time.Now())
			l.mu.Unlock()
			l.divert(rest)
			return errBlocked // and the goroutine ends when the system lets it
		}
		<-l.done
	}
	l.notifiers.Wait()
	return nil
}

// lockSink waits until nobody else uses the sink, for writeTimeout at most.
func (l *Log) lockSink() bool {
	timeout := time.NewTimer(writeTimeout)
	defer timeout.Stop()
	select {
	case l.sinkLock <- struct{}{}:
		return true
	case <-timeout.C:
		return false
	}
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
