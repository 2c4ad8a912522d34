package interceptor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/interceptor"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/telemetry"
)

var descriptor = teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService")

// methods are those of the service, and whether they change something.
var methods = map[string]bool{
	"GenerateToken": true, "DeleteToken": true, "GetToken": false,
	"CreateNamedToken": true, "DeleteTokenByID": true, "GetTokenByID": false, "ListTokens": false,
}

func fullName(method string) string { return "/teamtoken.v1.TeamTokenService/" + method }

// service does the same on every call.
type service struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer
	do func(context.Context) error
}

func (s service) GenerateToken(ctx context.Context, _ *teamtokenv1.GenerateTokenRequest) (*teamtokenv1.GenerateTokenResponse, error) {
	return &teamtokenv1.GenerateTokenResponse{}, s.do(ctx)
}

func (s service) DeleteToken(ctx context.Context, _ *teamtokenv1.DeleteTokenRequest) (*teamtokenv1.DeleteTokenResponse, error) {
	return &teamtokenv1.DeleteTokenResponse{}, s.do(ctx)
}

func (s service) GetToken(ctx context.Context, _ *teamtokenv1.GetTokenRequest) (*teamtokenv1.GetTokenResponse, error) {
	return &teamtokenv1.GetTokenResponse{}, s.do(ctx)
}

func (s service) CreateNamedToken(ctx context.Context, _ *teamtokenv1.CreateNamedTokenRequest) (*teamtokenv1.CreateNamedTokenResponse, error) {
	return &teamtokenv1.CreateNamedTokenResponse{}, s.do(ctx)
}

func (s service) DeleteTokenByID(ctx context.Context, _ *teamtokenv1.DeleteTokenByIDRequest) (*teamtokenv1.DeleteTokenByIDResponse, error) {
	return &teamtokenv1.DeleteTokenByIDResponse{}, s.do(ctx)
}

func (s service) GetTokenByID(ctx context.Context, _ *teamtokenv1.GetTokenByIDRequest) (*teamtokenv1.GetTokenByIDResponse, error) {
	return &teamtokenv1.GetTokenByIDResponse{}, s.do(ctx)
}

func (s service) ListTokens(ctx context.Context, _ *teamtokenv1.ListTokensRequest) (*teamtokenv1.ListTokensResponse, error) {
	return &teamtokenv1.ListTokensResponse{}, s.do(ctx)
}

// rig is a chain in front of a service, and a client of both.
type rig struct {
	chain   *interceptor.Chain
	metrics *telemetry.Metrics
	log     lines
	audit   lines
	conn    *grpc.ClientConn
}

// lines is a log that is written to and read at once.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const timeout = 10 * time.Second

func newRig(t *testing.T, callerCredentials bool, do func(context.Context) error) *rig {
	t.Helper()
	r := &rig{metrics: metrics(t)}
	book, err := audit.Open(audit.Options{Destination: "-", Stdout: &r.audit, Stderr: &r.log, OnStatusChange: func(bool, error) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = book.Close() })
	r.chain = interceptor.New(descriptor, interceptor.Options{
		Log: telemetry.NewLogger(&r.log, -4, false), Metrics: r.metrics, Audit: book, Timeout: timeout, CallerCredentials: callerCredentials,
	})
	server := grpc.NewServer(grpc.UnaryInterceptor(r.chain.Unary), grpc.StreamInterceptor(r.chain.Stream),
		grpc.ForceServerCodecV2(interceptor.Codec()))
	server.RegisterService(interceptor.WrapServiceDesc(teamtokenv1.TeamTokenService_ServiceDesc), service{do: do})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r
}

// answer is what a client gets to see of a call.
type answer struct {
	status          *status.Status
	header, trailer metadata.MD
}

// call makes a call with an empty message, which is one of every method's type.
func (r *rig) call(t *testing.T, method string, headers ...string) (a answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), headers...), 2*timeout)
	defer cancel()
	err := r.conn.Invoke(ctx, fullName(method), &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	a.status = status.Convert(err)
	return a
}

