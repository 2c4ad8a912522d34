package audit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/audit"
)

const patience = 2 * time.Second

func TestAttemptIsWrittenWhenItReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte(`{"event":"attempt","request_id":"0"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Options{Destination: path})
	for _, id := range []string{"1", "2"} {
		if err := l.Attempt(t.Context(), attempt(id)); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(read(t, path), `"request_id":"`+id+`"}`+"\n") {
			t.Errorf("attempt %s is not written", id)
		}
		l.Outcome(outcome(id))
	}
	expect(t, "lines", told(t, read(t, path)), "attempt 0", "attempt 1", "outcome 1", "attempt 2", "outcome 2")
	if l.stderr.String() != "" || l.told.String() != "" {
		t.Errorf("nothing was wrong: %s%s", l.stderr.String(), l.told.String())
	}
}

func TestFileIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open(t, audit.Options{Destination: path})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestWhatCannotBeOpenedIsNamed(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, closed, _ := os.Pipe()
	for _, row := range []struct {
		name string
		o    audit.Options
		want string
	}{
		{"a directory", audit.Options{Destination: dir}, dir},
		{"in no directory", audit.Options{Destination: dir + "/no/audit"}, dir + "/no/audit"},
		{"a named pipe that nobody reads", audit.Options{Destination: pipe}, pipe},
		{"a device, to be held by a disk", audit.Options{Destination: "/dev/null", Sync: true}, "/dev/null"},
		{"a pipe, to be held by a disk", audit.Options{Destination: audit.Stdout, Stdout: closed, Sync: true}, "standard output"},
		{"no file, to be held by a disk", audit.Options{Destination: audit.Stdout, Stdout: io.Discard, Sync: true}, "standard output"},
		{"otlp, to be held by a disk", audit.Options{Destination: audit.OTLP, Sync: true}, "otlp"},
	} {
		if _, err := audit.Open(row.o); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// Before anything is done, what can't be written is refused; after, it is told
// elsewhere.
func TestSinksThatFail(t *testing.T) {
	reader, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	_ = reader.Close()
	lost := newDisk(1 << 20)
	for _, row := range []struct {
		name string
		o    audit.Options
		want error
		then func()
	}{
		{"a full disk", audit.Options{Destination: "/dev/full"}, syscall.ENOSPC, func() {}},
		{"a pipe whose reader is gone", audit.Options{Destination: audit.Stdout, Stdout: pipe}, syscall.EPIPE, func() {}},
		{"a writer that takes less, and says nothing", audit.Options{Destination: audit.Stdout, Stdout: short{}}, io.ErrShortWrite, func() {}},
		{"a disk that can't hold it", audit.Options{Destination: audit.Stdout, Stdout: lost, Sync: true}, syscall.EIO, func() { lost.fails.Store(true) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := open(t, row.o)
			row.then()
			refused(t, "the attempt", l.Attempt(t.Context(), attempt("1")), row.want)
			if l.stderr.String() != "" {
				t.Errorf("an attempt that is refused is told nowhere: %s", l.stderr.String())
			}
			r := day()[7]
			l.Outcome(&r)
			want, _ := r.MarshalJSON()
			if l.stderr.String() != string(want)+"\n" {
				t.Errorf("on standard error: %q, want %q", l.stderr.String(), want)
			}
			l.next(t)
			if told := l.told.String(); strings.Count(told, "\n") != 1 || !strings.Contains(told, row.want.Error()) {
				t.Errorf("told: %q", told)
			}
		})
	}
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestItResumesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(0)
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		refused(t, "on a full disk", l.Attempt(t.Context(), attempt("1")), syscall.ENOSPC)
		l.Outcome(outcome("1"))
		l.Outcome(outcome("2"))
		time.Sleep(10*time.Second + time.Millisecond) // by the test's own clock
		if writes := d.writes.Load(); writes != 13 {
			t.Errorf("%d writes: 3 lines, and each second another try", writes)
		}
		d.room.Store(1 << 20)
		time.Sleep(time.Second)
		synctest.Wait()
		expect(t, "lines", told(t, d.String()), "resumed 2")
		if err := l.Attempt(t.Context(), attempt("3")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		expect(t, "lines", told(t, d.String()), "resumed 2", "attempt 3")
		expect(t, "on standard error", told(t, l.stderr.String()), "outcome 1", "outcome 2")
		expect(t, "told", strings.Split(l.told.String(), "\n"), "audit: no space left on device", "ok", "")
	})
}

func TestItResumesWithTheNextLine(t *testing.T) {
	d := newDisk(0)
	l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
	l.Outcome(outcome("1"))
	d.room.Store(1 << 20)
	if err := l.Attempt(t.Context(), attempt("2")); err != nil {
		t.Error(err)
	}
	l.next(t)
	l.next(t)
	expect(t, "lines", told(t, d.String()), "resumed 1", "attempt 2")
	expect(t, "told", strings.Split(l.told.String(), "\n"), "audit: no space left on device", "ok", "")
}

func TestATornLineIsTheOnlyOneLost(t *testing.T) {
	d := newDisk(1 << 20)
	l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
	if err := l.Attempt(t.Context(), attempt("1")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a disk that gets full within a line, twice
		d.room.Store(20)
		refused(t, "torn", l.Attempt(t.Context(), attempt("2")), syscall.ENOSPC)
	}
	d.room.Store(1 << 20)
	if err := l.Attempt(t.Context(), attempt("3")); err != nil {
		t.Fatal(err)
	}
	var whole, parts []string
	for line := range strings.Lines(d.String()) {
		if strings.HasSuffix(line, "}\n") {
			whole = append(whole, line)
		} else {
			parts = append(parts, line)
		}
	}
	expect(t, "lines", told(t, strings.Join(whole, "")), "attempt 1", "resumed 0", "attempt 3")
	if len(parts) != 2 {
		t.Errorf("torn lines: %q", parts)
	}
}

func TestALineThatWasTornBefore(t *testing.T) {
	for before, after := range map[string]string{
		"":                   "",
		`{"event":"old"}`:    `{"event":"old"}` + "\n",
		`{"event":"o` + "\n": `{"event":"o` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, audit.Options{Destination: path})
		l.Outcome(outcome("1"))
		if rest, ok := strings.CutPrefix(read(t, path), after); !ok || len(told(t, rest)) != 1 {
			t.Errorf("after %q: %q", before, read(t, path))
		}
	}
}

func TestASinkThatHangsHangsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 20)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		time.Sleep(time.Minute) // idle, which is not hanging
		start := time.Now()
		took := func(want time.Duration) {
			t.Helper()
			if d := time.Since(start); d != want {
				t.Errorf("it took %s, want %s", d, want)
			}
			start = time.Now()
		}

		var group sync.WaitGroup
		group.Go(func() {
			time.Sleep(time.Millisecond)
			l.Outcome(outcome("0"))
		})
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		refused(t, "a caller with little time", l.Attempt(short, attempt("1")), context.DeadlineExceeded)
		took(time.Second)
		if l.told.String() != "" {
			t.Errorf("a second is no failure: %q", l.told.String())
		}
		refused(t, "a caller with more", l.Attempt(t.Context(), attempt("2")), nil)
		took(time.Second + time.Millisecond) // as the first line of those that wait
		group.Wait()
		expect(t, "on standard error, after two seconds of its own", told(t, l.stderr.String()), "outcome 0")
		refused(t, "one more", l.Attempt(t.Context(), attempt("3")), nil)
		l.Outcome(outcome("3"))
		took(0) // it is known by now
		time.Sleep(time.Minute)

		release()
		synctest.Wait()
		expect(t, "what was pending may be written late", told(t, d.String()), "attempt 1", "resumed 2", "outcome 0", "attempt 2")
		expect(t, "on standard error", told(t, l.stderr.String()), "outcome 0", "outcome 3")
		expect(t, "told", strings.Split(l.told.String(), "\n"), "audit: the sink takes no lines, for 2s", "ok", "")
		if err := l.Attempt(t.Context(), attempt("4")); err != nil {
			t.Error(err)
		}
	})
}

// What a write that hung brings in the end is not known before, so that the log
// says of itself when it can be trusted again.
func TestAWriteThatComesThroughLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 20)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		l.Outcome(outcome("1"))
		release()
		synctest.Wait()
		expect(t, "lines", told(t, d.String()), "outcome 1", "resumed 1")
		expect(t, "on standard error", told(t, l.stderr.String()), "outcome 1")
	})
}

func TestAPipeThatNobodyReads(t *testing.T) {
	reader, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Options{Destination: audit.Stdout, Stdout: pipe})
	ctx, end := context.WithCancel(t.Context())
	end()
	refused(t, "a caller who has left", l.Attempt(ctx, attempt("left")), context.Canceled)
	written := 0
	ctx, end = context.WithTimeout(t.Context(), time.Second)
	defer end()
	for err = nil; err == nil; written++ {
		err = l.Attempt(ctx, attempt(fmt.Sprint(written)))
	}
	refused(t, "once the pipe is full", err, context.DeadlineExceeded)

	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(reader)
		text <- string(b)
	}()
	l.Outcome(outcome("last"))
	_ = l.Close()
	_ = pipe.Close()
	lines := told(t, <-text)
	for i := range written {
		if i >= len(lines) || lines[i] != fmt.Sprintf("attempt %d", i) {
			t.Fatalf("line %d of %q", i, lines)
		}
	}
	if lines[len(lines)-1] != "outcome last" || len(lines) != written+1 {
		t.Errorf("%d lines, %q at last", len(lines), lines[len(lines)-1])
	}
}

func TestWhatIsPendingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 30)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		long := strings.Repeat("x", 256)
		var group sync.WaitGroup
		try := func() error {
			err := make(chan error, 1)
			group.Go(func() {
				err <- l.Attempt(t.Context(), &audit.Record{Event: audit.EventAttempt, Team: long, Rule: long, Caller: long, Peer: long})
			})
			synctest.Wait()
			select {
			case err := <-err:
				return err
			default:
				return nil
			}
		}
		start := time.Now()
		tries := 0
		var err error
		for ; err == nil && tries < 10_000; tries++ {
			err = try()
		}
		if time.Since(start) != 0 || err == nil || !strings.Contains(err.Error(), "4194304 bytes") {
			t.Errorf("after %d lines: %v", tries, err)
		}
		l.Outcome(outcome("1"))
		expect(t, "on standard error", told(t, l.stderr.String()), "outcome 1")
		release()
		group.Wait()
		synctest.Wait()
		lines := told(t, d.String())
		if len(lines) != tries+1 || lines[1] != "resumed 1" { // with the outcome, for which there was room, in place of the try that failed
			t.Errorf("%d lines of %d tries, %q", len(lines), tries, lines[1])
		}
		if size := len(d.String()); size < 4<<20-2000 || size > 4<<20+2000 {
			t.Errorf("%d bytes were pending", size)
		}
	})
}

func TestLinesOfTheSameTimeAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 20)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d, Sync: true})
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				if err := l.Attempt(t.Context(), attempt(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		before := d.syncs.Load() // of Open, which tries
		release()
		group.Wait()
		if d.writes.Load() != 2 || d.syncs.Load()-before != 2 || len(told(t, d.String())) != 100 {
			t.Errorf("%d writes and %d syncs of %d lines", d.writes.Load(), d.syncs.Load()-before, len(told(t, d.String())))
		}
	})
}

func TestSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, audit.Options{Destination: path, Sync: true})
	if err := l.Attempt(t.Context(), attempt("1")); err != nil {
		t.Error(err)
	}
	d := newDisk(1 << 20)
	l = open(t, audit.Options{Destination: audit.Stdout, Stdout: d, Sync: true})
	before := d.syncs.Load()
	if err := l.Attempt(t.Context(), attempt("1")); err != nil || d.syncs.Load() != before+1 {
		t.Errorf("%d syncs of a line, %v", d.syncs.Load()-before, err)
	}
}

func TestReopenUnderLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, audit.Options{Destination: path})
	const callers, calls, rotations = 8, 200, 20
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := range calls {
				id := fmt.Sprintf("%d-%d", c, i)
				if err := l.Attempt(t.Context(), attempt(id)); err != nil {
					t.Error(err)
				}
				l.Outcome(outcome(id))
			}
		})
	}
	files := []string{path}
	for i := range rotations {
		old := fmt.Sprintf("%s.%d", path, i)
		if err := errors.Join(os.Rename(path, old), l.Reopen()); err != nil {
			t.Fatal(err)
		}
		size := len(read(t, old))
		l.Outcome(outcome(fmt.Sprintf("rotation-%d", i)))
		if len(read(t, old)) != size {
			t.Error("the old file was written to after Reopen")
		}
		files = append(files[:i], old, path)
	}
	group.Wait()
	seen := map[string]int{}
	for _, file := range files {
		for _, line := range told(t, read(t, file)) {
			seen[line]++
			if id, is := strings.CutPrefix(line, "outcome "); is && !strings.HasPrefix(id, "rotation") && seen["attempt "+id] != 1 {
				t.Errorf("%s comes before its attempt", line)
			}
		}
	}
	for line, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", line, n)
		}
	}
	if want := 2*callers*calls + rotations; len(seen) != want {
		t.Errorf("%d lines, want %d", len(seen), want)
	}
	if l.stderr.String() != "" {
		t.Errorf("on standard error: %s", l.stderr.String())
	}
}

func TestAReopenThatFailsKeepsTheOldFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	path := filepath.Join(dir, "audit.jsonl")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Options{Destination: path})
	moved := dir + ".old"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("there is no such directory any more: %v", err)
	}
	if err := l.Attempt(t.Context(), attempt("1")); err != nil {
		t.Error(err)
	}
	expect(t, "in the old file", told(t, read(t, filepath.Join(moved, "audit.jsonl"))), "attempt 1")
}

func TestReopenMendsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Options{Destination: path})
	l.Outcome(outcome("1"))
	l.next(t)
	if err := errors.Join(os.Remove(path), l.Reopen()); err != nil {
		t.Fatal(err)
	}
	l.next(t)
	expect(t, "lines", told(t, read(t, path)), "resumed 1")
	expect(t, "told", strings.Split(l.told.String(), "\n"), "audit: write "+path+": no space left on device", "ok", "")
}

func TestReopenOfWhatIsNoFile(t *testing.T) {
	var b output
	l := open(t, audit.Options{Destination: audit.Stdout, Stdout: &b})
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	l.Outcome(outcome("1"))
	expect(t, "lines", told(t, b.String()), "outcome 1")
}

// A named pipe, since a disk can't be made to hang.
func TestReopenAndCloseOfAFileThatHangs(t *testing.T) {
	t.Parallel() // it has to be waited for
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l := open(t, audit.Options{Destination: path})
	ctx, end := context.WithCancel(t.Context())
	go func() { l.next(t); end() }()
	for i := 0; ctx.Err() == nil; i++ {
		_ = l.Attempt(ctx, attempt(fmt.Sprint(i)))
	}
	if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Reopen of what is in use: %v", err)
	}
	start := time.Now()
	if err := l.Close(); err != nil || time.Since(start) < patience {
		t.Errorf("%v, after %s", err, time.Since(start)) // and Close has waited for the goroutine
	}
}

func TestCloseWritesWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which also sees that nothing outlives Close
		d := newDisk(1 << 20)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		var group sync.WaitGroup
		for _, id := range []string{"1", "2", "3"} {
			group.Go(func() { l.Outcome(outcome(id)) })
			synctest.Wait()
		}
		group.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		release()
		group.Wait()
		expect(t, "lines", told(t, d.String()), "outcome 1", "outcome 2", "outcome 3")

		refused(t, "after Close", l.Attempt(t.Context(), attempt("4")), nil)
		l.Outcome(outcome("4"))
		expect(t, "on standard error", told(t, l.stderr.String()), "outcome 4")
		if err := l.Close(); err != nil || l.told.String() != "" {
			t.Errorf("an end is no failure: %v, %q", err, l.told.String())
		}
	})
}

func TestCloseOfASinkThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 20)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		go func() { _ = l.Attempt(t.Context(), attempt("1")) }()
		synctest.Wait()
		start := time.Now()
		if err := l.Close(); err == nil || time.Since(start) != patience {
			t.Errorf("%v, after %s", err, time.Since(start))
		}
		release()
	})
}

func BenchmarkLog(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			l, err := audit.Open(audit.Options{Destination: filepath.Join(b.TempDir(), "audit.jsonl"), Sync: sync})
			if err != nil {
				b.Fatal(err)
			}
			attempt, outcome := day()[0], day()[1]
			ctx, end := context.WithCancel(context.Background())
			defer end()
			cpu := func() time.Duration {
				var u syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			b.SetParallelism(32) // 64 callers on two cores
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu()
			b.RunParallel(func(pb *testing.PB) {
				a, o := attempt, outcome
				for pb.Next() {
					if err := l.Attempt(ctx, &a); err != nil {
						b.Error(err)
					}
					l.Outcome(&o)
				}
			})
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			_ = l.Close()
		})
	}
}
