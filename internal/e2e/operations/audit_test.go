package operations_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// The log of the program says these when the audit log changes its state.
const (
	openedAnew   = "the audit log is opened anew"
	cannotWrite  = "the audit log can't be written"
	canWriteAnew = "the audit log can be written again"
)

// auditTo is s with the audit log in a file.
func auditTo(s harness.Settings, file string, env ...string) harness.Settings {
	s.Env = append(append(s.Env, "TEAMTOKEN_AUDIT_FILE="+file), env...)
	return s
}

// auditedIn are the lines of audit logs, which must be whole and hold no secret.
func auditedIn(t *testing.T, s harness.Settings, files ...string) []audit.Record {
	t.Helper()
	var lines []audit.Record
	for _, file := range files {
		content := string(harness.Must(os.ReadFile(file)))
		harness.NoSecretIn(t, s, content)
		for line := range strings.Lines(content) {
			var r audit.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil || !strings.HasSuffix(line, "\n") || r.Event == "" {
				t.Errorf("%s: not a line of the audit log, %v: %q", file, err, line)
			}
			lines = append(lines, r)
		}
	}
	return lines
}

// linesIn are the lines of the audit log among others.
func linesIn(text string) []audit.Record {
	var lines []audit.Record
	for line := range strings.Lines(text) {
		var r audit.Record
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &r) == nil && r.Event != "" {
			lines = append(lines, r)
		}
	}
	return lines
}

// events are the lines of one call, in their order.
func events(lines []audit.Record, requestID string) (of []audit.Record, names string) {
	for _, r := range lines {
		if r.RequestID == requestID {
			of = append(of, r)
			names += " " + r.Event
		}
	}
	return of, strings.TrimSpace(names)
}

// marked names a call, for its audit lines to be found.
func marked(ctx context.Context, requestID string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-request-id", requestID)
}

// hangUp asks the program to open its audit log anew, and waits until it says
// that it has.
func hangUp(t *testing.T, f *harness.Server) {
	t.Helper()
	before := strings.Count(f.Stderr.String(), openedAnew)
	if err := f.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the audit log is opened anew", func() bool { return strings.Count(f.Stderr.String(), openedAnew) > before })
}