func (a answer) is(t *testing.T, code codes.Code, reasonName, outcome string) {
	t.Helper()
	d := apierror.FromStatus(a.status)
	if a.status.Code() != code || d.Reason != reasonName || d.Outcome != outcome {
		t.Errorf("%v %q %q, want %v %q %q", a.status.Code(), d.Reason, d.Outcome, code, reasonName, outcome)
	}
}

// counted is how many calls of a method ended with a code.
func (r *rig) counted(method string, code codes.Code) string {
	w := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	name := rpccode.Code_name[int32(code)]
	for line := range strings.Lines(w.Body.String()) {
		if labels, ok := strings.CutPrefix(line, "rpc_server_call_duration_seconds_count"); ok &&
			strings.Contains(labels, fmt.Sprintf("rpc_method=%q", strings.TrimPrefix(fullName(method), "/"))) &&
			strings.Contains(labels, fmt.Sprintf("rpc_response_status_code=%q", name)) {
			return strings.TrimSpace(labels[strings.LastIndexByte(labels, ' '):])
		}
	}
	return "0"
}

// outcome is o for the methods that change something, and none for the others.
func outcome(method string, o apierror.Outcome) string {
	if !methods[method] {
		return ""
	}
	return string(o)
}

func TestEveryMethodIsKnown(t *testing.T) {
	calls := 0
	r := newRig(t, false, func(context.Context) error { calls++; return nil })
	all := descriptor.Methods()
	if all.Len() != len(methods) {
		t.Errorf("the service has %d methods, this test knows %d", all.Len(), len(methods))
	}
	for i := range all.Len() {
		name := string(all.Get(i).Name())
		if _, ok := methods[name]; !ok {
			t.Errorf("%s is not known to this test", name)
		}
		r.call(t, name).is(t, codes.OK, "", "")
		if calls != i+1 || r.counted(name, codes.OK) != "1" {
			t.Errorf("%s did not get through, or was not counted", name)
		}
	}
}

// Beside the service's own methods only those of gRPC's services pass.
func TestOtherMethods(t *testing.T) {
	r := newRig(t, true, func(context.Context) error { return nil })
	for _, row := range []struct {
		method string
		passes bool
	}{
		{"/grpc.health.v1.Health/Check", true},
		{"/grpc.health.v1.Health/Watch", true},
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true},
		{"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true},
		{"/grpc.channelz.v1.Channelz/GetServers", false},
		{"/grpc.health/Check", false},
		{"/teamtoken.v1.TeamTokenService/Other", false},
		{"/teamtoken.v1.TeamTokenService/generateToken", false},
		{"/teamtoken.v2.TeamTokenService/GenerateToken", false},
		{"teamtoken.v1.TeamTokenService/GenerateToken", false}, // no slash in front
		{"//teamtoken.v1.TeamTokenService/GenerateToken", false},
		{"", false},
	} {
		passed := 0
		_, unary := r.chain.Unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: row.method},
			func(context.Context, any) (any, error) { passed++; return nil, nil })
		streamed := r.chain.Stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: row.method},
			func(any, grpc.ServerStream) error { passed++; return nil })
		want, times := codes.OK, 2
		if !row.passes {
			want, times = codes.Unimplemented, 0
		}
		if status.Code(unary) != want || status.Code(streamed) != want || passed != times {
			t.Errorf("%q: %v, %v, and %d of 2 got through", row.method, unary, streamed, passed)
		}
	}
	// The service has no streams: its own name does not help one.
	for name := range methods {
		err := r.chain.Stream(nil, nil, &grpc.StreamServerInfo{FullMethod: fullName(name)},
			func(any, grpc.ServerStream) error { t.Error("a stream got through"); return nil })
		if status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	}
}

// planted stands for whatever a panic's value may hold.
const planted = "a.atlasv1.planted"

type plantedError struct{ secret string }

func (e plantedError) Error() string { return e.secret }

