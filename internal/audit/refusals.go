package audit

import (
	"slices"
	"strings"
	"time"
)

// Whoever reaches the listeners can have calls refused, as many as the network
// carries. So refusals have a queue of their own, which never takes room from
// attempts and from how those ended, and each source of refusals has a budget of
// lines. A refusal beyond the budget, beyond the queue, or while lines can't be
// written is counted, and the counts are written every few seconds. The counts are
// exact; what is lost is which call it was.
const (
	// refusalRoom is how many bytes of refusals may wait before more are counted.
	refusalRoom = 32 << 10
	// refusalChunk is how many bytes of refusals are added to one write, if they are
	// more than one line. An attempt that comes meanwhile waits for that write: with a
	// reader that takes 4 KiB a second, a quarter of a second.
	refusalChunk = 1 << 10
	// slowWrite is how long a write may take for refusals to have some of their own.
	slowWrite = 250 * time.Millisecond
	// countInterval is how long refusals are counted before a line tells of them.
	countInterval = 5 * time.Second
	// maxVerified is how many callers of one kind of proof have a budget and counts of
	// their own, and maxCredentials how many have counts whom only the upstream can verify.
	maxVerified    = 256
	maxCredentials = 32
)

// allowance is the token bucket of a source, in bytes of lines.
type allowance struct{ burst, perSecond float64 }

var (
	// perCaller is what one verified caller may have written of refusals: some 1200
	// lines at once, which no honest mistake exceeds, and 20 a second.
	perCaller = allowance{512 << 10, 8 << 10}
	// shared is what all callers together may who are not verified: whoever has no
	// identity, or one that only the upstream can verify, can appear as any number.
	shared = allowance{512 << 10, 16 << 10}
)

// source is who causes refusals: a caller; or, without a name, those who are unknown
// or too many to be counted one by one.
type source struct{ caller, verifiedBy string }

// why is the cause of refusals that are counted together.
type why struct{ surface, code, reason string }

// refusals are those that wait to be written, and those that were counted. The log's
// mutex guards them.
type refusals struct {
	queue   []*batch
	size    int    // bytes in queue
	writing *batch // nil if nothing is
	sources map[source]*refusedSource
	named   map[string]int // how many of sources have a caller's name, by how it was verified
}

type refusedSource struct {
	allowance allowance
	left      float64 // bytes; below zero after a line that was longer than the rest
	at        time.Time
	counts    map[why]*Counted
}

// sourceOf is who a refusal is counted for, and whose budget of lines it takes from.
func (q *refusals) sourceOf(r *Record, now time.Time) (counts, budget *refusedSource) {
	of := source{r.Caller, r.VerifiedBy}
	verified, names := true, maxVerified
	switch r.VerifiedBy {
	case "", "none", "credential":
		verified, names = false, maxCredentials
	}
	if _, known := q.sources[of]; !known && of.caller != "" && q.named[of.verifiedBy] >= names {
		of.caller = ""
	}
	if verified && of.caller != "" {
		s := q.source(of, perCaller, now)
		return s, s
	}
	return q.source(of, shared, now), q.source(source{}, shared, now)
}

// source is one, as it stands now.
func (q *refusals) source(of source, a allowance, now time.Time) *refusedSource {
	s := q.sources[of]
	if s == nil {
		if q.sources == nil {
			q.sources, q.named = make(map[source]*refusedSource), make(map[string]int)
		}
		s = &refusedSource{allowance: a, left: a.burst, at: now}
		q.sources[of] = s
		if of.caller != "" {
			q.named[of.verifiedBy]++
		}
	}
	s.refill(now)
	return s
}

// refill adds what the time since the last call allows.
func (s *refusedSource) refill(now time.Time) {
	s.left = min(s.allowance.burst, s.left+s.allowance.perSecond*now.Sub(s.at).Seconds())
	s.at = now
}

// count counts a refusal.
func (q *refusals) count(s *refusedSource, r *Record) {
	key := why{r.Surface, r.Code, r.Reason}
	c := s.counts[key]
	if c == nil {
		if s.counts == nil {
			s.counts = make(map[why]*Counted)
		}
		c = &Counted{Since: r.Time}
		s.counts[key] = c
	}
	c.Count++
	c.Until = r.Time
	if !list(&c.Peers, address(r.Peer)) {
		c.Unlisted++
	}
	list(&c.Methods, r.Method)
}

// maxName is how many bytes of a listed name are kept.
const maxName = 128