// ready checks that all who are asked say whether the program can do its work: a
// moment after it found out.
func ready(t *testing.T, f *harness.Server, want bool) {
	t.Helper()
	health, code, working := grpc_health_v1.HealthCheckResponse_SERVING, http.StatusOK, "teamtoken_audit_working 1\n"
	if !want {
		health, code, working = grpc_health_v1.HealthCheckResponse_NOT_SERVING, http.StatusServiceUnavailable, "teamtoken_audit_working 0\n"
	}
	harness.Eventually(t, fmt.Sprintf("/readyz answers %d", code), func() bool { got, _ := f.Get(t, "/readyz"); return got == code })
	harness.Eventually(t, "the metrics have "+working, func() bool { return strings.Contains(f.Metrics(), working) })
	for _, service := range []string{"", "teamtoken.v1.TeamTokenService"} {
		got, err := grpc_health_v1.NewHealthClient(f.Conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || got.GetStatus() != health {
			t.Errorf("health of %q: %v, %v, want %v", service, got, err, health)
		}
	}
	if got, _ := f.Get(t, "/livez"); got != http.StatusOK {
		t.Error("it is alive whatever becomes of the audit log")
	}
}

// unaudited makes calls that must be refused because they cannot be written
// down, over both surfaces.
func unaudited(t *testing.T, f *harness.Server, sim *simulator.Simulator) {
	t.Helper()
	sent := len(sim.Requests())
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for name, c := range map[string]struct {
		call    func() error
		outcome string
	}{
		"a change": {func() error {
			_, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			return err
		}, "not_applied"},
		"a read": {func() error {
			_, err := f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
			return err
		}, ""},
	} {
		err := c.call()
		d := apierror.FromStatus(status.Convert(err))
		if status.Code(err) != codes.Unavailable || d.Reason != "AUDIT_UNAVAILABLE" || d.Outcome != c.outcome {
			t.Errorf("%s that cannot be written down: %v, %+v", name, err, d)
		}
	}
	resp, err := f.HTTP.Do(f.Request(ctx, http.MethodPost, simulator.SeedTeam, secret.Text{}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if e := harness.ErrorsOf(t, resp); resp.StatusCode != http.StatusServiceUnavailable || e.Code != "AUDIT_UNAVAILABLE" || e.Meta.Outcome != "not_applied" {
		t.Errorf("over REST: %s, %+v", resp.Status, e)
	}
	if n := len(sim.Requests()); n != sent {
		t.Errorf("%d requests went upstream", n-sent)
	}
}

// Each call leaves what it was and what came of it, in a file that is its
// owner's alone.
func TestAuditFile(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	s := auditTo(harness.WithCallers(sim, url), file)
	f := harness.Start(t, s)
	me := harness.As(t.Context(), sim.UserToken())
	const upstreamID = "an-id-of-the-upstream"
	sim.Inject(simulator.Fault{Times: -1, Header: map[string]string{"X-Request-Id": upstreamID}})

	if _, err := f.Client.GenerateToken(marked(me, "call-0"), harness.Asking("key-0")); err != nil {
		t.Fatal(err)
	}
	req := f.Request(t.Context(), http.MethodGet, simulator.SeedTeam, sim.UserToken())
	req.Header.Set("X-Request-Id", "call-1")
	_ = harness.Must(f.HTTP.Do(req)).Body.Close()
	if _, err := f.Client.DeleteToken(marked(me, "call-2"), &teamtokenv1.DeleteTokenRequest{TeamId: simulator.Teams()[1].ID}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	id := sim.Minted()[0].ID
	if _, err := f.Client.GetTokenByID(marked(me, "call-3"), &teamtokenv1.GetTokenByIDRequest{TokenId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Client.ListTokens(marked(me, "call-4"), &teamtokenv1.ListTokensRequest{Organization: simulator.Organization}); err != nil {
		t.Fatal(err)
	}

	lines := auditedIn(t, s, file)
	if len(lines) != 10 {
		t.Errorf("%d lines, want two of each call", len(lines))
	}
	who := ""
	for i, want := range []audit.Record{
		{Method: "GenerateToken", Surface: "grpc", Team: simulator.SeedTeam, TokenID: id, IdempotencyKey: "key-0", Code: "OK", Outcome: "applied"},
		{Method: "GetToken", Surface: "rest", Team: simulator.SeedTeam, TokenID: id, Code: "OK"},
		{Method: "DeleteToken", Surface: "grpc", Team: simulator.Teams()[1].ID, Code: "NotFound", Reason: "TEAM_NOT_FOUND_OR_FORBIDDEN", Outcome: "not_applied"},
		{Method: "GetTokenByID", Surface: "grpc", Team: simulator.SeedTeam, TokenID: id, Code: "OK"},
		{Method: "ListTokens", Surface: "grpc", Organization: simulator.Organization, Code: "OK"},
	} {
		of, names := events(lines, fmt.Sprintf("call-%d", i))
		if names != "attempt outcome" {
			t.Fatalf("%s: %s", want.Method, names)
		}
		attempt, outcome := of[0], of[1]
		for _, r := range of {
			if r.Time.IsZero() || time.Since(r.Time).Abs() > time.Minute || !strings.HasPrefix(r.Peer, "127.0.0.1:") {
				t.Errorf("%s: %s at %v from %q", want.Method, r.Event, r.Time, r.Peer)
			}
			if who == "" {
				who = r.Caller
			}
			if r.Caller != who || !strings.HasPrefix(who, "credential#") || r.VerifiedBy != "credential" || r.Decision != "allow" {
				t.Errorf("%s: %s by %q, who was verified by %q: %q", want.Method, r.Event, r.Caller, r.VerifiedBy, r.Decision)
			}
		}
		if attempt.Code != "" || attempt.Outcome != "" || attempt.UpstreamRequestID != "" || attempt.Duration != 0 {
			t.Errorf("%s: the attempt knows the outcome: %+v", want.Method, attempt)
		}
		if outcome.UpstreamRequestID != upstreamID || outcome.Duration <= 0 || outcome.Duration > harness.Patience {
			t.Errorf("%s: the outcome has upstream's id %q and took %v", want.Method, outcome.UpstreamRequestID, outcome.Duration)
		}
		got := audit.Record{
			Method: outcome.Method, Surface: outcome.Surface, Team: outcome.Team, Organization: outcome.Organization,
			TokenID: outcome.TokenID, IdempotencyKey: outcome.IdempotencyKey, Code: outcome.Code, Reason: outcome.Reason, Outcome: outcome.Outcome,
		}
		if got != want {
			t.Errorf("the outcome is\n%+v, want\n%+v", got, want)
		}
	}
	if mode := harness.Must(os.Stat(file)).Mode().Perm(); mode != 0o600 {
		t.Errorf("the file's mode is %v", mode)
	}
	if n := len(f.Audited()); n != 0 {
		t.Errorf("%d lines are on standard output too", n)
	}
	ready(t, f, true)
}

// What stops the audit log from being opened stops the program from starting.
func TestAuditThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, file, env, want string }{
		{"a directory that is not there", filepath.Join(dir, "not", "there"), "", filepath.Join(dir, "not", "there")},
		{"a directory", dir, "", dir},
		{"a pipe that nobody reads", fifo, "", fifo},
		{"what cannot be synced", "/dev/full", "TEAMTOKEN_AUDIT_SYNC=true", "no disk"},
		{"standard output that cannot be synced", "-", "TEAMTOKEN_AUDIT_SYNC=true", "no disk"},
		{"a collector that cannot be synced", "otlp", "TEAMTOKEN_AUDIT_SYNC=true", "no disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, harness.Binary)
			cmd.Env = append(auditTo(harness.WithCallers(sim, url), c.file, c.env).Env, "TFE_ADDRESS="+url,
				"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Count(stderr.String(), "\n") != 1 ||
				!strings.Contains(stderr.String(), "TEAMTOKEN_AUDIT_FILE") || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("%v, %s", err, stderr.String())
			}
		})
	}
}

// With a disk that is full, nothing is done that could not be written down.
func TestAuditDiskIsFull(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, auditTo(harness.WithService(sim, url), "/dev/full"))
	ready(t, f, true) // nobody knows yet
	unaudited(t, f, sim)
	ready(t, f, false)
	harness.Eventually(t, "the log says so", func() bool { return strings.Contains(f.Stderr.String(), cannotWrite) })
	unaudited(t, f, sim)
	if n := len(sim.Minted()); n != 0 {
		t.Errorf("%d tokens were made", n)
	}
}

// Whoever reads the audit log from standard output may go away: that is no end
// of the program, which from then on refuses every call.
func TestAuditReaderGoesAway(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "stdout")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	runBy(t, `exec "$@" >'`+fifo+"'")
	opened := make(chan *os.File, 1)
	go func() { opened <- harness.Must(os.Open(fifo)) }() // which waits for the writer, as that does for this
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	reader := <-opened

	if _, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(reader)
	for range 2 {
		if !lines.Scan() || !json.Valid(lines.Bytes()) {
			t.Fatalf("%q, %v", lines.Text(), lines.Err())
		}
	}
	ready(t, f, true)
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		unaudited(t, f, sim)
	}
	ready(t, f, false)
	select {
	case <-f.Exited:
		t.Error("the program ended")
	default:
	}
	if code := f.Stop(t, harness.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// When the audit log fails between a change and its answer, the caller has its
// token all the same: it is made, and nobody else has it. The outcome is written
// to standard error, and no more is begun until the log can be written again.
func TestAuditFailsUnderACall(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	dir := t.TempDir()
	at, file, later := filepath.Join(dir, "audit"), filepath.Join(dir, "audit.0"), filepath.Join(dir, "audit.1")
	harness.Link(t, file, at)
	s := auditTo(harness.WithService(sim, url), at)
	f := harness.Start(t, s)

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Hold: release})
	var call sync.WaitGroup
	call.Go(func() {
		resp, err := f.Client.GenerateToken(marked(context.Background(), "held"), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
		if err != nil || resp.GetSecret() != sim.Minted()[0].Secret.Reveal() {
			t.Errorf("the caller did not get the token that was made: %v", err)
		}
	})
	<-fault.Hit()
	harness.Link(t, "/dev/full", at)
	hangUp(t, f)
	ready(t, f, true) // nobody knows yet
	close(release)
	call.Wait()

	id := sim.Minted()[0].ID
	harness.Eventually(t, "the outcome is on standard error", func() bool { _, names := events(linesIn(f.Stderr.String()), "held"); return names == "outcome" })
	if of, _ := events(linesIn(f.Stderr.String()), "held"); of[0].TokenID != id || of[0].Outcome != "applied" {
		t.Errorf("standard error has of it: %+v", of[0])
	}
	if _, names := events(auditedIn(t, s, file), "held"); names != "attempt" {
		t.Errorf("the file has %q of it", names)
	}
	ready(t, f, false)
	unaudited(t, f, sim)

	harness.Link(t, later, at)
	hangUp(t, f)
	ready(t, f, true) // without a call, which nobody makes who is not ready
	if _, err := f.Client.GenerateToken(marked(t.Context(), "after"), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Error(err)
	}
	lines := auditedIn(t, s, later)
	if _, names := events(lines, "after"); names != "attempt outcome" {
		t.Errorf("the new file has %q of the call after", names)
	}
	if lines[0].Event != audit.EventResumed {
		t.Errorf("the new file begins with %q", lines[0].Event)
	}
	harness.Eventually(t, fmt.Sprintf("the %d lines that it says were lost are on standard error", lines[0].Lost), func() bool {
		return len(linesIn(f.Stderr.String())) == lines[0].Lost
	})
	harness.Eventually(t, "the log says that it works again", func() bool { return strings.Contains(f.Stderr.String(), canWriteAnew) })
}

// An audit log that takes nothing and refuses nothing hangs nobody for ever: a
// call is refused in time, and when the log is read again calls are made again.
func TestAuditIsBlocked(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "audit")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := harness.Must(os.OpenFile(fifo, os.O_RDWR, 0)) // so that it can be opened, and is not read
	defer pipe.Close()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, auditTo(harness.WithService(sim, url), fifo))
	call := func(requestID string) error {
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		_, err := f.Client.GetToken(marked(ctx, requestID), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return err
	}
	var err error
	for n := 0; n < 1000; n++ { // far more than the pipe holds
		if err = call(fmt.Sprintf("fill-%d", n)); status.Code(err) != codes.NotFound {
			break
		}
	}
	if apierror.FromStatus(status.Convert(err)).Reason != "AUDIT_UNAVAILABLE" {
		t.Fatalf("a call that cannot be written down: %v", err)
	}
	ready(t, f, false)
	sent := len(sim.Requests())
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			if err := call(fmt.Sprintf("blocked-%d", i)); apierror.FromStatus(status.Convert(err)).Reason != "AUDIT_UNAVAILABLE" {
				t.Errorf("one of many that cannot: %v", err)
			}
		})
	}
	calls.Wait()
	if n := len(sim.Requests()); n != sent {
		t.Errorf("%d requests went upstream", n-sent)
	}
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, pipe) }()
	ready(t, f, true)
	if err := call("unblocked"); status.Code(err) != codes.NotFound {
		t.Errorf("once it is read: %v", err)
	}
	f.Stop(t, harness.Patience)
	_ = pipe.SetReadDeadline(time.Now())
	<-drained
}