func TestPanic(t *testing.T) {
	var none []string
	for name, fails := range map[string]func(){
		"a string":          func() { panic(planted) },
		"an error":          func() { panic(errors.New(planted)) },
		"a value":           func() { panic(plantedError{planted}) },
		"a pointer":         func() { panic(&plantedError{planted}) },
		"bytes":             func() { panic([]byte(planted)) },
		"a wrapped failure": func() { panic(fmt.Errorf("wrapped: %w", plantedError{planted})) },
		"the runtime's":     func() { _ = none[len(none)] },
		"nil":               func() { panic(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, false, func(context.Context) error { fails(); return nil })
			for method := range methods {
				a := r.call(t, method)
				a.is(t, codes.Internal, "INTERNAL", outcome(method, apierror.Unknown))
				if strings.Contains(a.status.String(), planted) {
					t.Error("the caller is told the value")
				}
				if r.counted(method, codes.Internal) != "1" {
					t.Errorf("%s is not counted", method)
				}
			}
			log := r.log.String()
			if strings.Contains(log, planted) || strings.Contains(log, fmt.Sprintf("%x", planted)) {
				t.Errorf("the value is logged: %s", log)
			}
			if n := strings.Count(log, `"level":"ERROR"`); n != len(methods) || !strings.Contains(log, "chain_test.go") {
				t.Errorf("the log does not say where, once for each call: %s", log)
			}
		})
	}
}

// From Stop on new calls are refused; those under way are answered, and the
// health service goes on.
func TestStop(t *testing.T) {
	entered, release := make(chan struct{}, 1+len(methods)), make(chan struct{})
	r := newRig(t, false, func(ctx context.Context) error {
		entered <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	underWay := make(chan answer, 1)
	go func() { underWay <- r.call(t, "GenerateToken") }()
	select {
	case <-entered:
	case a := <-underWay:
		t.Fatalf("the call did not get through: %v", a.status)
	}
	r.chain.Stop()
	for method := range methods {
		r.call(t, method).is(t, codes.Unavailable, "SHUTTING_DOWN", outcome(method, apierror.NotApplied))
		if r.counted(method, codes.Unavailable) != "1" {
			t.Errorf("the refusal of %s is not counted", method)
		}
	}
	close(release)
	(<-underWay).is(t, codes.OK, "", "")
	if _, err := grpc_health_v1.NewHealthClient(r.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}

// A call ends a little before its caller stops waiting for it, and never later
// than the cap.
func TestDeadline(t *testing.T) {
	r := newRig(t, false, nil)
	for _, row := range []struct {
		name        string
		asked       time.Duration // 0 is none
		limit, kept time.Duration
	}{
		{"none", 0, timeout, 100 * time.Millisecond},
		{"longer than the cap", time.Hour, timeout, 100 * time.Millisecond},
		{"the longest", 1<<63 - 1, timeout, 100 * time.Millisecond},
		{"shorter than the cap", 5 * time.Second, 5 * time.Second, 100 * time.Millisecond},
		{"short, so that a tenth is kept", 500 * time.Millisecond, 500 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx := t.Context()
			before := time.Now()
			if row.asked != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, row.asked)
				defer cancel()
			}
			var end time.Time
			_, err := r.chain.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: fullName("GetToken")},
				func(ctx context.Context, _ any) (any, error) {
					end, _ = ctx.Deadline()
					return struct{}{}, nil
				})
			after := time.Now()
			if err != nil {
				t.Fatal(err)
			}
			if earliest := before.Add(row.limit - row.kept); end.Before(earliest) {
				t.Errorf("the deadline is %v too early", earliest.Sub(end))
			}
			if latest := after.Add(row.limit - row.kept); end.After(latest) {
				t.Errorf("the deadline is %v too late", end.Sub(latest))
			}
			if callers, ok := ctx.Deadline(); ok && !end.Before(callers) {
				t.Error("nothing is kept back of the caller's deadline")
			}
		})
	}
}