// list adds s unless it is there or there is no room for it, and reports whether it
// is there.
func list(to *[]string, s string) bool {
	s = s[:min(len(s), maxName)]
	if slices.Contains(*to, s) {
		return true
	}
	if len(*to) >= maxListed {
		return false
	}
	*to = append(*to, strings.Clone(s))
	return true
}

// address is the IP address of a peer, IP:PORT.
func address(peer string) string {
	if i := strings.LastIndexByte(peer, ':'); i >= 0 {
		peer = peer[:i]
	}
	return strings.Trim(peer, "[]")
}

// Refusal writes that a call was refused at once. If it can't have a line of its own,
// because refusals come too fast or can't be written, it is counted. r may be
// changed as soon as Refusal returns, which is after two seconds at the latest.
//
// It reports whether refusals of this source come too fast, so that whoever logs calls
// besides can leave this one out.
func (l *Log) Refusal(r *Record) (tooFast bool) {
	line := encode(r)
	b, tooFast, err := l.refuse(r, line)
	switch {
	case err != nil:
		l.divert(line.text)
	case b == nil:
		if l.options.Counted != nil {
			l.options.Counted()
		}
	default:
		timeout := time.NewTimer(writeTimeout)
		defer timeout.Stop()
		select {
		case <-b.done:
		case <-timeout.C: // the line stays in the queue
		}
	}
	return tooFast
}

// refuse queues the line of a refusal, or counts it: then b is nil.
func (l *Log) refuse(r *Record, line *line) (b *batch, tooFast bool, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false, errClosed
	}
	q := &l.refusals
	counts, budget := q.sourceOf(r, now)
	tooFast = budget.left <= 0 || q.size >= refusalRoom
	if !tooFast {
		budget.left -= float64(line.size)
	}
	if tooFast || l.failing {
		at := *r
		at.Time = line.time
		q.count(counts, &at)
		return nil, tooFast, nil
	}
	l.signal()
	return q.put(line), false, nil
}

// put queues a line.
func (q *refusals) put(line *line) *batch {
	n := len(q.queue)
	if n == 0 || len(q.queue[n-1].text)+line.size > refusalChunk {
		q.queue = append(q.queue, &batch{done: make(chan struct{})})
		n++
	}
	b := q.queue[n-1]
	b.text = append(b.text, line.text...)
	b.lines = append(b.lines, line.lineInfo)
	q.size += line.size
	return b
}

// summarize queues a line for each count that is old enough, and forgets the sources
// that need not be remembered.
func (q *refusals) summarize(now time.Time, all bool) {
	for of, s := range q.sources {
		for key, c := range s.counts {
			if !all && (now.Sub(c.Since) < countInterval || q.size >= refusalRoom) {
				continue
			}
			delete(s.counts, key)
			line := encode(&Record{
				Time: now, Event: EventRefusals, Caller: of.caller, VerifiedBy: of.verifiedBy,
				Surface: key.surface, Code: key.code, Reason: key.reason, Counted: c,
			})
			q.put(line)
		}
		s.refill(now)
		if len(s.counts) == 0 && s.left >= s.allowance.burst {
			delete(q.sources, of)
			if of.caller != "" {
				q.named[of.verifiedBy]--
			}
		}
	}
}

// next takes from the queue what is to be written now; nil if there is nothing.
func (q *refusals) next() *batch {
	if len(q.queue) == 0 {
		return nil
	}
	b := q.queue[0]
	q.queue = slices.Delete(q.queue, 0, 1)
	q.size -= len(b.text)
	q.writing = b
	return b
}

// ended puts back the lines of b that were not written, all after the first ones, and
// tells who waits for it: that they will be, or that they were.
func (q *refusals) ended(b *batch, written int) {
	q.writing = nil
	if written = max(written, 0); written < len(b.lines) {
		for _, line := range b.lines[:written] {
			b.text = b.text[line.size:]
		}
		b.lines = b.lines[written:]
		q.queue = slices.Insert(q.queue, 0, b)
		q.size += len(b.text)
	}
	if !b.completed {
		b.completed = true
		close(b.done)
	}
}

// drain takes all that is not known to be written.
func (q *refusals) drain(now time.Time) (text []byte) {
	if q.writing != nil {
		q.ended(q.writing, 0)
	}
	q.summarize(now, true)
	for b := q.next(); b != nil; b = q.next() {
		text = append(text, b.text...)
		q.ended(b, len(b.lines))
	}
	return text
}
