package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/audit"
)

// refusal is of the i-th call of somebody.
func refusal(who, verifiedBy, reason string, i int) *audit.Record {
	return &audit.Record{
		Event: audit.EventRefusal, RequestID: fmt.Sprint(i), Caller: who, VerifiedBy: verifiedBy, Peer: fmt.Sprintf("10.0.0.%d:%d", i%40, i%60000),
		Surface: "grpc", Method: "GenerateToken", Code: "PermissionDenied", Reason: reason,
	}
}

// tally is how many refusals a log tells of, by caller and reason, and in how many lines.
func tally(t *testing.T, text string) (calls map[string]int, lines, total int) {
	t.Helper()
	calls = map[string]int{}
	for _, r := range parsed(t, text) {
		n := 0
		switch r.Event {
		case audit.EventRefusal:
			n = 1
		case audit.EventRefusals:
			n = r.Count
			if r.Since.IsZero() || r.Until.Before(r.Since) || r.Time.Before(r.Until) || len(r.Peers) == 0 || len(r.Peers) > 16 || len(r.Methods) == 0 {
				t.Errorf("a line says too little: %+v %+v", r, r.Counted)
			}
		default:
			continue
		}
		lines++
		calls[r.Caller+" "+r.Reason] += n
		total += n
	}
	return calls, lines, total
}

// Of the refusals of one source, however many, the log has few lines and counts that
// are exact; those of another have lines of their own all the same.
func TestRefusalsThatComeTooFast(t *testing.T) {
	const flood = 20_000
	for _, row := range []struct{ name, caller, verifiedBy string }{
		{"unknown callers", "", ""},
		{"anybody", "", "none"},
		{"callers of invented credentials", "credential#", "credential"},
		{"a caller by a credential", "credential#noisy", "credential"},
		{"a caller with a certificate", "spiffe://example.org/noisy", "mtls"},
		{"a caller with a JWT", "https://issuer.example#noisy", "jwt"},
		{"a caller of the mesh", "noisy.example.org", "mesh"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk(1 << 30)
				l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
				want := map[string]int{}
				for i := range flood {
					r := refusal(row.caller, row.verifiedBy, [...]string{"A", "B", "C"}[i%3], i)
					if row.caller == "credential#" {
						r.Caller += fmt.Sprint(i)
					}
					l.Refusal(r)
				}
				l.Refusal(refusal(deployer, "mtls", "quiet", 1))
				l.Refusal(refusal("credential#quiet", "credential", "quiet", 1)) // who has no budget of his own
				want[deployer+" quiet"], want["credential#quiet quiet"] = 1, 1
				if !strings.Contains(d.String(), "quiet") {
					t.Error("a quiet caller has no line")
				}
				time.Sleep(10 * time.Second)
				calls, lines, total := tally(t, d.String())
				if total != flood+2 || lines > 7000 || len(d.String()) > 640<<10 {
					t.Errorf("%d calls in %d lines of %d bytes", total, lines, len(d.String()))
				}
				if row.caller != "credential#" { // whose first lines have a caller each
					for i, reason := range []string{"A", "B", "C"} {
						want[row.caller+" "+reason] = (flood + 2 - i) / 3
					}
					for key, n := range want {
						if calls[key] != n {
							t.Errorf("%s: %d, want %d", key, calls[key], n)
						}
					}
				}
				time.Sleep(time.Minute) // after which it has a budget again
				before := d.String()
				l.Refusal(refusal(row.caller, row.verifiedBy, "later", 1))
				if rest := strings.TrimPrefix(d.String(), before); !strings.Contains(rest, `"event":"refusal"`) {
					t.Errorf("a minute later: %q", rest)
				}
			})
		})
	}
}