// A well-formed request id is taken over, any other replaced; it is the same
// everywhere.
func TestRequestID(t *testing.T) {
	var inside string
	fail := errors.New("to have an error to look at")
	r := newRig(t, false, func(ctx context.Context) error {
		inside = calls.From(ctx).RequestID
		return fail
	})
	for _, row := range []struct {
		name  string
		sent  []string
		taken bool
	}{
		{"none", nil, false},
		{"well-formed", []string{"a-B_9.:"}, true},
		{"one letter", []string{"a"}, true},
		{"of the greatest length", []string{strings.Repeat("a", 128)}, true},
		{"over-long", []string{strings.Repeat("a", 129)}, false},
		{"empty", []string{""}, false},
		{"with a space", []string{"a b"}, false},
		{"with a quote", []string{`a"b`}, false},
		{"with a comma", []string{"a,b"}, false},
		{"two", []string{"a", "b"}, false},
		{"the same twice", []string{"a", "a"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var headers []string
			for _, id := range row.sent {
				headers = append(headers, "X-Request-Id", id)
			}
			a := r.call(t, "GetToken", headers...)
			id := inside
			if row.taken && id != row.sent[0] || !row.taken && len(id) != len(requestid.New()) || !requestid.Valid(id) {
				t.Errorf("the id is %q", id)
			}
			if !row.taken && strings.Count(r.log.String(), id) != 1 {
				t.Error("the log does not have the id once, so it is not this call's alone")
			}
			for where, got := range map[string][]string{
				"trailer": a.trailer.Get(requestid.Header), "details": {apierror.FromStatus(a.status).RequestID},
			} {
				if len(got) != 1 || got[0] != id {
					t.Errorf("%s: %q, want %q", where, got, id)
				}
			}
			if !strings.Contains(r.log.String(), `"request_id":"`+id+`"`) {
				t.Error("the log does not have the id")
			}
		})
	}
}

// A client that retries by itself is told not to, unless nothing was changed.
func TestPushback(t *testing.T) {
	const unknown, internal = teamtokenv1.ErrorReason_ERROR_REASON_UPSTREAM_OUTCOME_UNKNOWN, teamtokenv1.ErrorReason_ERROR_REASON_INTERNAL
	for _, row := range []struct {
		name string
		err  error
		want bool
	}{
		{"success", nil, false},
		{"not applied", &apierror.Error{Reason: internal, Outcome: apierror.NotApplied}, false},
		{"unknown", &apierror.Error{Reason: unknown, Outcome: apierror.Unknown}, true},
		{"unknown, wrapped", fmt.Errorf("wrapped: %w", &apierror.Error{Reason: unknown, Outcome: apierror.Unknown}), true},
		{"applied and undelivered", &apierror.Error{Reason: internal, Outcome: apierror.AppliedUndelivered}, true},
		{"no outcome, as of a call that reads", &apierror.Error{Reason: internal}, false},
		{"a status that is none of ours", status.Error(codes.Unavailable, "gone"), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, false, func(context.Context) error { return row.err })
			a := r.call(t, "GenerateToken")
			if want := status.Code(row.err); a.status.Code() != want {
				t.Errorf("code %v, want %v", a.status.Code(), want)
			}
			got := a.trailer.Get("grpc-retry-pushback-ms")
			if row.want != (len(got) == 1 && got[0] == "-1") || !row.want && len(got) != 0 {
				t.Errorf("pushback %q, want it: %v", got, row.want)
			}
		})
	}
}