// Whoever rotates the log moves it away and sends SIGHUP, while calls go on: no
// line is lost, none is there twice, and each attempt has its outcome.
func TestAuditRotation(t *testing.T) {
	t.Parallel()
	for _, sync := range []string{"false", "true"} {
		t.Run("sync "+sync, func(t *testing.T) { testAuditRotation(t, sync) })
	}
}

func testAuditRotation(t *testing.T, synced string) {
	sim, url := harness.NewSimulator(t)
	file := filepath.Join(t.TempDir(), "audit")
	s := auditTo(harness.WithService(sim, url), file, "TEAMTOKEN_AUDIT_SYNC="+synced)
	f := harness.Start(t, s)
	const callers, rotations = 8, 5
	ended := make(chan struct{})
	made := make([]int, callers)
	var calls sync.WaitGroup
	for c := range callers {
		calls.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				ctx := marked(context.Background(), fmt.Sprintf("call-%d-%d", c, made[c]))
				if _, err := f.Client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
					TeamId: simulator.Teams()[c%len(simulator.Teams())].ID, Description: new(fmt.Sprintf("%d %d", c, made[c])),
				}); err != nil {
					t.Errorf("a call during rotation: %v", err)
					return
				}
				made[c]++
			}
		})
	}
	files := []string{}
	for i := range rotations {
		lines := len(sim.Minted())
		harness.Eventually(t, "calls go on", func() bool { return len(sim.Minted()) > lines+callers })
		files = append(files, fmt.Sprintf("%s.%d", file, i))
		if err := os.Rename(file, files[i]); err != nil {
			t.Fatal(err)
		}
		hangUp(t, f)
	}
	close(ended)
	calls.Wait()
	files = append(files, file)
	tokens := map[string]bool{}
	of := map[string][]string{}
	for _, r := range auditedIn(t, s, files...) {
		of[r.RequestID] = append(of[r.RequestID], r.Event)
		if r.Event == audit.EventOutcome {
			tokens[r.TokenID] = true
		}
	}
	for c := range callers {
		for i := range made[c] {
			id := fmt.Sprintf("call-%d-%d", c, i)
			if got := of[id]; !slices.Equal(got, []string{audit.EventAttempt, audit.EventOutcome}) {
				t.Errorf("%s left %v", id, got)
			}
			delete(of, id)
		}
	}
	if len(of) != 0 {
		t.Errorf("lines of calls that nobody made: %v", slices.Collect(maps.Keys(of)))
	}
	for _, m := range sim.Minted() {
		if !tokens[m.ID] {
			t.Errorf("token %s was made, and no line tells of it", m.ID)
		}
	}
	t.Logf("%d calls, %d files", len(sim.Minted()), len(files))
}

