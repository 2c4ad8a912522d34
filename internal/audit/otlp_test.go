package audit_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/teamtoken/teamtoken/internal/audit"
)

// collector is an OpenTelemetry collector, as far as logs go.
type collector struct {
	collectorv1.UnimplementedLogsServiceServer
	server  *grpc.Server
	address string

	mu       sync.Mutex
	answer   func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error)
	records  []*logsv1.LogRecord
	service  []string
	header   string
	requests int
}

func (c *collector) Export(ctx context.Context, r *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	answer := &collectorv1.ExportLogsServiceResponse{}
	if c.answer != nil {
		partial, err := c.answer(ctx)
		if err != nil {
			return nil, err
		}
		answer.PartialSuccess = partial
	}
	if answer.GetPartialSuccess().GetRejectedLogRecords() == 0 {
		c.take(ctx, r)
	}
	return answer, nil
}

func (c *collector) take(ctx context.Context, r *collectorv1.ExportLogsServiceRequest) {
	if v := metadata.ValueFromIncomingContext(ctx, "x-tenant"); len(v) == 1 {
		c.header = v[0]
	}
	for _, resource := range r.GetResourceLogs() {
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.service = append(c.service, a.GetValue().GetStringValue())
			}
		}
		for _, scope := range resource.GetScopeLogs() {
			c.records = append(c.records, scope.GetLogRecords()...)
		}
	}
}

// lines are the bodies of all records.
func (c *collector) lines() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, r := range c.records {
		b.WriteString(r.GetBody().GetStringValue() + "\n")
	}
	return b.String()
}

func (c *collector) answers(f func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

// collect serves a collector, and has the environment name it.
func collect(t *testing.T, address string) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{server: grpc.NewServer(), address: listener.Addr().String()}
	collectorv1.RegisterLogsServiceServer(c.server, c)
	served := make(chan error, 1)
	go func() { served <- c.server.Serve(listener) }()
	t.Cleanup(func() {
		c.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+c.address)
	return c
}

func TestOTLP(t *testing.T) {
	c := collect(t, "127.0.0.1:0")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=security")
	l := open(t, audit.Options{Destination: audit.OTLP})
	records := day()
	want := ""
	for _, r := range records {
		line, _ := r.MarshalJSON()
		want += string(line) + "\n"
		if r.Event != audit.EventAttempt {
			l.Outcome(&r)
		} else if err := l.Attempt(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
	}
	if c.lines() != want {
		t.Errorf("bodies:\n%swant:\n%s", c.lines(), want)
	}
	if c.header != "security" || slices.ContainsFunc(c.service, func(s string) bool { return s != "teamtoken" }) || len(c.service) == 0 {
		t.Errorf("header %q, services %q", c.header, c.service)
	}
	for i, r := range c.records {
		want := logsv1.SeverityNumber_SEVERITY_NUMBER_INFO
		if records[i].Event == audit.EventRefusal || records[i].Event == audit.EventRefusals {
			want = logsv1.SeverityNumber_SEVERITY_NUMBER_WARN
		}
		if r.GetEventName() != records[i].Event || r.GetSeverityNumber() != want || int64(r.GetTimeUnixNano()) != records[i].Time.UnixNano() {
			t.Errorf("line %d is %v", i, r)
		}
	}
}

func TestOTLPServiceNameOfTheEnvironment(t *testing.T) {
	c := collect(t, "127.0.0.1:0")
	t.Setenv("OTEL_SERVICE_NAME", "teamtoken-eu")
	l := open(t, audit.Options{Destination: audit.OTLP})
	l.Outcome(outcome("1"))
	expect(t, "services", c.service, "teamtoken-eu")
}

func TestOTLPThatFails(t *testing.T) {
	for _, row := range []struct {
		name, want string
		answer     func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error)
	}{
		{"it refuses", "full", func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
			return nil, status.Error(codes.Internal, "full")
		}},
		{"it refuses for now, too long", "busy", func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
			return nil, status.Error(codes.Unavailable, "busy")
		}},
		{"it takes only a part", "too large", func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
			return &collectorv1.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "too large"}, nil
		}},
		{"it does not answer", "deadline", func(ctx context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := collect(t, "127.0.0.1:0")
			c.answers(row.answer)
			l := open(t, audit.Options{Destination: audit.OTLP})
			start := time.Now()
			err := l.Attempt(t.Context(), attempt("1"))
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), row.want) || time.Since(start) > 2*patience {
				t.Errorf("%v, after %s", err, time.Since(start))
			}
			l.next(t)
			c.answers(nil)
			l.next(t) // by itself
			// An export that nobody waits for any more may come in, too.
			expect(t, "lines", slices.Compact(told(t, c.lines())), "resumed 0")
		})
	}
}

