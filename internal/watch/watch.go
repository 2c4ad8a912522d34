// Package watch keeps a value that follows files: certificates, credentials, CAs.
//
// The files' contents are read and compared once a second. Kubernetes changes a
// mounted secret by swapping a symbolic link two directories up, which neither a
// watch on the file nor its time of change shows; contents always do.
package watch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	interval = time.Second
	maxSize  = 1 << 20 // bytes of one file
)

// Value is what the files hold. A change that cannot be loaded leaves the last
// good value in use: a pair of files that is half written heals by itself.
type Value[T any] struct {
	paths   []string
	load    func(contents [][]byte) (T, error)
	changed func(error)
	current atomic.Pointer[T]

	since atomic.Int64 // in nanoseconds since the epoch

	mu       sync.Mutex
	contents [][]byte // as last seen, good or not
	failure  string   // of the last attempt to read or load
}

// Files loads paths, and again whenever what they hold changes, until ctx ends.
// It calls changed after each change, with nil or with the error that keeps the
// last good value in use, once for each state of the files and not each second.
func Files[T any](
	ctx context.Context, paths []string, load func(contents [][]byte) (T, error), changed func(error),
) (*Value[T], error) {
	v := &Value[T]{paths: paths, load: load, changed: changed}
	contents, since, err := read(paths)
	if err != nil {
		return nil, err
	}
	first, err := load(contents)
	if err != nil {
		return nil, err
	}
	v.current.Store(&first)
	v.since.Store(since.UnixNano())
	v.contents = contents
	go v.follow(ctx)
	return v, nil
}

// Get returns the last good value.
func (v *Value[T]) Get() T { return *v.current.Load() }

// Since is when the newest file of the last good value was written, by its own time
// of change.
func (v *Value[T]) Since() time.Time { return time.Unix(0, v.since.Load()) }

// Refresh looks now, and reports whether the value is another than before.
func (v *Value[T]) Refresh() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	contents, since, err := read(v.paths)
	if err != nil {
		v.contents = nil
		v.failed(err)
		return false
	}
	if slices.EqualFunc(contents, v.contents, bytes.Equal) {
		return false
	}
	v.contents = contents
	next, err := v.load(contents)
	if err != nil {
		v.failed(err)
		return false
	}
	v.failure = ""
	v.current.Store(&next)
	v.since.Store(since.UnixNano())
	v.changed(nil)
	return true
}

// failed tells of a failure, unless it is the one that was told of last.
func (v *Value[T]) failed(err error) {
	if v.failure != err.Error() {
		v.failure = err.Error()
		v.changed(err)
	}
}

func (v *Value[T]) follow(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.Refresh()
		case <-ctx.Done():
			return
		}
	}
}

// read returns what files hold, and when the newest of them was written.
func read(paths []string) (contents [][]byte, since time.Time, err error) {
	contents = make([][]byte, len(paths))
	for i, path := range paths {
		var written time.Time
		if contents[i], written, err = readFile(path); err != nil {
			return nil, time.Time{}, err
		}
		if written.After(since) {
			since = written
		}
	}
	return contents, since, nil
}

func readFile(path string) ([]byte, time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(content) > maxSize {
		return nil, time.Time{}, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	return content, info.ModTime(), nil
}