// Who left is answered in the log, and told of again when it is known what
// became of his change.
func TestAuditOfACallerWhoLeft(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Hold: release, Apply: simulator.ApplyLate, Header: map[string]string{"X-Request-Id": "late-upstream"}})
	ctx, leave := context.WithCancel(marked(t.Context(), "left"))
	var call sync.WaitGroup
	call.Go(func() {
		if _, err := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); status.Code(err) != codes.Canceled {
			t.Errorf("the caller left: %v", err)
		}
	})
	<-fault.Hit()
	leave()
	call.Wait()
	harness.Eventually(t, "the outcome is written", func() bool { _, names := events(f.Audited(), "left"); return names == "attempt outcome" })
	close(release)
	harness.Eventually(t, "what came later is written", func() bool { _, names := events(f.Audited(), "left"); return names == "attempt outcome late" })
	of, _ := events(f.Audited(), "left")
	outcome, late := of[1], of[2]
	if outcome.Code != "DeadlineExceeded" || outcome.Reason != "UPSTREAM_TIMEOUT" || outcome.Outcome != "unknown" || outcome.TokenID != "" || outcome.Duration <= 0 {
		t.Errorf("what the caller was told: %+v", outcome)
	}
	if late.Code != "OK" || late.Reason != "" || late.Outcome != "applied_undelivered" || late.TokenID != sim.Minted()[0].ID ||
		late.UpstreamRequestID != "late-upstream" || late.Team != simulator.SeedTeam || late.Duration != 0 {
		t.Errorf("what became of it: %+v", late)
	}
}

