package audit_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/teamtoken/teamtoken/internal/audit"
)

const (
	deployer = "spiffe://example.org/ns/ci/sa/deployer"
	nightly  = "https://issuer.example#nightly"
	team     = "team-BUHBEM97xboT8TVz"
	other    = "team-6p5jTwJQXwqZBncC"
)

// day is an audit log with a line of each kind. What docs/audit.md shows is asked
// of it, too.
func day() []audit.Record {
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339Nano, "2026-11-23T"+s+"Z")
		if err != nil {
			panic(err)
		}
		return t
	}
	ci := audit.Record{
		Caller: deployer, VerifiedBy: "mtls", Peer: "10.1.2.3:41234", Surface: "grpc", Decision: "allow", Rule: "ci",
	}
	made := func(c audit.Record, f func(*audit.Record)) audit.Record { f(&c); return c }
	generate := made(ci, func(r *audit.Record) {
		r.Event, r.Time, r.CallID, r.RequestID = audit.EventAttempt, at("09:00:00.000000001"), "C1", "GENERATE1"
		r.Method, r.Team, r.ExpectedTokenID, r.IdempotencyKey = "GenerateToken", team, "at-6yEmxNAhaoQLH1Da", "deploy-4711"
	})
	killed := made(generate, func(r *audit.Record) {
		r.Time, r.CallID, r.RequestID, r.ExpectedTokenID, r.IdempotencyKey = at("09:10:00"), "C2", "KILLED", "", ""
	})
	redrive := made(killed, func(r *audit.Record) {
		r.Event, r.Time, r.TokenID, r.Redrives = audit.EventRedrive, at("09:10:01"), "at-Lost1xNAhaoQLH1", "GenerateToken"
	})
	settled := made(killed, func(r *audit.Record) {
		r.Event, r.Time, r.TokenID, r.Outcome = audit.EventSettled, at("09:10:12"), "at-Lost2xNAhaoQLH1", "applied_undelivered"
	})
	slow := made(ci, func(r *audit.Record) {
		r.Event, r.Time, r.CallID, r.RequestID, r.Method, r.Team = audit.EventAttempt, at("09:20:00"), "C3", "SLOW", "DeleteToken", team
	})
	byID := audit.Record{
		Event: audit.EventAttempt, Time: at("09:30:00.5"), CallID: "C4", RequestID: "BYID", Caller: nightly, VerifiedBy: "jwt",
		Peer: "[2001:db8::7]:55555", Surface: "rest", Method: "DeleteTokenByID", TokenID: "at-Gk2xNAhaoQLH1Day", Decision: "pending",
	}
	list := audit.Record{
		Event: audit.EventAttempt, Time: at("09:45:00"), CallID: "C6", RequestID: "LIST", Caller: nightly, VerifiedBy: "jwt", Peer: "[2001:db8::7]:55555",
		Surface: "rest", Method: "ListTokens", Organization: "example", Decision: "allow", Rule: "readers",
	}
	return []audit.Record{
		generate,
		made(generate, func(r *audit.Record) {
			r.Event, r.Time, r.TokenID, r.UpstreamRequestID = audit.EventOutcome, at("09:00:00.25"), "at-Gk2xNAhaoQLH1Day", "1f9d4a7c-upstream"
			r.Code, r.Outcome, r.Duration = "OK", "applied", 250*time.Millisecond
		}),
		killed,
		redrive,
		settled,
		slow,
		made(slow, func(r *audit.Record) {
			r.Event, r.Time, r.Code, r.Reason, r.Outcome = audit.EventOutcome, at("09:20:05"), "DeadlineExceeded", "UPSTREAM_TIMEOUT", "unknown"
			r.Duration = 5*time.Second + time.Nanosecond
		}),
		made(slow, func(r *audit.Record) {
			r.Event, r.Time, r.Code, r.Outcome, r.UpstreamRequestID = audit.EventLate, at("09:20:11"), "OK", "applied", "77aa-upstream"
		}),
		byID,
		made(byID, func(r *audit.Record) {
			r.Event, r.Time, r.Team, r.Decision = audit.EventRefusal, at("09:30:00.6"), other, "deny"
			r.Code, r.Reason, r.Outcome, r.Duration = "NotFound", "TOKEN_NOT_FOUND_OR_FORBIDDEN", "not_applied", 100*time.Millisecond
		}),
		{
			Event: audit.EventRefusal, Time: at("09:40:00"), CallID: "C5", RequestID: "NOBODY", Peer: "10.9.9.9:1024", Surface: "rest",
			Method: "GenerateToken", Code: "Unauthenticated", Reason: "CALLER_UNAUTHENTICATED", Outcome: "not_applied", Duration: 80 * time.Microsecond,
		},
		list,
		made(list, func(r *audit.Record) {
			r.Event, r.Time, r.Code, r.Duration = audit.EventOutcome, at("09:45:00.03"), "OK", 30*time.Millisecond
		}),
		{Event: audit.EventResumed, Time: at("09:50:00"), Lost: 3},
		{
			Event: audit.EventRefusals, Time: at("09:55:05.2"), Surface: "grpc", Code: "Unauthenticated", Reason: "CALLER_UNAUTHENTICATED",
			Counted: &audit.Counted{
				Count: 61250, Since: at("09:55:00.1"), Until: at("09:55:05.199999999"), Peers: []string{"10.9.9.9", "2001:db8::66"}, Unlisted: 7,
				Methods: []string{"GenerateToken", "GetToken"},
			},
		},
		{
			Event: audit.EventRefusals, Time: at("09:55:05.3"), Caller: nightly, VerifiedBy: "jwt", Surface: "rest", Code: "PermissionDenied",
			Reason: "CALLER_NOT_ALLOWED", Counted: &audit.Counted{
				Count: 42, Since: at("09:55:00.2"), Until: at("09:55:04"), Peers: []string{"2001:db8::7"}, Methods: []string{"DeleteToken"},
			},
		},
	}
}

