package audit

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// exportTimeout is within patience, so that the collector's error is what is
	// told, and not that there was none.
	exportTimeout = 1500 * time.Millisecond
	// maxExport is how many bytes of lines are sent at once: a collector takes 4 MiB.
	maxExport = 1 << 20
)

// collector is a sink that takes OpenTelemetry logs. The SDK's processors lose what
// they can't send and say so to nobody, so that here is one that only makes records.
type collector struct {
	exporter *otlploggrpc.Exporter
	logger   log.Logger
	made     recorder
	ctx      context.Context //nolint:containedctx // ends with close, and every export with it
	stop     context.CancelFunc
}

func openCollector() (*collector, error) {
	ctx, stop := context.WithCancel(context.Background())
	c := &collector{ctx: ctx, stop: stop}
	var err error
	c.exporter, err = otlploggrpc.New(ctx,
		otlploggrpc.WithRetry(otlploggrpc.RetryConfig{
			Enabled: true, InitialInterval: 100 * time.Millisecond, MaxInterval: 300 * time.Millisecond, MaxElapsedTime: time.Second,
		}),
		otlploggrpc.WithDialOption(
			// gRPC would come to try only every two minutes.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: exportTimeout,
			}),
			grpc.WithChainUnaryInterceptor(ignorePartialSuccessWarnings),
		))
	if err != nil {
		stop()
		return nil, fmt.Errorf("otlp: %w", err)
	}
	service, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "teamtoken")), resource.WithFromEnv())
	if err != nil {
		stop()
		return nil, fmt.Errorf("otlp: %w", err)
	}
	c.logger = sdklog.NewLoggerProvider(sdklog.WithResource(service), sdklog.WithProcessor(&c.made)).Logger("teamtoken/audit")
	return c, nil
}

// ignorePartialSuccessWarnings drops those of a collector that took every line: the exporter would
// take them for a failure.
func ignorePartialSuccessWarnings(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if r, ok := reply.(*collectorv1.ExportLogsServiceResponse); ok && r.GetPartialSuccess().GetRejectedLogRecords() == 0 {
		r.PartialSuccess = nil
	}
	return err
}

func (c *collector) write(text []byte, lines []lineInfo) (written int, err error) {
	ctx, end := context.WithTimeout(c.ctx, exportTimeout)
	defer end()
	size := 0
	c.made.records = c.made.records[:0]
	for i, info := range lines {
		var r log.Record
		r.SetEventName(info.event)
		r.SetTimestamp(info.time)
		r.SetSeverity(log.SeverityInfo)
		r.SetSeverityText("INFO")
		if info.event == EventRefusal || info.event == EventRefusals {
			r.SetSeverity(log.SeverityWarn)
			r.SetSeverityText("WARN")
		}
		r.SetBody(attribute.StringValue(string(text[:info.size-1])))
		c.logger.Emit(ctx, r)
		text = text[info.size:]
		size += info.size
		if i+1 < len(lines) && size+lines[i+1].size <= maxExport {
			continue
		}
		if err := c.exporter.Export(ctx, c.made.records); err != nil {
			return written, fmt.Errorf("audit: otlp: %w", err)
		}
		size, written = 0, i+1
		c.made.records = c.made.records[:0]
	}
	return written, nil
}

func (c *collector) interrupt() bool {
	c.stop()
	return true
}

func (c *collector) close() error {
	c.stop()
	ctx, end := context.WithTimeout(context.Background(), exportTimeout)
	defer end()
	return c.exporter.Shutdown(ctx)
}

// recorder is an SDK's processor that keeps the records.
type recorder struct{ records []sdklog.Record }

func (r *recorder) OnEmit(_ context.Context, record *sdklog.Record) error {
	r.records = append(r.records, record.Clone())
	return nil
}

func (*recorder) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (*recorder) Shutdown(context.Context) error                         { return nil }
func (*recorder) ForceFlush(context.Context) error                       { return nil }
