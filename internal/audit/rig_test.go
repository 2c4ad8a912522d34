package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/audit"
)

var update = flag.Bool("update", false, "rewrite what is in testdata")

// rig is a log, and what it said to others.
type rig struct {
	*audit.Log
	stderr output
	told   output // "ok" or an error, a line for each time that Working was called
	inside atomic.Bool
	wait   chan struct{} // is sent to whenever Working was called
}

// open opens a log that is closed when the test ends.
func open(t *testing.T, o audit.Options) *rig {
	t.Helper()
	r := &rig{wait: make(chan struct{}, 100)}
	o.Stderr = &r.stderr
	o.OnStatusChange = func(ok bool, err error) {
		if r.inside.Swap(true) {
			t.Error("Working is called twice at once")
		}
		if ok != (err == nil) {
			t.Errorf("Working(%v, %v)", ok, err)
		}
		if ok {
			fmt.Fprintln(&r.told, "ok")
		} else {
			fmt.Fprintln(&r.told, err)
		}
		r.inside.Store(false)
		r.wait <- struct{}{}
	}
	var err error
	if r.Log, err = audit.Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// output is written to and read at once.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// disk takes what it has room for, and writes nothing while it hangs.
type disk struct {
	output
	room   atomic.Int64
	hangs  atomic.Pointer[chan struct{}]
	slow   atomic.Int64 // nanoseconds that a write takes
	writes atomic.Int64
	syncs  atomic.Int64
	fails  atomic.Bool // to sync
}

func newDisk(room int64) *disk {
	d := &disk{}
	d.room.Store(room)
	return d
}

// hang has every write wait until the returned function is called.
func (d *disk) hang() (release func()) {
	c := make(chan struct{})
	d.hangs.Store(&c)
	return func() { d.hangs.Store(nil); close(c) }
}

func (d *disk) Write(p []byte) (int, error) {
	d.writes.Add(1)
	if c := d.hangs.Load(); c != nil {
		<-*c
	}
	time.Sleep(time.Duration(d.slow.Load()))
	n := min(d.room.Load(), int64(len(p)))
	d.room.Add(-n)
	_, _ = d.output.Write(p[:n])
	if n < int64(len(p)) {
		return int(n), syscall.ENOSPC
	}
	return int(n), nil
}

func (d *disk) Sync() error {
	d.syncs.Add(1)
	if d.fails.Load() {
		return syscall.EIO
	}
	return nil
}

// parsed are the lines of a log. One that is no record fails the test.
func parsed(t *testing.T, text string) []audit.Record {
	t.Helper()
	var records []audit.Record
	for line := range strings.Lines(text) {
		var r audit.Record
		if !strings.HasSuffix(line, "}\n") || json.Unmarshal([]byte(line), &r) != nil {
			t.Errorf("no record: %q", line)
			continue
		}
		records = append(records, r)
	}
	return records
}

// told are the events and request ids of a log's lines: "attempt 1".
func told(t *testing.T, text string) []string {
	t.Helper()
	var s []string
	for _, r := range parsed(t, text) {
		if r.Event == audit.EventResumed {
			s = append(s, fmt.Sprintf("resumed %d", r.Lost))
			continue
		}
		s = append(s, r.Event+" "+r.RequestID)
	}
	return s
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// next waits for a call of Working.
func (r *rig) next(t *testing.T) {
	t.Helper()
	select {
	case <-r.wait:
	case <-t.Context().Done():
	case <-time.After(30 * time.Second):
		t.Fatal("Working is not called")
	}
}

func attempt(id string) *audit.Record {
	return &audit.Record{Event: audit.EventAttempt, RequestID: id}
}

func outcome(id string) *audit.Record {
	return &audit.Record{Event: audit.EventOutcome, RequestID: id}
}

// refused fails the test unless err says that an attempt was not written, for cause.
func refused(t *testing.T, what string, err, cause error) {
	t.Helper()
	if err == nil || cause != nil && !errors.Is(err, cause) {
		t.Errorf("%s: %v, want %v", what, err, cause)
	}
}
