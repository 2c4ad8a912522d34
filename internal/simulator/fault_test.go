package simulator_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

// Every row injects a fault and generates a token: what the client sees, and
// whether the token was made.
func TestFaults(t *testing.T) {
	type header map[string]string // "" for absent
	for _, row := range []struct {
		fault   string // as in a table of tests elsewhere
		status  int
		body    string // what is in it
		header  header
		err     error // what reading the answer ends with
		applied bool
	}{
		{fault: `{}`, status: 201, body: ".atlasv1.", applied: true},
		{fault: `{"method":"DELETE"}`, status: 201, body: ".atlasv1.", applied: true},

		{fault: `{"status":503}`, status: 503, body: "<h1>503 Service Unavailable</h1>", header: header{"Content-Type": "text/html"}},
		{fault: `{"status":503,"apply":"never"}`, status: 503},
		{fault: `{"status":500,"apply":"first"}`, status: 500, body: "<h1>500 Internal Server Error</h1>", applied: true},
		{fault: `{"status":502,"body":""}`, status: 502, header: header{"Content-Length": "0"}},
		{fault: `{"status":401}`, status: 401, body: unauthorized},
		{fault: `{"status":403}`, status: 403, body: `"title":"forbidden"`},
		{fault: `{"status":404}`, status: 404, body: notFound},
		{fault: `{"status":409}`, status: 409, body: `"title":"conflict"`},
		{fault: `{"status":422}`, status: 422, body: `"title":"unprocessable entity"`, header: header{"TFP-API-Version": "2.6"}},
		{
			fault: `{"status":429}`, status: 429, body: `"status":429`,
			header: header{"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1.000"},
		},
		{fault: `{"status":429,"header":{"x-ratelimit-reset":""}}`, status: 429, header: header{"X-RateLimit-Reset": ""}},
		{fault: `{"status":429,"header":{"X-RateLimit-Reset":"soon"}}`, status: 429, header: header{"X-RateLimit-Reset": "soon"}},
		{fault: `{"status":302,"header":{"Location":"/elsewhere"}}`, status: 302, header: header{"Location": "/elsewhere"}},
		{fault: `{"status":200,"body":"{}"}`, status: 200, body: "{}"},
		{fault: `{"status":204,"apply":"first"}`, status: 204, applied: true},

		{fault: `{"header":{"Content-Type":""}}`, status: 201, body: ".atlasv1.", header: header{"Content-Type": ""}, applied: true},
		{fault: `{"header":{"Content-Type":"text/plain"}}`, status: 201, header: header{"Content-Type": "text/plain"}, applied: true},
		{
			fault: `{"body":"<html>"}`, status: 201, body: "<html>",
			header: header{"Content-Type": "application/vnd.api+json"}, applied: true,
		},

		{fault: `{"drop":"fin"}`, err: io.EOF},
		{fault: `{"drop":"fin","apply":"first"}`, err: io.EOF, applied: true},
		{fault: `{"drop":"rst"}`, err: syscall.ECONNRESET},
		{fault: `{"drop":"rst","apply":"first"}`, err: syscall.ECONNRESET, applied: true},
		{fault: `{"truncate":0}`, status: 201, err: io.ErrUnexpectedEOF, applied: true},
		{fault: `{"truncate":10}`, status: 201, body: `{"data":{"`, err: io.ErrUnexpectedEOF, applied: true},
		{
			fault: `{"status":500,"body":"abcdef","truncate":3}`, status: 500, body: "abc",
			header: header{"Content-Length": "6"}, err: io.ErrUnexpectedEOF,
		},
		{fault: `{"truncate":100000}`, status: 201, body: ".atlasv1.", applied: true},

		{fault: `{"delay":1000000}`, status: 201, body: ".atlasv1.", applied: true},
		{fault: `{"delay":1000000,"status":504}`, status: 504},
		{fault: `{"delay":1000000,"drop":"fin"}`, err: io.EOF},
		{fault: `{"delay":1000000,"apply":"late"}`, status: 201, body: ".atlasv1.", applied: true},
		{fault: `{"delay":1000000,"apply":"late","status":504}`, status: 504, applied: true},
		{fault: `{"delay":1000000,"apply":"late","drop":"rst"}`, err: syscall.ECONNRESET, applied: true},
	} {
		t.Run(row.fault, func(t *testing.T) {
			var fault simulator.Fault
			decoder := json.NewDecoder(strings.NewReader(row.fault))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&fault); err != nil {
				t.Fatal(err)
			}
			r := start(t, simulator.Options{Rate: -1})
			injected := r.Inject(fault)
			begun := time.Now()
			got, err := r.request(t.Context(), "POST", legacyPath, "", r.OwnerToken())
			if fault.Method == "" {
				within(t, "the fault's end", injected.Done())
			}
			if took := time.Since(begun); took < fault.Delay {
				t.Errorf("took only %v", took)
			}
			if !errors.Is(err, row.err) || got.status != row.status || !strings.Contains(got.body, row.body) {
				t.Errorf("%d %q, error %v; want %d %q, %v", got.status, got.body, err, row.status, row.body, row.err)
			}
			if row.err == io.ErrUnexpectedEOF && got.body != row.body {
				t.Errorf("body %q, want %q", got.body, row.body)
			}
			for name, want := range row.header {
				if got := got.header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if applied := len(r.Minted()) == 1; applied != row.applied {
				t.Errorf("applied: %v, want %v", applied, row.applied)
			}
			if len(r.Requests()) != 1 {
				t.Errorf("%d requests arrived, want 1", len(r.Requests()))
			}
		})
	}
}