func TestOTLPCollectorThatOnlyWarns(t *testing.T) {
	c := collect(t, "127.0.0.1:0")
	c.answers(func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
		return &collectorv1.ExportLogsPartialSuccess{ErrorMessage: "old version"}, nil
	})
	l := open(t, audit.Options{Destination: audit.OTLP})
	if err := l.Attempt(t.Context(), attempt("1")); err != nil {
		t.Error(err)
	}
	expect(t, "lines", told(t, c.lines()), "attempt 1")
}

func TestOTLPCollectorThatRestarts(t *testing.T) {
	c := collect(t, "127.0.0.1:0")
	l := open(t, audit.Options{Destination: audit.OTLP})
	if err := l.Attempt(t.Context(), attempt("1")); err != nil {
		t.Fatal(err)
	}
	c.server.Stop()
	if err := l.Attempt(t.Context(), attempt("2")); err == nil {
		t.Error("nobody took it")
	}
	l.Outcome(outcome("2"))
	expect(t, "on standard error", told(t, l.stderr.String()), "outcome 2")
	l.next(t)
	again := collect(t, c.address)
	l.next(t)
	if err := l.Attempt(t.Context(), attempt("3")); err != nil {
		t.Error(err)
	}
	lost := 0 // it may be told in two lines, if it was under way as the collector came back
	lines := parsed(t, again.lines())
	for _, r := range lines {
		lost += r.Lost
	}
	if lost != 1 || lines[0].Event != audit.EventResumed || lines[len(lines)-1].RequestID != "3" {
		t.Errorf("lines: %q", told(t, again.lines()))
	}
}

// A collector takes 4 MiB at once, as gRPC does unless it is told to take more.
func TestOTLPInParts(t *testing.T) {
	c := collect(t, "127.0.0.1:0")
	entered, release := make(chan struct{}), make(chan struct{})
	c.answers(func(context.Context) (*collectorv1.ExportLogsPartialSuccess, error) {
		entered <- struct{}{}
		<-release
		return nil, nil
	})
	l := open(t, audit.Options{Destination: audit.OTLP})
	var group sync.WaitGroup
	group.Go(func() { l.Outcome(outcome("first")) })
	<-entered
	const lines = 2000
	long := strings.Repeat("x", 256)
	started := make(chan struct{}, lines)
	for i := range lines {
		group.Go(func() {
			started <- struct{}{}
			r := audit.Record{Event: audit.EventAttempt, RequestID: fmt.Sprint(i), Team: long, Rule: long, Caller: long, Peer: long}
			if err := l.Attempt(t.Context(), &r); err != nil {
				t.Error(err)
			}
		})
	}
	for range lines {
		<-started
	}
	go func() {
		for range entered {
		}
	}()
	close(release)
	group.Wait()
	if n := len(told(t, c.lines())); n != lines+1 || l.stderr.String() != "" {
		t.Errorf("%d lines, and on standard error %q", n, l.stderr.String())
	}
	if c.requests < 3 || c.requests > 20 {
		t.Errorf("%d requests", c.requests)
	}
}
