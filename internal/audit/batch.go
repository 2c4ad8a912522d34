package audit

import (
	"runtime"
	"time"
)

// batch is what is written at once. Who has a line in it waits for done, and then
// reads err.
type batch struct {
	text    []byte
	lines   []lineInfo
	results int // lines that go to standard error if they can't be written
	born    time.Time
	done    chan struct{}
	over    bool // done is closed
	err     error
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

// put appends a line to what is pending. result says that the line goes to standard
// error if it can't be written. An error is returned at once: that there
// is no room, or that others are trying already whether lines can be written again.
func (l *Log) put(line *line, result bool) (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refuses(line, result)
	if err != nil {
		if result {
			l.lost++
		}
		return nil, err
	}
	b := l.pending
	if b == nil {
		b = &batch{born: time.Now(), done: make(chan struct{})}
		l.pending = b
		if !l.watched {
			l.watched = true
			l.watch.Reset(patience)
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

// refuses says why a line can't be pending. That there is no room is no reason to
// take the log for broken: overdue finds out whether lines are still written.
func (l *Log) refuses(line *line, result bool) error {
	room := maxPending
	if result { // of attempts that had room
		room += resultRoom
	}
	switch {
	case l.closed:
		return errClosed
	case l.broken && l.writing != nil:
		return l.cause
	case l.pending != nil && len(l.pending.text)+line.size > room:
		return errFull
	}
	return nil
}

// write writes what is pending until the log is closed and nothing is.
func (l *Log) write() {
	defer close(l.ended)
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
		for l.writeOnce() {
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
			l.watch.Stop()
			_ = s.close()
			return
		}
	}
}

// writeOnce writes what is pending, then some of the refusals, and reports whether
// there is more to write. If
// lines could not be written before, then it first writes that they can, even if
// nothing is pending: so each time that they can again is in the log.
func (l *Log) writeOnce() (more bool) {
	l.using <- struct{}{}
	l.mu.Lock()
	b, s := l.pending, l.sink
	l.pending = nil
	told, resuming := l.lost, l.broken || l.lost > 0
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
			<-l.using
			return false
		}
		b = &batch{over: true}
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
	<-l.using

	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing = nil
	l.wrote, l.took = end, end.Sub(start)
	l.end(b, err)
	if refused != nil && l.refusals.writing == refused {
		l.refusals.ended(refused, written-before)
	}
	switch {
	case err != nil:
		l.fail(err)
	case resuming:
		l.lost -= told
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

// end tells who waits for b what became of it, once.
func (l *Log) end(b *batch, err error) {
	if b == nil || b.over {
		return
	}
	b.over, b.err = true, err
	if err != nil {
		l.lost += b.results
	}
	close(b.done)
}

// overdue ends the wait for what was not written in time.
func (l *Log) overdue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = false
	for _, b := range []*batch{l.writing, l.pending} {
		if b == nil || b.over {
			continue
		}
		left := patience - time.Since(b.born)
		if left > 0 {
			l.watched = true
			l.watch.Reset(left)
			return
		}
		l.fail(errBlocked)
		l.end(b, errBlocked)
	}
}

// fail notes that lines can't be written.
func (l *Log) fail(err error) {
	l.cause = err
	if !l.broken {
		l.broken = true
		l.tell(change{false, err})
	}
}

// resume notes that lines can be written.
func (l *Log) resume() {
	if l.broken {
		l.broken, l.cause = false, nil
		l.tell(change{true, nil})
	}
}

// tell tells Working of c, after what it was not told yet.
func (l *Log) tell(c change) {
	if l.options.Working == nil {
		return
	}
	l.changes = append(l.changes, c)
	if l.telling {
		return
	}
	l.telling = true
	l.tellers.Go(func() {
		for {
			l.mu.Lock()
			if len(l.changes) == 0 {
				l.telling = false
				l.mu.Unlock()
				return
			}
			next := l.changes[0]
			l.changes = l.changes[1:]
			l.mu.Unlock()
			l.options.Working(next.ok, next.err)
		}
	})
}