// A change that went wrong is sent again by nobody who does that by himself, if it has
// nothing by which it can be told that it is the same: headers of its own keep gRPC's
// libraries from it, and one of them Envoy. Any other call is left to them. One that
// was sent before all the same is refused.
func TestRepeated(t *testing.T) {
	const refused = "RETRY_WITHOUT_REQUEST_ID"
	for _, row := range []struct {
		method  string
		request proto.Message
		again   bool
	}{
		{"GenerateToken", &teamtokenv1.GenerateTokenRequest{}, false},
		{"GenerateToken", &teamtokenv1.GenerateTokenRequest{RequestId: "r"}, true},
		{"GenerateToken", &teamtokenv1.GenerateTokenRequest{ExpectedTokenId: "at-1"}, true},
		{"CreateNamedToken", &teamtokenv1.CreateNamedTokenRequest{}, false},
		{"CreateNamedToken", &teamtokenv1.CreateNamedTokenRequest{RequestId: "r"}, true},
		{"DeleteToken", &teamtokenv1.DeleteTokenRequest{AllowMissing: true}, false},
		{"DeleteToken", &teamtokenv1.DeleteTokenRequest{ExpectedTokenId: "at-1"}, true},
		{"DeleteTokenByID", &teamtokenv1.DeleteTokenByIDRequest{TokenId: "at-1"}, true},
		{"GetToken", &teamtokenv1.GetTokenRequest{}, true},
		{"GetTokenByID", &teamtokenv1.GetTokenByIDRequest{}, true},
		{"ListTokens", &teamtokenv1.ListTokensRequest{}, true},
	} {
		for _, marker := range [][]string{
			nil,
			{"x-envoy-attempt-count", "1"},
			{"x-envoy-attempt-count", "2"},
			{"x-envoy-attempt-count", "x"},
			{"grpc-previous-rpc-attempts", "0"},
			{"grpc-previous-rpc-attempts", "1"},
		} {
			t.Run(fmt.Sprintf("%s %v %v", row.method, row.request, marker), func(t *testing.T) {
				reached := false
				r := newRig(t, false, func(context.Context) error {
					reached = true
					return status.Error(codes.Unavailable, "not now")
				})
				var header metadata.MD
				ctx := metadata.AppendToOutgoingContext(t.Context(), marker...)
				err := r.conn.Invoke(ctx, fullName(row.method), row.request, &emptypb.Empty{}, grpc.Header(&header))
				before := len(marker) > 0 && (marker[1] == "2" || marker[1] == "1" && marker[0] != "x-envoy-attempt-count")
				switch d := apierror.FromStatus(status.Convert(err)); {
				case before && !row.again && (reached || status.Code(err) != codes.FailedPrecondition || d.Reason != refused || d.Outcome != "not_applied"):
					t.Errorf("it was repeated, and: %v", err)
				case (!before || row.again) && (!reached || status.Code(err) != codes.Unavailable):
					t.Errorf("it was not repeated, or may be, and: %v", err)
				}
				if final := len(header.Get("x-envoy-ratelimited")) > 0; final == row.again || row.again && len(header.Get("x-request-id")) > 0 {
					t.Errorf("headers before the error: %v", header)
				}
			})
		}
	}
}

// Shutdown comes before the credential, and both before the service. What they
// refuse is counted and has a request id all the same.
func TestOrder(t *testing.T) {
	r := newRig(t, true, func(context.Context) error { return errors.New("the service was reached") })
	for _, step := range []struct {
		name    string
		headers []string
		stop    bool
		code    codes.Code
		reason  string
		outcome apierror.Outcome
	}{
		{"with a credential", []string{"authorization", "Bearer a"}, false, codes.Unknown, "", ""},
		{"without", nil, false, codes.Unauthenticated, "CALLER_UNAUTHENTICATED", apierror.NotApplied},
		{"without, stopping", nil, true, codes.Unavailable, "SHUTTING_DOWN", apierror.NotApplied},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.stop {
				r.chain.Stop()
			}
			for method := range methods {
				a := r.call(t, method, step.headers...)
				a.is(t, step.code, step.reason, outcome(method, step.outcome))
				id := apierror.FromStatus(a.status).RequestID
				if id == "" || !strings.Contains(r.log.String(), id) {
					t.Error("the call is not logged under its request id")
				}
				if r.counted(method, step.code) != "1" {
					t.Errorf("%s is not counted", method)
				}
			}
		})
	}
}

