package audit

import (
	"runtime"
	"time"
)

// batch is what is written at once. Who has a line in it waits for done, and then
// reads err.
type batch struct {
	text      []byte
	lines     []lineInfo
	results   int // lines that go to standard error if they can't be written
	createdAt time.Time
	done      chan struct{}
	completed bool // done is closed
	err       error
}

// lineInfo is what is known of a line without reading it.
type lineInfo struct {
	size  int
	event string
	time  time.Time
}

// line is one that is encoded.
type line struct {
	lineInfo
	text []byte
}

// encode makes a line of r.
func encode(r *Record) *line {
	at := *r
	if at.Time.IsZero() {
		at.Time = time.Now()
	}
	text := append(at.append(make([]byte, 0, 512)), '\n')
	return &line{lineInfo{size: len(text), event: at.Event, time: at.Time}, text}
}

// enqueue appends a line to what is pending. result says that the line goes to standard
// error if it can't be written. An error is returned at once: that there
// is no room, or that others are trying already whether lines can be written again.
func (l *Log) enqueue(line *line, result bool) (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.rejects(line, result)
	if err != nil {
		if result {
			l.fallbackLines++
		}
		return nil, err
	}
	b := l.pending
	if b == nil {
		b = &batch{createdAt: time.Now(), done: make(chan struct{})}
		l.pending = b
		if !l.timerArmed {
			l.timerArmed = true
			l.timer.Reset(writeTimeout)
		}
		l.signal()
	}
	b.text = append(b.text, line.text...)
	b.lines = append(b.lines, line.lineInfo)
	if result {
		b.results++
	}
	return b, nil
}

// rejects says why a line can't be pending. That there is no room is no reason to
// take the log for broken: overdue finds out whether lines are still written.
func (l *Log) rejects(line *line, result bool) error {
	room := maxPending
	if result { // of attempts that had room
		room += resultRoom
	}
	switch {
	case l.closed:
		return errClosed
	case l.failing && l.writing != nil:
		return l.failure
	case l.pending != nil && len(l.pending.text)+line.size > room:
		return errFull
	}
	return nil
}

// run writes what is pending until the log is closed and nothing is.
func (l *Log) run() {
	defer close(l.done)
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	for {
		select {
		case <-l.wake:
			runtime.Gosched() // so that whoever is about to put a line is in time for this write: a third less CPU under load
		case now := <-probe.C:
			l.mu.Lock()
			l.refusals.summarize(now, false)
			l.mu.Unlock()
		}
		for l.flush() {
		}
		l.mu.Lock()
		end, s := l.closed && l.pending == nil, l.sink
		var rest []byte
		if end {
			rest = l.refusals.drain(time.Now())
		}
		l.mu.Unlock()
		if end {
			l.divert(rest)
			l.timer.Stop()
			_ = s.close()
			return
		}
	}
}

// flush writes what is pending, then some of the refusals, and reports whether
// there is more to write. If
// lines could not be written before, then it first writes that they can, even if
// nothing is pending: so each time that they can again is in the log.
func (l *Log) flush() (more bool) {
	l.sinkLock <- struct{}{}
	l.mu.Lock()
	b, s := l.pending, l.sink
	l.pending = nil
	told, resuming := l.fallbackLines, l.failing || l.fallbackLines > 0
	if l.closed {
		l.refusals.summarize(time.Now(), true)
	}
	var refused *batch
	if b != nil || l.aloneNow() {
		refused = l.refusals.next()
	}
	if b == nil {
		if !resuming && refused == nil {
			l.mu.Unlock()
			<-l.sinkLock
			return false
		}
		b = &batch{completed: true}
	}
	l.writing = b
	l.mu.Unlock()

	text, infos := b.text, b.lines
	if resuming {
		first := encode(&Record{Event: EventResumed, Lost: told})
		text = append(first.text, text...)
		infos = append([]lineInfo{first.lineInfo}, infos...)
	}
	before := len(infos)
	if refused != nil {
		text, infos = append(text, refused.text...), append(infos, refused.lines...)
	}
	start := time.Now()
	written, err := s.write(text, infos)
	end := time.Now()
	<-l.sinkLock

	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing = nil
	l.wrote, l.took = end, end.Sub(start)
	l.complete(b, err)
	if refused != nil && l.refusals.writing == refused {
		l.refusals.ended(refused, written-before)
	}
	switch {
	case err != nil:
		l.fail(err)
	case resuming:
		l.fallbackLines -= told
		l.resume()
	}
	return l.pending != nil || err == nil && len(l.refusals.queue) > 0 && l.aloneNow()
}

// aloneNow reports whether refusals may be written by themselves. If the last write was
// slow they go with other lines, since an attempt that comes meanwhile would wait for
// two slow writes and not for one; but not for ever.
func (l *Log) aloneNow() bool {
	return l.closed || l.took < slowWrite || time.Since(l.wrote) >= countInterval
}

// complete tells who waits for b what became of it, once.
func (l *Log) complete(b *batch, err error) {
	if b == nil || b.completed {
		return
	}
	b.completed, b.err = true, err
	if err != nil {
		l.fallbackLines += b.results
	}
	close(b.done)
}

// expire ends the wait for what was not written in time.
func (l *Log) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timerArmed = false
	for _, b := range []*batch{l.writing, l.pending} {
		if b == nil || b.completed {
			continue
		}
		left := writeTimeout - time.Since(b.createdAt)
		if left > 0 {
			l.timerArmed = true
			l.timer.Reset(left)
			return
		}
		l.fail(errBlocked)
		l.complete(b, errBlocked)
	}
}

// fail notes that lines can't be written.
func (l *Log) fail(err error) {
	l.failure = err
	if !l.failing {
		l.failing = true
		l.notify(transition{false, err})
	}
}

// resume notes that lines can be written.
func (l *Log) resume() {
	if l.failing {
		l.failing, l.failure = false, nil
		l.notify(transition{true, nil})
	}
}

// notify tells Working of c, after what it was not told yet.
func (l *Log) notify(c transition) {
	if l.options.OnStatusChange == nil {
		return
	}
	l.transitions = append(l.transitions, c)
	if l.notifying {
		return
	}
	l.notifying = true
	l.notifiers.Go(func() {
		for {
			l.mu.Lock()
			if len(l.transitions) == 0 {
				l.notifying = false
				l.mu.Unlock()
				return
			}
			next := l.transitions[0]
			l.transitions = l.transitions[1:]
			l.mu.Unlock()
			l.options.OnStatusChange(next.ok, next.err)
		}
	})
}