// The sink hangs, fails, or tears a line while refusals come: none is missing in the
// end, none is there twice, and those who make other calls are told the truth of the
// sink, not of the flood.
func TestRefusalsAndASinkThatFails(t *testing.T) {
	const calls = 400
	for _, row := range []struct {
		name string
		bad  func(d *disk) (mend func())
	}{
		{"it hangs", func(d *disk) func() { return d.hang() }},
		{"it is full", func(d *disk) func() { d.room.Store(0); return func() { d.room.Store(1 << 30) } }},
		{"it is nearly full", func(d *disk) func() { d.room.Store(700); return func() { d.room.Store(1 << 30) } }},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk(1 << 30)
				l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
				mend := row.bad(d)
				var group sync.WaitGroup
				for i := range calls {
					who, by := "", ""
					if i%2 == 0 {
						who, by = fmt.Sprintf("caller-%d", i%8), "mtls"
					}
					group.Go(func() { l.Refusal(refusal(who, by, "A", i)) })
				}
				synctest.Wait()
				if row.name == "it hangs" && l.told.String() != "" {
					t.Errorf("refusals alone turn it not ready: %s", l.told.String())
				}
				group.Go(func() { l.Outcome(outcome("an outcome")) })
				group.Go(func() { refused(t, "an attempt", l.Attempt(t.Context(), attempt("an attempt")), nil) })
				group.Wait()
				time.Sleep(30 * time.Second)
				expect(t, "on standard error", told(t, l.stderr.String()), "outcome an outcome")
				mend()
				time.Sleep(30 * time.Second)
				if err := l.Attempt(t.Context(), attempt("after")); err != nil {
					t.Error(err)
				}
				var whole strings.Builder
				for line := range strings.Lines(d.String()) {
					if strings.HasSuffix(line, "}\n") {
						whole.WriteString(line)
					}
				}
				if _, lines, total := tally(t, whole.String()); total != calls {
					t.Errorf("%d calls in %d lines, want %d", total, lines, calls)
				}
			})
		})
	}
}

// What waits of refusals is bounded, and so is what is remembered of those who cause
// them, by whatever they differ.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 30)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		const calls = 10_000
		long := strings.Repeat("m", 1<<12)
		var group sync.WaitGroup
		for i := range calls {
			r := refusal(fmt.Sprintf("caller-%d", i), "jwt", "A", i)
			r.Peer = fmt.Sprintf("[2001:db8::%x]:1", i)
			r.Method = fmt.Sprint(i) + long
			if i < 1000 { // the others do not wait
				group.Go(func() { l.Refusal(r) })
				synctest.Wait()
				continue
			}
			l.Refusal(r)
		}
		group.Wait()
		release()
		time.Sleep(10 * time.Second)
		_, lines, total := tally(t, d.String())
		if total != calls || lines > 400 || len(d.String()) > 512<<10 {
			t.Errorf("%d calls in %d lines of %d bytes", total, lines, len(d.String()))
		}
		i := slices.IndexFunc(parsed(t, d.String()), func(r audit.Record) bool { return r.Counted != nil && r.Caller == "" })
		if i < 0 {
			t.Fatal("no line counts those who are too many")
		}
		rest := parsed(t, d.String())[i]
		if rest.VerifiedBy != "jwt" || len(rest.Peers) != 16 || rest.Unlisted != rest.Count-16 || len(rest.Methods) != 16 || len(rest.Methods[0]) > 128 {
			t.Errorf("%+v %+v", rest, rest.Counted)
		}
	})
}

// Attempts and outcomes go before refusals, and a write takes few refusals along.
func TestAttemptsGoBeforeRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 30)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		var group sync.WaitGroup
		for i := range 200 {
			group.Go(func() { l.Refusal(refusal(fmt.Sprintf("caller-%d", i), "mtls", "A", i)) })
		}
		synctest.Wait()
		for i := range 3 {
			group.Go(func() {
				if err := l.Attempt(t.Context(), attempt(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() { l.Outcome(&audit.Record{Event: audit.EventLate, RequestID: fmt.Sprint(i)}) })
		}
		synctest.Wait()
		release()
		group.Wait()
		var order []string
		size := 0
		for _, r := range parsed(t, d.String()) {
			if r.Event != audit.EventRefusal {
				order = append(order, r.Event)
				continue
			}
			line, _ := r.MarshalJSON()
			if len(order) == 0 {
				size += len(line) + 1
			}
		}
		if len(order) != 6 || size > 1<<10 {
			t.Errorf("%q came after %d bytes of refusals", order, size)
		}
	})
}

