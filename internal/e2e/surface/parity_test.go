package surface_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// call is an RPC and its message, as JSON; `team_id` is the seed's where it does
// not say.
type call struct {
	RPC     string         `yaml:"rpc"`
	Request map[string]any `yaml:"request"`
}

type parityCase struct {
	Name        string `yaml:"name"`
	call        `yaml:",inline"`
	Before      []call           `yaml:"before"`      // made without a fault, and must go well
	Credentials string           `yaml:"credentials"` // service, or caller
	Bearer      string           `yaml:"bearer"`      // with caller: good, wrong or none
	Upstream    string           `yaml:"upstream"`    // the simulator, unreachable or untrusted
	Fault       *simulator.Fault `yaml:"fault"`
	Deadline    time.Duration    `yaml:"deadline"`
	Want        outcome          `yaml:"want"`
}

// outcome is all that a caller learns.
type outcome struct {
	Code       string `yaml:"code"`
	Reason     string `yaml:"reason"`
	Outcome    string `yaml:"outcome"`
	HTTP       int    `yaml:"http"`        // over REST
	RetryAfter string `yaml:"retry_after"` // in seconds
	Sent       int    `yaml:"sent"`        // to the upstream
}

func parityCases(t *testing.T) []parityCase {
	t.Helper()
	content, err := os.ReadFile("testdata/parity.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []parityCase
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestParity(t *testing.T) {
	t.Parallel()
	sim, simURL := harness.NewSimulator(t)
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)

	for name, ca := range map[string]*harness.Authority{"plain": nil, "tls": harness.NewAuthority(t)} {
		service, callers := harness.WithService(sim, simURL), harness.WithCallers(sim, simURL)
		dead, strange := harness.WithService(sim, "http://127.0.0.1:1"), harness.WithService(sim, untrusted.URL)
		servers := map[string]*harness.Server{}
		for key, s := range map[string]harness.Settings{
			"service": service, "caller": callers, "unreachable": dead, "untrusted": strange,
		} {
			s.TLS = ca
			s.Env = append(s.Env, "TEAMTOKEN_UNKNOWN_HOLD=100ms") // one case waits for what the one before left
			servers[key] = harness.Start(t, s)
		}
		for i, c := range parityCases(t) {
			f := servers["service"]
			for _, key := range []string{c.Credentials, c.Upstream} {
				if key != "" {
					f = servers[key]
				}
			}
			for _, surface := range []string{"grpc", "rest"} {
				t.Run(c.Name+"/"+surface+"/"+name, func(t *testing.T) {
					runParity(t, f, sim, c, surface, fmt.Sprintf("%d-%s-%s", i, surface, name))
				})
			}
		}
	}
}

// runParity makes the call of c from a state where the team has no token. What
// stands as $N in the case is unique.
func runParity(t *testing.T, f *harness.Server, sim *simulator.Simulator, c parityCase, surface, unique string) {
	t.Helper()
	sim.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	bearer := sim.UserToken().Reveal()
	switch {
	case c.Credentials != "caller", c.Bearer == "none":
		bearer = ""
	case c.Bearer == "wrong":
		bearer = "wrong.atlasv1.token"
	}
	clear := call{RPC: "DeleteToken", Request: map[string]any{"allow_missing": true}}
	for _, before := range append([]call{clear}, c.Before...) {
		if c.Upstream != "" || c.Credentials == "caller" {
			continue
		}
		if got := grpcCall(f, ctx, sim, before, unique, ""); got.Code != "OK" {
			t.Fatalf("before: %+v: %+v", before, got)
		}
	}
	sim.Reset()
	if c.Fault != nil {
		sim.Inject(*c.Fault)
	}
	if c.Deadline > 0 && surface == "grpc" {
		ctx, cancel = context.WithTimeout(ctx, c.Deadline)
		defer cancel()
	}
	var got outcome
	if surface == "grpc" {
		got = grpcCall(f, ctx, sim, c.call, unique, bearer)
		got.HTTP = c.Want.HTTP
	} else {
		got = restCall(t, f, sim, c, unique, bearer)
		got.Code = c.Want.Code
	}
	got.Sent = len(sim.Requests())
	if got != c.Want {
		t.Errorf("\n got %+v\nwant %+v", got, c.Want)
	}
}

// message is the request of c. $N is unique to the case, $ID the id of the token
// that was made last.
func (c call) message(sim *simulator.Simulator, unique string) map[string]any {
	m := map[string]any{}
	switch c.RPC {
	case "GetTokenByID", "DeleteTokenByID":
		m["token_id"] = "$ID"
	case "ListTokens":
		m["organization"] = simulator.Organization
	default:
		m["team_id"] = simulator.SeedTeam
	}
	maps.Copy(m, c.Request)
	last := "at-none"
	if minted := sim.Minted(); len(minted) > 0 {
		last = minted[len(minted)-1].ID
	}
	for key, value := range m {
		if s, ok := value.(string); ok {
			m[key] = strings.NewReplacer("$N", unique, "$ID", last, "$USER", sim.TokenID(sim.UserToken()),
				"$ORGANIZATION", sim.TokenID(sim.OrganizationToken())).Replace(s)
		}
	}
	return m
}

func grpcCall(f *harness.Server, ctx context.Context, sim *simulator.Simulator, c call, unique, bearer string) outcome {
	method := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").
		Methods().ByName(protoreflect.Name(c.RPC))
	req, resp := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal(harness.Must(json.Marshal(c.message(sim, unique))), req); err != nil {
		return outcome{Code: "the case itself: " + err.Error()}
	}
	if bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
	}
	var trailer metadata.MD
	err := f.Conn.Invoke(ctx, "/teamtoken.v1.TeamTokenService/"+c.RPC, req, resp, grpc.Trailer(&trailer))
	st := status.Convert(err)
	d := apierror.FromStatus(st)
	got := outcome{Code: st.Code().String(), Reason: d.Reason, Outcome: d.Outcome}
	if d.RetryAfter > 0 {
		got.RetryAfter = strconv.Itoa(int((d.RetryAfter + time.Second - 1) / time.Second))
	}
	// Blind retries are forbidden unless nothing was changed, and then they are not.
	forbidden := len(trailer.Get("grpc-retry-pushback-ms")) == 1
	if forbidden != (d.Outcome != "" && d.Outcome != string(apierror.NotApplied)) {
		got.Reason += ", and the pushback is wrong"
	}
	if len(trailer.Get("x-request-id")) != 1 || st.Code() != codes.OK && d.RequestID != trailer.Get("x-request-id")[0] {
		got.Reason += ", and the request id is not told"
	}
	return got
}