type outcome struct {
	reply
	err error
}

// generate asks for a token without waiting for it.
func (r *rig) generate(ctx context.Context) <-chan outcome {
	answered := make(chan outcome, 1)
	go func() {
		got, err := r.request(ctx, "POST", legacyPath, "", r.OwnerToken())
		answered <- outcome{got, err}
	}()
	return answered
}

func await(t *testing.T, answered <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-answered:
		return o
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
		return outcome{}
	}
}

// Every row holds a request: what is true while it waits, and afterwards.
func TestHeld(t *testing.T) {
	for _, row := range []struct {
		name          string
		fault         simulator.Fault
		early         bool // the client has its answer while the change waits
		status        int  // 0: none
		before, after int  // tokens made while it is held, and at last
	}{
		{"answer late", simulator.Fault{}, false, 201, 1, 1},
		{"answer and apply late", simulator.Fault{Apply: simulator.ApplyLate}, false, 201, 0, 1},
		{"refuse late", simulator.Fault{Status: 503}, false, 503, 0, 0},
		{"lose late what was not applied", simulator.Fault{Drop: simulator.DropFIN}, false, 0, 0, 0},
		{"lose late what was applied", simulator.Fault{Drop: simulator.DropFIN, Apply: simulator.ApplyFirst}, false, 0, 1, 1},
		{"cut off, apply late", simulator.Fault{Drop: simulator.DropFIN, Apply: simulator.ApplyLate}, true, 0, 0, 1},
		{"give up, apply late", simulator.Fault{Status: 504, Apply: simulator.ApplyLate}, true, 504, 0, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := start(t, simulator.Options{Rate: -1})
			release := make(chan struct{})
			row.fault.Hold = release
			injected := r.Inject(row.fault)
			answered := r.generate(t.Context())
			within(t, "the hit", injected.Hit())
			var got outcome
			if row.early {
				got = await(t, answered)
				if other := r.do("GET", "/api/v2/account/details", ""); other.status != 200 {
					t.Errorf("meanwhile: %d", other.status)
				}
			} else {
				select {
				case <-answered:
					t.Error("answered before it was released")
				default:
				}
			}
			if len(r.Minted()) != row.before {
				t.Errorf("%d tokens while held, want %d", len(r.Minted()), row.before)
			}
			select {
			case <-injected.Done():
				t.Error("done before it was released")
			default:
			}
			close(release)
			if !row.early {
				got = await(t, answered)
			}
			within(t, "the end", injected.Done())
			if got.status != row.status || (got.err == nil) != (row.status != 0) {
				t.Errorf("%d, %v; want %d", got.status, got.err, row.status)
			}
			if len(r.Minted()) != row.after {
				t.Errorf("%d tokens at last, want %d", len(r.Minted()), row.after)
			}
			if row.status == 201 && !strings.Contains(got.body, r.last().Secret.Reveal()) {
				t.Error("the answer is not the real one")
			}
		})
	}
}

func TestALateChangeComesAlthoughTheClientHasLeft(t *testing.T) {
	r := start(t, simulator.Options{})
	release := make(chan struct{})
	injected := r.Inject(simulator.Fault{Hold: release, Apply: simulator.ApplyLate})
	ctx, leave := context.WithCancel(t.Context())
	answered := r.generate(ctx)
	within(t, "the hit", injected.Hit())
	leave()
	if got := await(t, answered); !errors.Is(got.err, context.Canceled) {
		t.Fatalf("%v", got.err)
	}
	if len(r.Minted()) != 0 {
		t.Error("too early")
	}
	close(release)
	within(t, "the end", injected.Done())
	if r.live() != 1 {
		t.Error("it never came")
	}
}

