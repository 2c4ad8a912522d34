package telemetry

import (
	"context"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

// buckets reach from a call refused at once to the longest that is allowed.
var buckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Metrics are what the program counts.
type Metrics struct {
	registry *prometheus.Registry
	meter    metric.Meter
	failed   error // the first instrument that could not be made

	rpc      durations[rpcLabels]
	upstream durations[UpstreamLabels]
	store    durations[storeLabels]
	wait     durations[string]
	failures counts[failureLabels]
	replays  counts[string]
	redrives counts[string]
	resolved counts[string]
	rejected counts[string]
	reloads  counts[reloadLabels]
	audit    metric.Int64Gauge
	state    metric.Int64Gauge
	diverted metric.Int64Counter
	counted  metric.Int64Counter
	refused  metric.Int64Counter
}

type (
	rpcLabels struct {
		method string
		code   codes.Code
	}
	storeLabels   struct{ step, failure string }
	failureLabels struct{ method, reason, outcome string }
	reloadLabels  struct{ setting, result string }
)

// UpstreamLabels are what a request to the upstream is counted by.
type UpstreamLabels struct {
	Method, Template string // GET, and its path with the ids' names
	Status           int    // 0 without an answer
	Failure          string // empty if it went well
	Address          string // of the upstream
	Port             int
}

func newMetrics(meter metric.Meter, registry *prometheus.Registry) (*Metrics, error) {
	m := &Metrics{registry: registry, meter: meter}
	m.rpc = durations[rpcLabels]{m.histogram(rpcDuration), attributeCache[rpcLabels]{of: func(l rpcLabels) []attribute.KeyValue {
		name := code.Code(l.code).String() //nolint:gosec // there are seventeen
		set := []attribute.KeyValue{
			attribute.String(labelSystem, "grpc"), attribute.String(labelMethod, l.method), attribute.String(labelCode, name),
		}
		if l.code == codes.OK {
			return set
		}
		return withError(set, name)
	}}}
	m.upstream = durations[UpstreamLabels]{m.histogram(httpDuration), attributeCache[UpstreamLabels]{of: func(l UpstreamLabels) []attribute.KeyValue {
		set := []attribute.KeyValue{
			attribute.String(labelHTTPMethod, l.Method), attribute.String(labelTemplate, l.Template),
			attribute.String(labelAddress, l.Address), attribute.Int(labelPort, l.Port),
		}
		if l.Status != 0 {
			set = append(set, attribute.Int(labelHTTPStatus, l.Status))
		}
		return withError(set, l.Failure)
	}}}
	m.store = durations[storeLabels]{m.histogram(storeDuration), attributeCache[storeLabels]{of: func(l storeLabels) []attribute.KeyValue {
		return withError([]attribute.KeyValue{attribute.String(labelDBSystem, "redis"), attribute.String(labelDBStep, l.step)}, l.failure)
	}}}
	m.wait = durations[string]{m.histogram(budgetWait), labelled(labelKind)}
	m.failures = counts[failureLabels]{m.counter(failures), attributeCache[failureLabels]{of: func(l failureLabels) []attribute.KeyValue {
		return []attribute.KeyValue{
			attribute.String(labelMethod, l.method), attribute.String(labelReason, l.reason), attribute.String(labelOutcome, l.outcome),
		}
	}}}
	m.replays = counts[string]{m.counter(replays), labelled(labelKind)}
	m.redrives = counts[string]{m.counter(redrives), labelled(labelKind)}
	m.resolved = counts[string]{m.counter(settled), labelled(labelOutcome)}
	m.rejected = counts[string]{m.counter(stateRejected), labelled(labelKind)}
	m.reloads = counts[reloadLabels]{m.counter(reloads), attributeCache[reloadLabels]{of: func(l reloadLabels) []attribute.KeyValue {
		return []attribute.KeyValue{attribute.String(labelSetting, l.setting), attribute.String(labelResult, l.result)}
	}}}
	m.audit, m.state = m.gauge(auditWorking), m.gauge(stateWorking)
	m.diverted, m.refused = m.counter(auditLost), m.counter(connectionsRefused)
	for _, kind := range []string{"change", "known", "record", "answer"} {
		m.rejected.counter.Add(context.Background(), 0, m.rejected.labels.options(kind).add...)
	}
	m.Audit(true)
	m.State(true)
	m.counted = m.counter(auditCounted)
	m.diverted.Add(context.Background(), 0)
	m.counted.Add(context.Background(), 0)
	m.refused.Add(context.Background(), 0)
	return m, m.failed
}

// RPC counts a call that has ended. method is its full name, without a slash in front.
func (m *Metrics) RPC(ctx context.Context, method string, code codes.Code, d time.Duration) {
	m.rpc.record(ctx, rpcLabels{method, code}, d)
}

// Failed counts a call that failed, by what its caller is told.
func (m *Metrics) Failed(ctx context.Context, method, reason, outcome string) {
	m.failures.add(ctx, failureLabels{method, reason, outcome})
}

// Upstream counts a request to the upstream that has ended.
func (m *Metrics) Upstream(ctx context.Context, l UpstreamLabels, d time.Duration) {
	m.upstream.record(ctx, l, d)
}

// Waited counts a request to the upstream that waited for a slot at the rate limit.
func (m *Metrics) Waited(ctx context.Context, changes bool, d time.Duration) {
	kind := "read"
	if changes {
		kind = "change"
	}
	m.wait.record(ctx, kind, d)
}

// StoreOperation counts a step in Redis; failure is empty if it went well.
func (m *Metrics) StoreOperation(ctx context.Context, step, failure string, d time.Duration) {
	m.store.record(ctx, storeLabels{step, failure}, d)
}

// Replayed counts a call that found the record of its request id.
func (m *Metrics) Replayed(ctx context.Context, kind string) { m.replays.add(ctx, kind) }

// Retried counts one more request for the same call, of a method.
func (m *Metrics) Retried(ctx context.Context, method string) { m.redrives.add(ctx, method) }

// Resolved counts a change whose outcome is known by now.
func (m *Metrics) Resolved(ctx context.Context, outcome string) { m.resolved.add(ctx, outcome) }

// StateRejected counts a value in the state store that was rejected.
func (m *Metrics) StateRejected(ctx context.Context, kind string) { m.rejected.add(ctx, kind) }

// Reload counts a change of the files of a setting.
func (m *Metrics) Reload(setting string, ok bool) {
	result := "ok"
	if !ok {
		result = "failed"
	}
	m.reloads.add(context.Background(), reloadLabels{setting, result})
}

// Audit tells whether the audit log can be written.
func (m *Metrics) Audit(working bool) { m.audit.Record(context.Background(), boolToInt(working)) }

// AuditDiverted counts a line that went to standard error instead.
func (m *Metrics) AuditDiverted() { m.diverted.Add(context.Background(), 1) }

// AuditCounted counts a refusal that has no audit line of its own.
func (m *Metrics) AuditCounted() { m.counted.Add(context.Background(), 1) }

// State tells whether the state store answers.
func (m *Metrics) State(working bool) { m.state.Record(context.Background(), boolToInt(working)) }

// ConnectionRefused counts a connection that was closed because there were too many.
func (m *Metrics) ConnectionRefused() { m.refused.Add(context.Background(), 1) }

// GaugeSources is what is asked for whenever somebody looks at the metrics.
type GaugeSources struct {
	TeamsHeld, Replicas func() int
	Rate                func() float64
	Waiting             func() int
	Pause               func() time.Duration
	CircuitOpen         func() bool
}

// ObserveGauges has the gauges show p from now on.
func (m *Metrics) ObserveGauges(p GaugeSources) error {
	m.observe(teamsHeld, func() float64 { return float64(p.TeamsHeld()) })
	m.observe(replicas, func() float64 { return float64(p.Replicas()) })
	m.observe(budgetRate, p.Rate)
	m.observe(budgetQueue, func() float64 { return float64(p.Waiting()) })
	m.observe(paused, func() float64 { return p.Pause().Seconds() })
	m.observe(circuitOpen, func() float64 { return float64(boolToInt(p.CircuitOpen())) })
	return m.failed
}

// File shows since when the files of a setting are what they are.
func (m *Metrics) File(setting string, since func() time.Time) {
	m.observe(fileAge, func() float64 { return time.Since(since()).Seconds() }, attribute.String(labelSetting, setting))
}

// Certificate shows until when the certificate of a setting is valid.
func (m *Metrics) Certificate(setting string, until func() time.Time) {
	m.observe(certificateLeft, func() float64 { return time.Until(until()).Seconds() }, attribute.String(labelSetting, setting))
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

func (m *Metrics) histogram(i Instrument) metric.Float64Histogram {
	h, err := m.meter.Float64Histogram(i.Name,
		metric.WithUnit(i.Unit), metric.WithDescription(i.Help), metric.WithExplicitBucketBoundaries(buckets...))
	m.recordErr(err)
	return h
}

func (m *Metrics) counter(i Instrument) metric.Int64Counter {
	c, err := m.meter.Int64Counter(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help))
	m.recordErr(err)
	return c
}

func (m *Metrics) gauge(i Instrument) metric.Int64Gauge {
	g, err := m.meter.Int64Gauge(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help))
	m.recordErr(err)
	return g
}

