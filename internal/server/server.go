// Package server listens, serves and stops. It knows listeners and handlers, and
// nothing of any RPC.
//
// New either has all three listeners open or returns an error that names the
// one that is not. Run serves until its context ends and then stops in order:
// not ready first, for a while without another difference; then new calls refused,
// those under way answered, and the admin listener last, so that its metrics tell
// the end of it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// Options is what a Server needs; all but TLS, Calls, Reflection and Pprof must be set.
type Options struct {
	GRPC, HTTP, Admin Listener

	// TLS is for the gRPC and the REST listener. Nil serves both in the clear.
	TLS *tls.Config
	// Unary and Stream stand before every gRPC call.
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
	// StatsHandler is told of every gRPC call, from its headers to its end; nil if nobody is.
	StatsHandler stats.Handler
	// Codec decodes every gRPC call's message.
	Codec encoding.CodecV2
	// Service and Implementation are what the gRPC listener serves.
	Service        *grpc.ServiceDesc
	Implementation any
	// REST is what the REST listener serves.
	REST http.Handler
	// Readiness says whether calls are to come here.
	Readiness *Readiness
	// Metrics is served on the admin listener.
	Metrics http.Handler
	// MaxCallDuration is the longest that a call can take.
	MaxCallDuration time.Duration
	Limits          Limits
	// OnRejected is called for each connection that is closed since there are too many.
	OnRejected func()
	// RefusedCall is told of a call of Service that is refused before Unary is called for it,
	// with what grpc-go answers or context.DeadlineExceeded, and returns what the caller is to
	// be told. It must not block.
	RefusedCall func(ctx context.Context, fullMethod string, err error) error
	// Unseen is told of each call and request that is refused before any of the above is
	// called for it, and that names no method. It is to log at a bounded rate.
	Unseen     func(message string, attrs ...slog.Attr)
	Reflection bool
	Pprof      bool
	Log        *slog.Logger
	// ShutdownDelay is how long calls are still taken when it is to stop, and says so.
	ShutdownDelay time.Duration
	// OnShutdown is called when the server begins to stop: from then on new calls
	// are to be refused. Drain waits for what goes on without its caller.
	OnShutdown func()
	// OnDeadline is called when grace is almost over: calls under way are to be
	// answered now.
	OnDeadline     func()
	WaitBackground func(context.Context)
}

// Listener is an address and the setting that a user changes it by.
type Listener struct{ Address, Setting string }

// Limits bound what a client can take; all must be set.
type Limits struct {
	Connections        int // of each of the gRPC and the REST listener
	Streams            int // of one connection at a time
	HeaderBytes        int
	MessageBytes       int
	HandshakeTimeout   time.Duration
	ReadHeaderTimeout  time.Duration // of a REST request
	ReadTimeout        time.Duration // of a REST request and its body, and of the message of a call
	IdleTimeout        time.Duration
	ConnectionAge      time.Duration // then the client connects anew, and finds replicas that came since
	ConnectionAgeGrace time.Duration
	PingInterval       time.Duration // the shortest of clients; by default grpc-go cuts off who pings within 5 minutes
}

// transportHeaders is the limit of one header list at which its connection ends.
func (l Limits) transportHeaders() int { return max(headersOfProxies, l.HeaderBytes) }

const (
	// headersOfProxies is how long header lists may be without an end of the
	// connection, which others may share: Envoy passes 60 KiB as it comes, and counts 32
	// bytes less for each header.
	headersOfProxies = 512 << 10
	// window is how much a peer may send ahead, of each stream and of each connection: a
	// message or a body is no longer.
	window = 64 << 10
	// readBuffer is of each gRPC connection, from its first moment: grpc-go's own
	// 32 KiB would be what thousands of silent ones take.
	readBuffer    = 4 << 10
	streamWorkers = 64 // goroutines that are kept, which saves growing a new stack for each call
	// shutdownTimeout is how long calls under way are waited for when the server stops.
	shutdownTimeout = 30 * time.Second
	// finalResponseWindow is what of it is left for the last answers to get out.
	finalResponseWindow = 2 * time.Second
)

// Server is open listeners, and what they will serve.
type Server struct {
	options                    Options
	methods                    map[string]bool // the full names of those that the gRPC listener serves
	grpc                       *grpc.Server
	http, admin                *http.Server
	pool                       *pool
	watches                    watches
	grpcListener, httpListener net.Listener
	adminListener              net.Listener
	GRPCAddr, RESTURL          string // where it listens
	AdminURL                   string
}

// New opens the listeners.
func New(o Options) (*Server, error) {
	s := &Server{options: o}
	for _, l := range []struct {
		Listener
		at *net.Listener
	}{{o.GRPC, &s.grpcListener}, {o.HTTP, &s.httpListener}, {o.Admin, &s.adminListener}} {
		var err error
		if *l.at, err = net.Listen("tcp", l.Address); err != nil {
			s.closeListeners()
			return nil, fmt.Errorf("cannot listen on %s: %w; change %s, or stop what listens there", l.Address, err, l.Setting)
		}
	}
	s.pool = newPool(o.OnRejected)
	s.grpcListener = s.pool.bounded(s.grpcListener, o.Limits.Connections, o.Limits.ConnectionAge, false, o.TLS != nil)
	s.httpListener = s.pool.bounded(s.httpListener, o.Limits.Connections, o.Limits.ConnectionAge, true, o.TLS != nil)
	scheme, creds := "http://", insecure.NewCredentials()
	if o.TLS != nil {
		scheme = "https://"
		creds = credentials.NewTLS(o.TLS)
		o.TLS = o.TLS.Clone() // net/http adds its own protocols to it
	}
	s.GRPCAddr, s.RESTURL = s.grpcListener.Addr().String(), scheme+s.httpListener.Addr().String()
	s.AdminURL = "http://" + s.adminListener.Addr().String()

	s.grpc = grpc.NewServer(append(s.grpcOptions(), grpc.Creds(handshaker{creds, o.Unseen}))...)
	s.grpc.RegisterService(marked(*o.Service), o.Implementation)
	s.grpc.RegisterService(marked(grpc_health_v1.Health_ServiceDesc), o.Readiness.health)
	if o.Reflection {
		reflection.Register(registrar{s.grpc})
	}
	s.methods = methodsOf(s.grpc)
	s.http = s.newHTTP(s.tracked(o.REST), o.MaxCallDuration+o.Limits.ReadTimeout)
	s.http.TLSConfig = o.TLS
	s.http.ConnState = stateOf
	s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if conn := netConn(c); conn != nil {
			ctx = caller.WithConnection(ctx, conn)
		}
		return ctx
	}
	unseen(o.Unseen).watch(s.http)
	s.admin = s.newHTTP(s.adminHandler(), time.Minute+o.Limits.ReadTimeout) // a CPU profile takes 30 s
	return s, nil
}

