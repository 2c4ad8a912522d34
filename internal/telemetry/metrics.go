package telemetry

import (
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// buckets reach from a call refused at once to the longest that is allowed.
var buckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Metrics are the program's own and the Go runtime's.
type Metrics struct {
	registry *prometheus.Registry
	rpc      observers[rpcLabels]
	upstream observers[upstreamLabels]
	reloads  *prometheus.CounterVec
	audit    prometheus.Gauge
	refused  prometheus.Counter
}

type rpcLabels struct {
	method string
	code   codes.Code
}

type upstreamLabels struct{ operation, result string }

// NewMetrics returns metrics of a program of this version.
func NewMetrics(version string) *Metrics {
	rpc := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: MetricRPC, Help: "Duration of calls, by method and gRPC status code.", Buckets: buckets,
	}, []string{"method", "code"})
	upstream := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: MetricUpstream, Help: "Duration of requests to the upstream, by operation and result.", Buckets: buckets,
	}, []string{"operation", "result"})
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: MetricReloads, Help: "Changed files of settings, by what became of them: a failed one leaves the last good one in use.",
	}, []string{"setting", "result"})
	audit := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: MetricAudit, Help: "1 while the audit log can be written: while it can't, calls are refused.",
	})
	audit.Set(1)
	refused := prometheus.NewCounter(prometheus.CounterOpts{
		Name: MetricRefused, Help: "Connections that were closed because there were too many.",
	})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: MetricBuild, Help: "1, labelled with what this program was built from.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)

	m := &Metrics{registry: prometheus.NewRegistry(), reloads: reloads, audit: audit, refused: refused}
	m.rpc.find = func(l rpcLabels) prometheus.Observer { return rpc.WithLabelValues(l.method, l.code.String()) }
	m.upstream.find = func(l upstreamLabels) prometheus.Observer {
		return upstream.WithLabelValues(l.operation, l.result)
	}
	m.registry.MustRegister(rpc, upstream, reloads, audit, refused, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// RPC counts a call that has ended.
func (m *Metrics) RPC(method string, code codes.Code, d time.Duration) {
	m.rpc.of(rpcLabels{method, code}).Observe(d.Seconds())
}

// Upstream counts a request to the upstream that has ended.
func (m *Metrics) Upstream(operation, result string, d time.Duration) {
	m.upstream.of(upstreamLabels{operation, result}).Observe(d.Seconds())
}

// Reload counts a change of the files of a setting.
func (m *Metrics) Reload(setting string, ok bool) {
	result := "ok"
	if !ok {
		result = "failed"
	}
	m.reloads.WithLabelValues(setting, result).Inc()
}

// Audit tells whether the audit log can be written.
func (m *Metrics) Audit(working bool) {
	if working {
		m.audit.Set(1)
		return
	}
	m.audit.Set(0)
}

// ConnectionRefused counts a connection that was closed because there were too many.
func (m *Metrics) ConnectionRefused() { m.refused.Inc() }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// observers keeps what a vector found, which costs as much as all the rest of
// an observation. Labels come from small sets only.
type observers[L comparable] struct {
	find  func(L) prometheus.Observer
	known sync.Map // of L to prometheus.Observer
}

func (o *observers[L]) of(labels L) prometheus.Observer {
	if found, ok := o.known.Load(labels); ok {
		return found.(prometheus.Observer)
	}
	found := o.find(labels)
	o.known.Store(labels, found)
	return found
}