func (m *Metrics) observe(i Instrument, read func() float64, labels ...attribute.KeyValue) {
	set := metric.WithAttributes(labels...)
	_, err := m.meter.Float64ObservableGauge(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(read(), set)
			return nil
		}))
	m.recordErr(err)
}

func (m *Metrics) recordErr(err error) {
	if m.failed == nil {
		m.failed = err
	}
}

// durations and counts are instruments whose labels are few.
type durations[L comparable] struct {
	histogram metric.Float64Histogram
	labels    attributeCache[L]
}

func (d *durations[L]) record(ctx context.Context, labels L, took time.Duration) {
	d.histogram.Record(ctx, took.Seconds(), d.labels.options(labels).record...)
}

type counts[L comparable] struct {
	counter metric.Int64Counter
	labels  attributeCache[L]
}

func (c *counts[L]) add(ctx context.Context, labels L) {
	c.counter.Add(ctx, 1, c.labels.options(labels).add...)
}

// attributeCache keeps sets of labels: to make one costs more than all the rest of a
// measurement. They are few, since all labels are of small sets, and soon attributeCache, so
// that the map is copied for each new one and read without a lock.
type attributeCache[L comparable] struct {
	of   func(L) []attribute.KeyValue
	sets atomic.Pointer[map[L]options]
}

// options are a set of labels in the forms that instruments take.
type options struct {
	record []metric.RecordOption
	add    []metric.AddOption
}

func (k *attributeCache[L]) options(labels L) options {
	for {
		sets := k.sets.Load()
		if sets != nil {
			if found, ok := (*sets)[labels]; ok {
				return found
			}
		}
		set := metric.WithAttributeSet(attribute.NewSet(k.of(labels)...))
		more := map[L]options{labels: {[]metric.RecordOption{set}, []metric.AddOption{set}}}
		if sets != nil {
			maps.Copy(more, *sets)
		}
		k.sets.CompareAndSwap(sets, &more)
	}
}

func labelled(label string) attributeCache[string] {
	return attributeCache[string]{of: func(value string) []attribute.KeyValue { return []attribute.KeyValue{attribute.String(label, value)} }}
}

func withError(set []attribute.KeyValue, failure string) []attribute.KeyValue {
	if failure == "" {
		return set
	}
	return append(set, attribute.String(labelError, failure))
}

func boolToInt(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