// Each call that is refused leaves one line, whatever it is refused for.
func TestAuditOfRefusals(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	file := filepath.Join(t.TempDir(), "audit")
	s := auditTo(harness.WithCallers(sim, url), file, "TEAMTOKEN_MAX_CALLS_PER_CALLER=1")
	f, client := harness.Start(t, s), harness.HTTP2(t)
	me := [2]string{"authorization", "Bearer " + sim.UserToken().Reveal()}
	named := func(id string) [2]string { return [2]string{"x-request-id", id} }
	message := harness.Frame(harness.Text(1, harness.Team))
	over := func(t *testing.T, id string, headers ...string) {
		t.Helper()
		resp, _ := f.SendREST(t, harness.RawRequest{Method: "DELETE", Target: harness.TokenPath, Headers: append(headers, "X-Request-Id: "+id)})
		if resp.StatusCode < 400 {
			t.Fatalf("it is not refused: %s", resp.Status)
		}
	}
	check := func(t *testing.T, id string, want audit.Record) {
		t.Helper()
		of, names := events(auditedIn(t, s, file), id)
		if names != audit.EventRefusal {
			t.Fatalf("the lines are %q", names)
		}
		got := of[0]
		if got.Time.IsZero() || !strings.HasPrefix(got.Peer, "127.0.0.1:") || got.Duration <= 0 || got.Outcome != "not_applied" {
			t.Errorf("the line lacks something: %+v", got)
		}
		if strings.HasPrefix(got.Caller, "credential#") {
			got.Caller = "credential#"
		}
		got = audit.Record{Surface: got.Surface, Method: got.Method, Team: got.Team, Caller: got.Caller, Code: got.Code, Reason: got.Reason}
		if got != want {
			t.Errorf("the line is\n%+v, want\n%+v", got, want)
		}
	}

	t.Run("nobody", func(t *testing.T) {
		f.SendGRPC(t, client, harness.Generate, [][2]string{named("nobody-grpc")}, message)
		check(t, "nobody-grpc", audit.Record{Surface: "grpc", Method: "GenerateToken", Code: "Unauthenticated", Reason: "CALLER_UNAUTHENTICATED"})
		over(t, "nobody-rest")
		check(t, "nobody-rest", audit.Record{Surface: "rest", Method: "DeleteToken", Code: "Unauthenticated", Reason: "CALLER_UNAUTHENTICATED"})
	})
	t.Run("a malformed message", func(t *testing.T) {
		f.SendGRPC(t, client, harness.Generate, [][2]string{named("malformed"), me}, harness.Frame([]byte{0xff}))
		check(t, "malformed", audit.Record{Surface: "grpc", Method: "GenerateToken", Caller: "credential#", Code: "InvalidArgument", Reason: "INVALID_FIELD"})
	})

	release := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Hold: release})
	var held sync.WaitGroup
	held.Go(func() {
		if _, err := f.Client.GenerateToken(harness.As(context.Background(), sim.UserToken()), &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}); err != nil {
			t.Errorf("a call that was under way: %v", err)
		}
	})
	<-fault.Hit()
	t.Run("over the cap", func(t *testing.T) {
		f.SendGRPC(t, client, harness.Generate, [][2]string{named("cap-grpc"), me}, message)
		check(t, "cap-grpc", audit.Record{Surface: "grpc", Method: "GenerateToken", Caller: "credential#", Code: "ResourceExhausted", Reason: "CALLER_QUOTA_EXCEEDED"})
		over(t, "cap-rest", "Authorization: "+me[1])
		check(t, "cap-rest", audit.Record{Surface: "rest", Method: "DeleteToken", Caller: "credential#", Code: "ResourceExhausted", Reason: "CALLER_QUOTA_EXCEEDED"})
	})
	t.Run("shutting down", func(t *testing.T) {
		// Both calls have come before it, and their messages come after.
		late := f.Dial(t)
		stream, err := late.NewStream(marked(harness.As(t.Context(), sim.UserToken()), "stop-grpc"), &grpc.StreamDesc{StreamName: "GenerateToken"}, harness.Generate)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := grpc_health_v1.NewHealthClient(late).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Fatal(err) // it has come after the stream on the same connection
		}
		raw := harness.Must(net.Dial("tcp", strings.TrimPrefix(f.REST, "http://")))
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(harness.Patience))
		harness.Say(t, raw, "DELETE "+harness.TokenPath+" HTTP/1.1\r\nHost: x\r\nX-Request-Id: stop-rest\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
		answers := bufio.NewReader(raw)
		if line, err := answers.ReadString('\n'); !strings.Contains(line, "100") {
			t.Fatalf("%q, %v", line, err)
		}
		f.Terminate()
		harness.Eventually(t, "it is stopping", func() bool { return strings.Contains(f.Stderr.String(), `"stopping`) })
		if err := errors.Join(stream.SendMsg(&teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}), stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
		err = stream.RecvMsg(&teamtokenv1.GenerateTokenResponse{})
		if got := apierror.FromStatus(status.Convert(err)).Reason; got != "SHUTTING_DOWN" {
			t.Fatalf("%v", err)
		}
		check(t, "stop-grpc", audit.Record{Surface: "grpc", Method: "GenerateToken", Code: "Unavailable", Reason: "SHUTTING_DOWN"})
		harness.Say(t, raw, " ")
		if body, err := io.ReadAll(answers); err != nil || !bytes.Contains(body, []byte("SHUTTING_DOWN")) {
			t.Fatalf("%q, %v", body, err)
		}
		check(t, "stop-rest", audit.Record{Surface: "rest", Method: "DeleteToken", Code: "Unavailable", Reason: "SHUTTING_DOWN"})
	})
	close(release)
	held.Wait()
	if n := len(sim.Requests()); n != 1 {
		t.Errorf("%d requests went upstream", n)
	}
}

