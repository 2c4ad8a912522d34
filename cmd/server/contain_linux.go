package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// contain keeps what this process has in memory to itself: no core is dumped of
// it, and no other process of its user may read its memory or trace it.
func contain() error {
	return errors.Join(
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
	)
}
