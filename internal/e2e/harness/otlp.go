package harness

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"

	metricsv1 "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracesv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	metricv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Collector is an OpenTelemetry collector that keeps what it is sent: every span, and
// of each process the metrics that came last.
type Collector struct {
	tracesv1.UnimplementedTraceServiceServer
	address string

	mu      sync.Mutex
	spans   map[string][]*tracev1.Span // by the id of the trace
	metrics map[string]map[string]*metricv1.Metric
}

// metering is the collector's other service: both have a method of one name.
type metering struct {
	metricsv1.UnimplementedMetricsServiceServer
	c *Collector
}

// Collect runs a collector until the test ends.
func Collect(t *testing.T) *Collector {
	t.Helper()
	listener := Must(net.Listen("tcp", "127.0.0.1:0"))
	c := &Collector{
		address: listener.Addr().String(), spans: map[string][]*tracev1.Span{}, metrics: map[string]map[string]*metricv1.Metric{},
	}
	server := grpc.NewServer()
	tracesv1.RegisterTraceServiceServer(server, c)
	metricsv1.RegisterMetricsServiceServer(server, metering{c: c})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Env are the variables by which a program sends everything here, soon.
func (c *Collector) Env() []string {
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + c.address, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_BSP_MAX_QUEUE_SIZE=8192", "OTEL_METRIC_EXPORT_INTERVAL=500",
	}
}

// Export keeps spans.
func (c *Collector) Export(_ context.Context, r *tracesv1.ExportTraceServiceRequest) (*tracesv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				id := hex.EncodeToString(span.GetTraceId())
				c.spans[id] = append(c.spans[id], span)
			}
		}
	}
	return &tracesv1.ExportTraceServiceResponse{}, nil
}

func (m metering) Export(_ context.Context, r *metricsv1.ExportMetricsServiceRequest) (*metricsv1.ExportMetricsServiceResponse, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for _, resource := range r.GetResourceMetrics() {
		process := AttributeOf(resource.GetResource().GetAttributes(), "service.instance.id")
		if m.c.metrics[process] == nil {
			m.c.metrics[process] = map[string]*metricv1.Metric{}
		}
		for _, scope := range resource.GetScopeMetrics() {
			for _, metric := range scope.GetMetrics() {
				m.c.metrics[process][metric.GetName()] = metric
			}
		}
	}
	return &metricsv1.ExportMetricsServiceResponse{}, nil
}

// Trace are the spans of a trace.
func (c *Collector) Trace(id string) []*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*tracev1.Span{}, c.spans[id]...)
}

// Counted is how many a histogram has seen in all processes, whose labels match.
func (c *Collector) Counted(name string, match func(labels []*commonv1.KeyValue) bool) (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range c.metrics {
		for _, point := range process[name].GetHistogram().GetDataPoints() {
			if match(point.GetAttributes()) {
				n += point.GetCount()
			}
		}
	}
	return n
}

// AttributeOf is an attribute as text; empty if there is none.
func AttributeOf(attributes []*commonv1.KeyValue, key string) string {
	for _, a := range attributes {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}