// What the policy decided, and by which rule, is in the log: also of a call whose
// team is known only when its token was read.
func TestAuditOfThePolicy(t *testing.T) {
	t.Parallel()
	const alice = "spiffe://teamtoken.test/alice"
	hers, not := simulator.Teams()[1].ID, simulator.Teams()[2].ID
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	rules := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(rules, []byte("rules:\n  - {name: hers, callers: ["+alice+"], methods: ['*'], teams: ["+hers+"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "audit")
	s := auditTo(harness.Settings{Sim: sim, Upstream: url, TLS: a, Env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_TLS_CLIENT_CA_FILE=" + a.CAFile,
		"TEAMTOKEN_TLS_CLIENT_AUTH=optional", "TEAMTOKEN_POLICY_FILE=" + rules,
	}}, file)
	f := harness.Start(t, s)
	client := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, a.ClientCert(t, alice)))
	made := map[string]string{} // ids by team
	for _, team := range []string{hers, not} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v2/teams/"+team+"/authentication-token", nil)
		req.Header.Set("Authorization", "Bearer "+sim.OwnerToken().Reveal())
		sim.ServeHTTP(httptest.NewRecorder(), req)
		minted := sim.Minted()
		made[team] = minted[len(minted)-1].ID
	}
	sim.Reset()

	for _, c := range []struct {
		name, events, decision, rule, team string
		code                               codes.Code
		call                               func(ctx context.Context) error
	}{
		{"her team", "attempt outcome", "allow", "hers", hers, codes.OK, func(ctx context.Context) error {
			_, err := client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: hers})
			return err
		}},
		{"another", "refusal", "deny", "", not, codes.PermissionDenied, func(ctx context.Context) error {
			_, err := client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: not})
			return err
		}},
		{"a token of her team", "attempt outcome", "allow", "hers", hers, codes.OK, func(ctx context.Context) error {
			_, err := client.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: made[hers]})
			return err
		}},
		{"a token of another", "attempt refusal", "deny", "", not, codes.NotFound, func(ctx context.Context) error {
			_, err := client.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: made[not]})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := strings.ReplaceAll(c.name, " ", "-")
			if err := c.call(marked(t.Context(), id)); status.Code(err) != c.code {
				t.Errorf("%v, want %v", err, c.code)
			}
			of, names := events(auditedIn(t, s, file), id)
			if names != c.events {
				t.Fatalf("the lines are %q, want %q", names, c.events)
			}
			last := of[len(of)-1]
			if last.Decision != c.decision || last.Rule != c.rule || last.Team != c.team || last.Caller != alice || last.VerifiedBy != "mtls" {
				t.Errorf("the last line is %+v", last)
			}
			if of[0].TokenID != "" && of[0].Decision != "pending" {
				t.Errorf("the attempt is decided before the team is known: %+v", of[0])
			}
		})
	}
	for _, m := range sim.Minted() {
		if m.Live != (m.Team == not) {
			t.Errorf("the token of team %s: live %v", m.Team, m.Live)
		}
	}
	for _, r := range sim.Requests() {
		if r.Method != http.MethodGet && !strings.HasSuffix(r.Path, made[hers]) {
			t.Errorf("%s %s went upstream", r.Method, r.Path)
		}
	}
}