// grpcOptions are those of the gRPC server but its credentials.
func (s *Server) grpcOptions() []grpc.ServerOption {
	o := s.options
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(o.Unary),
		grpc.StreamInterceptor(ending(o.Stream)),
		grpc.ForceServerCodecV2(o.Codec),
		grpc.MaxRecvMsgSize(o.Limits.MessageBytes),
		grpc.MaxHeaderListSize(uint32(o.Limits.transportHeaders())), //nolint:gosec // settings are far from its end
		grpc.MaxConcurrentStreams(uint32(o.Limits.Streams)),         //nolint:gosec // as above
		grpc.ConnectionTimeout(o.Limits.HandshakeTimeout),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ReadBufferSize(0), // framed has one
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: o.Limits.ConnectionAge, MaxConnectionAgeGrace: o.Limits.ConnectionAgeGrace,
			MaxConnectionIdle: o.Limits.IdleTimeout,
		}),
		grpc.InTapHandle(s.admit),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: o.Limits.PingInterval, PermitWithoutStream: true}),
	}
	if o.StatsHandler != nil {
		options = append(options, grpc.StatsHandler(o.StatsHandler))
	}
	return options
}

func (s *Server) newHTTP(h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.options.Limits.ReadHeaderTimeout,
		ReadTimeout:       s.options.Limits.ReadTimeout,
		WriteTimeout:      write,
		IdleTimeout:       s.options.Limits.IdleTimeout,
		MaxHeaderBytes:    s.options.Limits.transportHeaders(),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: s.options.Limits.Streams, MaxReadFrameSize: 16 << 10,
			MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window,
		},
		ErrorLog: slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.options.Metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		resp, err := s.options.Readiness.health.Check(r.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			http.Error(w, strings.Join(append([]string{"not serving"}, s.options.Readiness.listCauses()...), ": "), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	if s.options.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// Run serves until ctx ends, stops, and returns nil; or returns the error of a
// listener that failed.
func (s *Server) Run(ctx context.Context) error {
	group, failed := errgroup.WithContext(ctx)
	group.Go(func() error { return s.grpc.Serve(s.grpcListener) })
	group.Go(func() error { return serveHTTP(s.http, s.httpListener) })
	group.Go(func() error { return serveHTTP(s.admin, s.adminListener) })
	group.Go(func() error {
		for tick := time.NewTicker(looking); ; {
			select {
			case now := <-tick.C:
				s.pool.retire(now)
			case <-failed.Done():
				tick.Stop()
				return nil
			}
		}
	})
	group.Go(func() error {
		<-failed.Done()
		s.stop(ctx.Err() != nil)
		return nil
	})
	return group.Wait()
}

func serveHTTP(h *http.Server, l net.Listener) error {
	var err error
	if h.TLSConfig != nil {
		err = h.ServeTLS(l, "", "")
	} else {
		err = h.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// stop ends it, in order if it was asked to and did not fail.
func (s *Server) stop(asked bool) {
	s.options.Readiness.health.Shutdown() // not ready, on both the gRPC health service and /readyz
	if d := s.options.ShutdownDelay; d > 0 && asked {
		// Whoever sends calls here has not heard of it yet: a load balancer asks once in
		// a while, and Kubernetes tells its nodes one after the other.
		s.options.Log.Info("about to stop: calls are still taken, and no more should come", "for_seconds", d.Seconds())
		time.Sleep(d)
	}
	s.watches.stop() // before the interceptors end them, so that their clients are told why
	s.options.OnShutdown()
	s.options.Log.Info("stopping: new calls are refused, those under way are answered", "at_most_seconds", shutdownTimeout.Seconds())

	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	defer time.AfterFunc(answered, s.pool.dismiss).Stop()
	defer time.AfterFunc(shutdownTimeout-finalResponseWindow, s.options.OnDeadline).Stop()
	var drained errgroup.Group
	drained.Go(func() error { return s.http.Shutdown(ctx) })
	drained.Go(func() error {
		defer context.AfterFunc(ctx, s.grpc.Stop)()
		s.grpc.GracefulStop()
		return nil
	})
	err := drained.Wait()
	s.options.WaitBackground(ctx)
	if ctx.Err() != nil || err != nil {
		s.options.Log.Error("stopped before all calls were answered")
		s.grpc.Stop()
		_ = s.http.Close()
	}
	_ = s.admin.Close()
	s.options.Log.Info("stopped")
}

func (s *Server) closeListeners() {
	for _, l := range []net.Listener{s.grpcListener, s.httpListener, s.adminListener} {
		if l != nil {
			_ = l.Close()
		}
	}
}