func restCall(t *testing.T, f *harness.Server, sim *simulator.Simulator, c parityCase, unique, bearer string) outcome {
	t.Helper()
	m := c.message(sim, unique)
	method, path, body := harness.RESTRequest(c.RPC, m)
	u := f.REST + "/api/v2" + path
	req := harness.Must(http.NewRequestWithContext(t.Context(), method, u, strings.NewReader(body)))
	req.Header.Set("Content-Type", "application/vnd.api+json")
	if c.Deadline > 0 {
		req.Header.Set("Grpc-Timeout", fmt.Sprintf("%dm", c.Deadline.Milliseconds()))
	}
	if id, ok := m["request_id"].(string); ok {
		req.Header.Set("Idempotency-Key", id)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := f.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := outcome{HTTP: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
	if resp.Header.Get("Cache-Control") != "no-store" {
		got.Reason = "the answer may be stored; "
	}
	if resp.StatusCode < 400 {
		return got
	}
	doc := harness.ErrorsOf(t, resp)
	got.Reason += doc.Code
	got.Outcome = doc.Meta.Outcome
	if doc.Status != strconv.Itoa(resp.StatusCode) || doc.Title == "" || doc.Meta.RequestID != resp.Header.Get("X-Request-Id") {
		t.Errorf("not a whole error: %+v", doc)
	}
	return got
}

// Every reason has a case, here or where it is named.
func TestParityIsComplete(t *testing.T) {
	t.Parallel()
	elsewhere := map[string]string{
		"ANSWER_EXPIRED":            "TestAnswerExpired",
		"AUDIT_UNAVAILABLE":         "TestAuditDiskIsFull",
		"CALLER_ISSUER_UNAVAILABLE": "TestIssuerIsAway",
		"CALLER_NOT_ALLOWED":        "TestMatrix",
		"CALLER_QUOTA_EXCEEDED":     "TestCallsPerCaller",
		"INTERNAL":                  "TestPanic",
		"RETRY_WITHOUT_REQUEST_ID":  "TestRepeatedByAProxy",
		"SHUTTING_DOWN":             "TestShutdown",
		"STATE_STORE_UNAVAILABLE":   "TestRedisIsAway",
		"TEAM_BUSY":                 "TestTeamBusy",
		"UPSTREAM_BUDGET_EXHAUSTED": "TestBudgetIsUsedUp",
	}
	tests := harness.Tests(t)
	for name, test := range elsewhere {
		if _, known := teamtokenv1.ErrorReason_value["ERROR_REASON_"+name]; !known || !tests[test] {
			t.Errorf("%s is said to have %s: one of them is not there", name, test)
		}
	}
	seen := map[string]bool{}
	for _, c := range parityCases(t) {
		seen[c.Want.Reason] = true
	}
	for number := range teamtokenv1.ErrorReason_name {
		if r := teamtokenv1.ErrorReason(number); number != 0 && !seen[apierror.Name(r)] && elsewhere[apierror.Name(r)] == "" {
			t.Errorf("%v has no case", r)
		}
	}
}
