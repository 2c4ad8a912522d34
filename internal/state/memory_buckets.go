package state

import "time"

const (
	sweepBucketsEvery = 512
	maxBuckets        = 4096
)

// sweepBuckets bounds the buckets: callers may bring as many credentials as they
// like. Those whose next slot is due say nothing and go. If too many are left, any
// go: what is lost with one is a pause, which the upstream asks for again.
func (m *Memory) sweepBuckets(now time.Time) {
	if len(m.tat) < max(m.tatMax, sweepBucketsEvery) {
		return
	}
	for bucket, tat := range m.tat {
		if tat.Before(now) {
			delete(m.tat, bucket)
		}
	}
	for bucket := range m.tat {
		if len(m.tat) <= maxBuckets-sweepBucketsEvery {
			break
		}
		delete(m.tat, bucket)
	}
	m.tatMax = len(m.tat) + sweepBucketsEvery
}
