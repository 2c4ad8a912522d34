package ratelimit

import (
	"time"

	"github.com/teamtoken/teamtoken/internal/fairqueue"
)

// bucket is what this replica knows of one credential's rate. What follows users is
// guarded by the Limiter.
type bucket struct {
	queue *fairqueue.Lock // whoever holds it asks for a slot
	users int

	accepted     bool          // by the upstream, once at least
	learned      time.Duration // between two requests, by the upstream's own limit; 0 if that is not lower than the rate
	blockedUntil time.Time     // by what the upstream told this replica
	nextLocal    time.Time     // of the next request, while the state can't be asked
}

// The classes of a bucket's queue, with their weights: while both wait, three
// changes go for each read.
const (
	changes = iota
	reads
)

var weights = []int{changes: 3, reads: 1}

func classOf(mutates bool) int {
	if mutates {
		return changes
	}
	return reads
}

const (
	// sweepEvery is after how many new buckets those that say nothing are dropped.
	sweepEvery = 256
	// maxBuckets bounds the buckets that nobody uses. What is forgotten with one of
	// them, a limit or a pause, the upstream says again.
	maxBuckets = 4096
)

// buckets are those of the credentials that were used lately. The zero value is
// ready.
type buckets struct {
	byName map[string]*bucket
	sweep  int // at how many some are dropped
}

// get returns the bucket of a name, which is made if need be.
func (b *buckets) get(name string, now time.Time) *bucket {
	if known := b.byName[name]; known != nil {
		return known
	}
	if b.byName == nil {
		b.byName, b.sweep = make(map[string]*bucket), sweepEvery
	}
	if len(b.byName) >= b.sweep {
		b.drop(func(x *bucket) bool { return x.learned == 0 && now.After(x.blockedUntil) && now.After(x.nextLocal) })
		if len(b.byName) >= maxBuckets {
			b.drop(func(*bucket) bool { return len(b.byName) > maxBuckets-2*sweepEvery })
		}
		b.sweep = len(b.byName) + sweepEvery
	}
	made := &bucket{queue: fairqueue.New(weights...)}
	b.byName[name] = made
	return made
}

// drop forgets the buckets that may go and that nobody uses.
func (b *buckets) drop(may func(*bucket) bool) {
	for name, x := range b.byName {
		if x.users == 0 && !x.queue.Held() && name != service && may(x) {
			delete(b.byName, name)
		}
	}
}