// logCollector is one of OpenTelemetry logs.
type logCollector struct {
	collectorv1.UnimplementedLogsServiceServer
	mu     sync.Mutex
	bodies []string
	names  []string
}

func (c *logCollector) Export(_ context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range req.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, r := range scope.GetLogRecords() {
				c.bodies = append(c.bodies, r.GetBody().GetStringValue()+"\n")
				c.names = append(c.names, r.GetEventName())
			}
		}
	}
	return &collectorv1.ExportLogsServiceResponse{}, nil
}

func (c *logCollector) lines() []audit.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return linesIn(strings.Join(c.bodies, ""))
}

// serve has the collector listen until the function that is returned is called.
func (c *logCollector) serve(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	listener := harness.Must(net.Listen("tcp", address))
	server := grpc.NewServer()
	collectorv1.RegisterLogsServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	stop = sync.OnceFunc(func() { server.Stop(); serving.Wait() })
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// The audit log can be a collector of OpenTelemetry logs, whose variables are
// those of OpenTelemetry. Without it no call is made, and with it again they are.
func TestAuditToACollector(t *testing.T) {
	t.Parallel()
	var c logCollector
	at, stop := c.serve(t, "127.0.0.1:0")
	sim, url := harness.NewSimulator(t)
	s := auditTo(harness.WithService(sim, url), "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+at)
	f := harness.Start(t, s)
	if _, err := f.Client.GenerateToken(marked(t.Context(), "first"), &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}); err != nil {
		t.Fatal(err)
	}
	of, names := events(c.lines(), "first")
	if names != "attempt outcome" || of[1].TokenID != sim.Minted()[0].ID || of[1].Team != harness.Team || of[1].Outcome != "applied" {
		t.Errorf("the collector has %q: %+v", names, of)
	}
	if !slices.Equal(c.names, []string{audit.EventAttempt, audit.EventOutcome}) {
		t.Errorf("the records are named %v", c.names)
	}
	ready(t, f, true)

	stop()
	unaudited(t, f, sim)
	ready(t, f, false)
	_, _ = c.serve(t, at)
	ready(t, f, true)
	if _, err := f.Client.GenerateToken(marked(t.Context(), "second"), &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team}); err != nil {
		t.Errorf("with the collector again: %v", err)
	}
	if _, names := events(c.lines(), "second"); names != "attempt outcome" {
		t.Errorf("the collector has %q of the call after", names)
	}
	harness.NoSecretIn(t, s, strings.Join(c.bodies, ""))
}