// The credential is the one well-formed bearer token of the call, and where
// callers bring none, nothing that they send is one.
func TestCredential(t *testing.T) {
	for _, row := range []struct {
		name string
		sent []string
		want string // "" is refused
	}{
		{"a token", []string{"Bearer a.atlasv1.b"}, "a.atlasv1.b"},
		{"a scheme in lower case", []string{"bearer a"}, "a"},
		{"a scheme in upper case", []string{"BEARER a"}, "a"},
		{"a token of every mark", []string{"Bearer !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"}, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"},
		{"the longest", []string{"Bearer " + strings.Repeat("a", 4096-7)}, strings.Repeat("a", 4096-7)},
		{"one longer", []string{"Bearer " + strings.Repeat("a", 4096-6)}, ""},
		{"none", nil, ""},
		{"empty", []string{""}, ""},
		{"the scheme alone", []string{"Bearer"}, ""},
		{"the scheme and a space", []string{"Bearer "}, ""},
		{"another scheme", []string{"Basic dTpw"}, ""},
		{"two spaces", []string{"Bearer  a"}, ""},
		{"two words", []string{"Bearer a b"}, ""},
		{"two", []string{"Bearer a", "Bearer a"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var headers []string
			for _, v := range row.sent {
				headers = append(headers, "authorization", v)
			}
			var got string
			reached := false
			read := func(ctx context.Context) error {
				got, reached = calls.From(ctx).Credential.Reveal(), true
				return nil
			}
			callers := newRig(t, true, read)
			a := callers.call(t, "GenerateToken", headers...)
			if row.want == "" {
				a.is(t, codes.Unauthenticated, "CALLER_UNAUTHENTICATED", "not_applied")
			}
			if got != row.want || reached != (row.want != "") {
				t.Errorf("the service was reached: %v, with %q", reached, got)
			}
			if row.want != "" && len(row.want) > 4 && strings.Contains(callers.log.String(), row.want) {
				t.Error("the credential is logged")
			}

			reached = false
			services := newRig(t, false, read)
			services.call(t, "GenerateToken", headers...).is(t, codes.OK, "", "")
			if !reached || got != "" {
				t.Errorf("with the service's credential, the caller's is read: %q", got)
			}
		})
	}
}

func metrics(t testing.TB) *telemetry.Metrics {
	t.Helper()
	told, err := telemetry.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return told.Metrics
}

// stream is one of which nothing but its context is asked for.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// A stream of who watches the health ends when the program stops.
func TestStopEndsStreams(t *testing.T) {
	r := newRig(t, false, func(context.Context) error { return nil })
	err := r.chain.Stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: "/grpc.health.v1.Health/Watch"},
		func(_ any, s grpc.ServerStream) error {
			r.chain.Stop()
			<-s.Context().Done()
			return s.Context().Err()
		})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// blockingOutput takes nothing until it is released.
type blockingOutput struct {
	lines

	release chan struct{}
}

func (b *blockingOutput) Write(p []byte) (int, error) {
	<-b.release
	return b.lines.Write(p)
}

// A call whose deadline ends, or whose caller leaves, before its attempt is written is told
// that, and not that the audit log, its caller's share or anything else has failed.
func TestTooLateForAnything(t *testing.T) {
	for name, stage := range map[string]struct {
		blocked bool // the audit log is
		context func(context.Context) (context.Context, context.CancelFunc)
		event   string
	}{
		"on arrival": {false, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, time.Now().Add(-time.Second))
		}, audit.EventRefusal},
		"its caller has left": {false, func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, audit.EventRefusal},
		"while its attempt is written": {true, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		}, audit.EventRefusal},
	} {
		for method := range methods {
			t.Run(name+"/"+method, func(t *testing.T) {
				out := &blockingOutput{release: make(chan struct{})}
				if !stage.blocked {
					close(out.release)
				}
				var log lines
				book, err := audit.Open(audit.Options{Destination: "-", Stdout: out, Stderr: &log, OnStatusChange: func(ok bool, err error) {
					if !ok {
						t.Errorf("the audit log is said to fail: %v", err)
					}
				}})
				if err != nil {
					t.Fatal(err)
				}
				chain := interceptor.New(descriptor, interceptor.Options{
					Log: telemetry.NewLogger(&log, -4, false), Metrics: metrics(t), Audit: book, Timeout: timeout,
				})
				ctx, cancel := stage.context(t.Context())
				defer cancel()
				if stage.blocked {
					time.AfterFunc(500*time.Millisecond, func() { close(out.release) })
				}
				_, err = chain.Unary(ctx, &emptypb.Empty{}, &grpc.UnaryServerInfo{FullMethod: fullName(method)}, func(context.Context, any) (any, error) {
					t.Error("it was carried out")
					return nil, nil
				})
				answer{status: status.Convert(err)}.is(t, codes.DeadlineExceeded, "UPSTREAM_TIMEOUT", outcome(method, apierror.NotApplied))
				if text := status.Convert(err).Message(); !strings.Contains(text, "Nothing was changed") {
					t.Error(text)
				}
				if err := book.Close(); err != nil {
					t.Error(err)
				}
				text := out.String()
				if last := text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:]; !strings.Contains(last, `"event":"`+stage.event+`"`) || !strings.Contains(last, `"code":"DeadlineExceeded"`) {
					t.Errorf("the audit ends with %s", last)
				}
			})
		}
	}
}