func TestCloseAbandonsWhatIsHeld(t *testing.T) {
	never := make(chan struct{})
	for name, fault := range map[string]simulator.Fault{
		"answer":      {Hold: never, Apply: simulator.ApplyLate},
		"late change": {Hold: never, Apply: simulator.ApplyLate, Status: 504},
		"delay":       {Delay: time.Hour, Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, simulator.Options{})
			injected := r.Inject(fault)
			answered := r.generate(t.Context())
			within(t, "the hit", injected.Hit())
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_ = r.Close()
			}()
			within(t, "the close", closed)
			within(t, "the end", injected.Done())
			await(t, answered)
			if len(r.Minted()) != 0 {
				t.Error("a change came after the end")
			}
		})
	}
}

func TestWhichRequestAFaultHits(t *testing.T) {
	const list = listPath + "?q=teams"
	for _, row := range []struct {
		fault  simulator.Fault
		method string
		path   string
		hit    bool
	}{
		{simulator.Fault{}, "GET", legacyPath, true},
		{simulator.Fault{}, "GET", "/api/v2/nowhere", true},
		{simulator.Fault{}, "GET", "/api/v2/ping", false},
		{simulator.Fault{}, "GET", "/.well-known/terraform.json", false},
		{simulator.Fault{Path: "ping"}, "GET", "/api/v2/ping", true},
		{simulator.Fault{Path: "*"}, "GET", "/.well-known/terraform.json", true},
		{simulator.Fault{Method: "GET"}, "GET", legacyPath, true},
		{simulator.Fault{Method: "GET"}, "DELETE", legacyPath, false},
		{simulator.Fault{Path: "authentication-token"}, "GET", legacyPath, true},
		{simulator.Fault{Path: "authentication-token"}, "POST", namedPath, false},
		{simulator.Fault{Path: "token"}, "GET", legacyPath, false},
		{simulator.Fault{Path: "authentication-token*"}, "POST", namedPath, true},
		{simulator.Fault{Path: "/teams/*/authentication-token"}, "GET", legacyPath, true},
		{simulator.Fault{Path: "teams/*"}, "GET", legacyPath, false},
		{simulator.Fault{Path: legacyPath}, "GET", legacyPath, true},
		{simulator.Fault{Path: "authentication-tokens/at-*"}, "GET", "/api/v2/authentication-tokens/at-1", true},
		{simulator.Fault{Path: "team-tokens"}, "GET", list, true},
	} {
		r := start(t, simulator.Options{})
		row.fault.Status = 599
		r.Inject(row.fault)
		if got := r.do(row.method, row.path, "").status == 599; got != row.hit {
			t.Errorf("fault %s %q, request %s %s: hit is %v", row.fault.Method, row.fault.Path, row.method, row.path, got)
		}
	}
}

func TestFaultsQueue(t *testing.T) {
	r := start(t, simulator.Options{})
	r.Inject(simulator.Fault{Status: 500, Method: "DELETE"})
	twice := r.Inject(simulator.Fault{Status: 502, Times: 2})
	r.Inject(simulator.Fault{Status: 503})
	for i, want := range []int{502, 502, 503, 404} {
		if got := r.do("GET", legacyPath, "").status; got != want {
			t.Errorf("read %d: %d, want %d", i, got, want)
		}
		if i == 0 {
			select {
			case <-twice.Done():
				t.Error("done after its first hit of two")
			default:
			}
		}
	}
	within(t, "the end of both", twice.Done())
	if got := r.do("DELETE", legacyPath, "").status; got != 500 {
		t.Errorf("delete: %d", got)
	}

	always := r.Inject(simulator.Fault{Status: 504, Times: -1})
	for range 5 {
		if got := r.do("GET", legacyPath, "").status; got != 504 {
			t.Errorf("always: %d", got)
		}
	}
	r.Reset()
	if got := r.do("GET", legacyPath, "").status; got != 404 {
		t.Errorf("after Reset: %d", got)
	}
	select {
	case <-always.Done():
		t.Error("what has no end cannot be done")
	default:
	}
}

func TestContradictoryFaultsPanic(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"a pattern that is none":     {Path: "["},
		"an unknown apply":           {Apply: "later"},
		"an unknown drop":            {Drop: "yes"},
		"no answer":                  {Apply: simulator.ApplyNever},
		"a status that ends nothing": {Status: 100},
		"less than no body":          {Truncate: new(-1)},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			simulator.New(simulator.Options{}).Inject(fault)
		})
	}
}

func TestDropOverHTTP2(t *testing.T) { // where a connection cannot be taken over
	s := simulator.New(simulator.Options{})
	server := httptest.NewUnstartedServer(s)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	injected := s.Inject(simulator.Fault{Drop: simulator.DropRST})
	response, err := server.Client().Get(server.URL + legacyPath)
	if err == nil {
		_ = response.Body.Close()
		t.Errorf("answered %s over %s", response.Status, response.Proto)
	}
	within(t, "the end", injected.Done())
	if response, err = server.Client().Get(server.URL + legacyPath); err != nil || response.Proto != "HTTP/2.0" {
		t.Fatalf("%v, %v", response, err)
	}
	_ = response.Body.Close()
}