const dayFile = "testdata/day.jsonl"

// Whoever reads these lines with a program relies on them: a change of this file
// that is more than an addition breaks that.
func TestLinesAreWhatTheyWere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, audit.Options{Destination: path})
	for _, r := range day() {
		if r.Event != audit.EventAttempt {
			l.Outcome(&r)
		} else if err := l.Attempt(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, path)
	if *update {
		if err := os.WriteFile(dayFile, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, dayFile); got != want {
		t.Errorf("lines:\n%swant:\n%s", got, want)
	}
	for i, r := range parsed(t, got) {
		if !reflect.DeepEqual(r, day()[i]) {
			t.Errorf("%+v is read as %+v", day()[i], r)
		}
	}
}

func TestWhatCallersSendIsBoundedAndSafe(t *testing.T) {
	long := strings.Repeat("ä", 256)
	for _, row := range []struct{ name, sent, written string }{
		{"plain", "team-1", `"team-1"`},
		{"what HTML minds", "<a&b>", `"<a&b>"`},
		{"quotes", `"\`, `"\"\\"`},
		{"an end of line", "a\r\nb", `"a\u000d\u000ab"`},
		{"what steers a terminal", "\x1b[2J\x7f\u009b", `"\u001b[2J\u007f\u009b"`},
		{"what turns text round", "\u202eevil\u2066", `"\u202eevil\u2066"`},
		{"lines of JavaScript", "\u2028\u2029", `"\u2028\u2029"`},
		{"other languages", "ключ 鍵 🔑", `"ключ 鍵 🔑"`},
		{"what is above 16 bits and does not print", "\U000e0001", `"\udb40\udc01"`},
		{"what is written from right to left", "א\u0627٣", `"\u05d0\u0627\u0663"`},
		{"what can't be seen", "a\u3164\ufe0f\u2800\u034f\u00a0", `"a\u3164\ufe0f\u2800\u034f\u00a0"`},
		{"a mark for the quote before it", "\u0301e\u0301", "\"\\u0301e\u0301\""},
		{"no UTF-8", "a\xff\xc3", `"a\ufffd\ufffd"`},
		{"as long as may be", long, `"` + long + `"`},
		{"longer", long + "b", `"` + long + `…"`},
		{"longer, and escaped at the end", long[:510] + "\nb", `"` + long[:510] + `\u000a…"`},
	} {
		got, _ := (&audit.Record{Team: row.sent}).MarshalJSON()
		if want := `{"time":"0001-01-01T00:00:00.000000000Z","team":` + row.written + `}`; string(got) != want {
			t.Errorf("%s: %s, want %s", row.name, got, want)
		}
	}
}

// Who is verified is written down whole, so that no two callers look the same.
func TestCallersAreNotCut(t *testing.T) {
	for _, who := range []string{
		"spiffe://example.org/" + strings.Repeat("a", 2027), "https://issuer.example#" + strings.Repeat("organization:acme:project:Default Project:", 24),
		"https://issuer.example#" + strings.Repeat("鍵", 341), strings.Repeat("a.", 126) + "a",
	} {
		seen := map[string]string{}
		for _, last := range []string{"", "x", "y", " x", "…", "鍵", "#", `"`, `","rule":"`} {
			line, _ := (&audit.Record{Caller: who + last}).MarshalJSON()
			var r audit.Record
			if err := json.Unmarshal(line, &r); err != nil || r != (audit.Record{Time: r.Time, Caller: who + last}) {
				t.Errorf("%q is written as %s, %v", who+last, line, err)
			}
			if other, twice := seen[string(line)]; twice {
				t.Errorf("%q and %q have the same line", who+last, other)
			}
			seen[string(line)] = who + last
		}
	}
}

func TestALineWithoutATimeIsOfNow(t *testing.T) {
	var b output
	l := open(t, audit.Options{Destination: audit.Stdout, Stdout: &b})
	before := time.Now()
	l.Outcome(&audit.Record{Event: audit.EventOutcome})
	if at := parsed(t, b.String())[0].Time; at.Before(before.Round(0)) || at.After(time.Now().Round(0)) {
		t.Errorf("at %s", at)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("attempt", deployer, "GenerateToken", team, int64(1), int64(2), 3)
	f.Add("", "\x00\n\"\\", "\xff", strings.Repeat("🔑", 257), int64(-1), int64(math.MaxInt64), -1)
	f.Add("refusal", "\u2028\u202e", "\ud7ff\ufffd", "</script>", int64(0), int64(0), 0)
	var out bytes.Buffer
	l, err := audit.Open(audit.Options{Destination: audit.Stdout, Stdout: &out})
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f.Fuzz(func(t *testing.T, a, b, c, d string, nanoseconds, duration int64, lost int) {
		r := audit.Record{
			Time:  time.Unix(0, nanoseconds),
			Event: a, CallID: d, RequestID: b, Caller: c, VerifiedBy: d, Peer: a, Surface: b, Method: c, Team: d, Organization: a, TokenID: b,
			ExpectedTokenID: c, IdempotencyKey: d, Decision: a, Rule: b, UpstreamRequestID: c, Code: d, Reason: a, Outcome: b,
			Duration: time.Duration(duration), Lost: lost,
		}
		out.Reset()
		l.Outcome(&r)
		line, ended := strings.CutSuffix(out.String(), "\n")
		if !ended || !utf8.ValidString(line) || strings.ContainsFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Fatalf("not one line that prints: %q", out.String())
		}
		d2 := json.NewDecoder(strings.NewReader(line))
		d2.UseNumber()
		var got map[string]any
		if err := d2.Decode(&got); err != nil || d2.More() {
			t.Fatalf("%v: %q", err, line)
		}
		at, err := time.Parse(time.RFC3339Nano, got["time"].(string))
		if err != nil || !at.Equal(r.Time) {
			t.Errorf("time %v of %v, %v", got["time"], r.Time, err)
		}
		delete(got, "time")
		seconds, _ := got["duration_seconds"].(json.Number)
		if s, _ := seconds.Float64(); s != r.Duration.Seconds() {
			t.Errorf("duration %v of %v", seconds, r.Duration)
		}
		delete(got, "duration_seconds")
		number, _ := got["lost"].(json.Number)
		if n, _ := number.Int64(); int(n) != lost {
			t.Errorf("lost %v of %d", number, lost)
		}
		delete(got, "lost")
		for name, s := range map[string]string{
			"event": a, "call_id": d, "request_id": b, "caller": c, "verified_by": d, "peer": a, "surface": b, "method": c, "team": d,
			"organization": a, "token_id": b, "expected_token_id": c, "idempotency_key": d, "decision": a, "rule": b,
			"upstream_request_id": c, "code": d, "reason": a, "outcome": b,
		} {
			want := []rune(s) // which is U+FFFD for each byte that is no UTF-8
			if len(want) > 256 && name != "caller" {
				want = append(want[:256], '…')
			}
			if text, _ := got[name].(string); text != string(want) {
				t.Errorf("%s: %q of %q", name, text, s)
			}
			if _, there := got[name]; there && s == "" {
				t.Errorf("%s is empty, and there", name)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("more than was put in: %v", got)
		}
	})
}