// With a sink that takes more than a second for each write, whoever makes one call after
// the other is served however many are refused meanwhile.
func TestRefusalsAndASinkThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 30)
		d.slow.Store(int64(1100 * time.Millisecond))
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		l.Outcome(outcome("first"))
		var group sync.WaitGroup
		ended := make(chan struct{})
		var made [8]int
		for i := range made {
			group.Go(func() {
				for {
					select {
					case <-ended:
						return
					case <-time.After(10 * time.Millisecond):
						l.Refusal(refusal("", "", "A", made[i]))
						made[i]++
					}
				}
			})
		}
		for i := range 30 {
			if err := l.Attempt(t.Context(), attempt(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			l.Outcome(outcome(fmt.Sprint(i)))
		}
		close(ended)
		group.Wait()
		time.Sleep(time.Minute)
		want := 0
		for _, n := range made {
			want += n
		}
		if _, lines, total := tally(t, d.String()); total != want {
			t.Errorf("%d calls in %d lines, want %d", total, lines, want)
		}
		if l.told.String() != "" || l.stderr.String() != "" {
			t.Errorf("told %q, standard error %q", l.told.String(), l.stderr.String())
		}
	})
}

// Close writes what was counted: to standard error where the sink takes nothing.
func TestCloseTellsOfRefusals(t *testing.T) {
	for _, row := range []struct {
		name string
		bad  func(d *disk) (mend func())
	}{
		{"to a sink that works", func(*disk) func() { return func() {} }},
		{"to a sink that is full", func(d *disk) func() { d.room.Store(0); return func() {} }},
		{"to a sink that hangs", func(d *disk) func() { return d.hang() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk(1 << 30)
				l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
				mend := row.bad(d)
				var group sync.WaitGroup
				for i := range 500 {
					group.Go(func() { l.Refusal(refusal("", "", "A", i)) })
				}
				synctest.Wait()
				_ = l.Close()
				group.Wait()
				if _, _, total := tally(t, d.String()+l.stderr.String()); total != 500 {
					t.Errorf("%d calls, want 500", total)
				}
				l.Refusal(refusal("", "", "after", 1))
				if !strings.Contains(l.stderr.String(), `"after"`) {
					t.Error("one after Close is told nowhere")
				}
				mend()
				synctest.Wait()
			})
		})
	}
}

// How an attempt ended has room when there is none for more attempts, which is no
// reason to take the log for broken.
func TestOutcomesHaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1 << 30)
		release := d.hang()
		l := open(t, audit.Options{Destination: audit.Stdout, Stdout: d})
		long := strings.Repeat("x", 256)
		var group sync.WaitGroup
		var full sync.Once
		hit := false
		group.Go(func() { _ = l.Attempt(t.Context(), attempt("first")) })
		synctest.Wait() // it hangs, and the others come after it
		for range 5000 {
			group.Go(func() {
				if err := l.Attempt(t.Context(), &audit.Record{Event: audit.EventAttempt, Team: long, Rule: long, Caller: long, Peer: long}); err != nil {
					full.Do(func() { hit = true })
				}
			})
		}
		synctest.Wait()
		if !hit {
			t.Fatal("there was room for all")
		}
		for i := range 1000 {
			group.Go(func() { l.Outcome(outcome(fmt.Sprint(i))) })
		}
		synctest.Wait()
		release()
		group.Wait()
		if l.stderr.String() != "" || l.told.String() != "" {
			t.Errorf("outcomes went elsewhere: %d bytes; told: %q", len(l.stderr.String()), l.told.String())
		}
	})
}
