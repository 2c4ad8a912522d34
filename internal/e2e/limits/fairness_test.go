package limits_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// flood makes calls without end, n at a time, until it is stopped. call is given a
// number that no other has.
func flood(t *testing.T, n int, call func(ctx context.Context, i int)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	var number atomic.Int64
	for range n {
		calls.Go(func() {
			for ctx.Err() == nil {
				call(ctx, int(number.Add(1)))
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); calls.Wait() })
	t.Cleanup(stop)
	return stop
}

// someones are clients of a caller on several connections.
func someones(t *testing.T, f *harness.Server, ca *harness.Authority, name string, connections int) (clients []teamtokenv1.TeamTokenServiceClient) {
	t.Helper()
	config := ca.ClientCert(t, name)
	for range connections {
		clients = append(clients, teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, config)))
	}
	return clients
}

const allowAll = "rules: [{name: all, callers: ['*'], methods: ['*'], teams: ['team-*'], organizations: ['*']}]"

// However many calls of one caller want a team's lock, another caller's next call
// has it after a few of them: in one replica and across two.
func TestCallersOfATeamTakeTurns(t *testing.T) {
	const took = 100 * time.Millisecond // upstream
	const soonEnough = 4 * time.Second  // and all calls of the greedy one together take nine
	plain := func(int) (string, time.Duration) { return "", time.Minute }
	for _, row := range []struct {
		name           string
		replicas       int
		greedy, modest []int // through which replicas each calls
		call           func(i int) (requestID string, deadline time.Duration)
	}{
		{"one replica", 1, []int{0}, []int{0}, plain},
		{"request ids, each of three calls", 1, []int{0}, []int{0}, func(i int) (string, time.Duration) { return fmt.Sprint("r", i/3), time.Minute }},
		{"one request id for all", 1, []int{0}, []int{0}, func(i int) (string, time.Duration) { return fmt.Sprint("r", i/90), time.Minute }},
		{"calls that leave", 1, []int{0}, []int{0}, func(i int) (string, time.Duration) { return "", time.Duration(50+i%500) * time.Millisecond }},
		{"through another replica", 2, []int{0}, []int{1}, plain},
		{"through both replicas", 2, []int{0, 1}, []int{0, 1}, plain},
		{"calls that leave another replica", 2, []int{0}, []int{1}, func(i int) (string, time.Duration) { return "", time.Duration(50+i%500) * time.Millisecond }},
	} {
		t.Run(row.name, func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			ca := harness.NewAuthority(t)
			s := harness.WithPolicy(t, sim, url, allowAll, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile)
			if row.replicas > 1 {
				s = harness.WithRedis(t, s, statetest.Start(t))
			}
			s.TLS, s.Trusts = ca, ca.ClientCert(t, "nobody-in-particular")
			s.Program = harness.Shipped() // how soon a call is served is a matter of the program as it is shipped
			var f []*harness.Server
			for range row.replicas {
				f = append(f, harness.Start(t, s))
			}
			var greedy, modest []teamtokenv1.TeamTokenServiceClient
			for _, i := range row.greedy {
				greedy = append(greedy, someones(t, f[i], ca, "greedy", 3)...)
			}
			for _, i := range row.modest {
				modest = append(modest, someones(t, f[i], ca, "modest", 1)...)
			}
			sim.Inject(simulator.Fault{Method: http.MethodPost, Times: -1, Delay: took})
			stop := flood(t, 90, func(ctx context.Context, i int) {
				id, deadline := row.call(i)
				ctx, cancel := context.WithTimeout(ctx, deadline)
				defer cancel()
				_, _ = greedy[i%len(greedy)].GenerateToken(ctx, harness.Asking(id))
			})
			harness.Eventually(t, "the greedy one has begun", func() bool { return len(sim.Requests()) > 3 })
			for i := range 4 {
				ctx, cancel := context.WithTimeout(t.Context(), soonEnough)
				_, err := modest[i%len(modest)].GenerateToken(ctx, harness.Asking(""))
				cancel()
				if err != nil {
					t.Errorf("the modest one's call %d: %v", i, err)
				}
			}
			stop()
		})
	}
}

// Credentials that the upstream does not accept, or not for this team, keep nobody
// from a team's lock who has one that it accepts; not even on the first call.
func TestCredentialsThatAreNotAccepted(t *testing.T) {
	const took = 200 * time.Millisecond // upstream
	invented := func(*testing.T, *simulator.Simulator, *harness.Server) []secret.Text {
		var made []secret.Text
		for i := range 200 {
			made = append(made, secret.New(fmt.Sprintf("invented%d.atlasv1.x", i)))
		}
		return made
	}
	// another team's token: the upstream knows it, and lets it do nothing here
	foreign := func(t *testing.T, sim *simulator.Simulator, f *harness.Server) []secret.Text {
		var made []secret.Text
		for i := range 20 {
			resp, err := f.Client.GenerateToken(harness.As(t.Context(), sim.OwnerToken()), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i)})
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, secret.New(resp.GetSecret()))
		}
		return made
	}
	for _, row := range []struct {
		name     string
		replicas int
		strange  func(*testing.T, *simulator.Simulator, *harness.Server) []secret.Text
		has      bool // the team has a token
		rate     int  // of the upstream
	}{
		{"invented", 1, invented, true, -1},
		{"invented, and the team has no token", 1, invented, false, -1},
		{"invented, and the upstream limits them", 1, invented, true, 30},
		{"foreign", 1, foreign, true, -1},
		{"invented, at two replicas", 2, invented, true, -1},
		{"foreign, at two replicas", 2, foreign, true, -1},
	} {
		t.Run(row.name, func(t *testing.T) {
			sim, url := harness.Listen(t, simulator.Options{Rate: row.rate, Teams: harness.ManyTeams})
			s := harness.WithCallers(sim, url)
			if row.replicas > 1 {
				s = harness.WithRedis(t, s, statetest.Start(t))
			}
			var f []*harness.Server
			for range row.replicas {
				f = append(f, harness.Start(t, s))
			}
			generate := func(ctx context.Context, f *harness.Server, credential secret.Text, team string) error {
				_, err := f.Client.GenerateToken(harness.As(ctx, credential), &teamtokenv1.GenerateTokenRequest{TeamId: team})
				return err
			}
			strange := row.strange(t, sim, f[0])
			if row.has {
				if err := generate(t.Context(), f[0], sim.OwnerToken(), simulator.SeedTeam); err != nil {
					t.Fatal(err)
				}
			}
			honest := f[len(f)-1]
			sim.Inject(simulator.Fault{Times: -1, Delay: took})
			began := time.Now()
			if err := generate(t.Context(), honest, sim.UserToken(), simulator.Teams()[1].ID); err != nil {
				t.Fatal(err)
			}
			alone := time.Since(began)

			var refused, other atomic.Int64
			stop := flood(t, 200, func(ctx context.Context, i int) {
				err := generate(ctx, f[i%len(f)], strange[i%len(strange)], simulator.SeedTeam)
				switch d := harness.Details(err); {
				case ctx.Err() != nil:
				case err == nil, d.Outcome != "not_applied":
					other.Add(1)
				default:
					refused.Add(1)
				}
			})
			harness.Eventually(t, "they have begun", func() bool { return refused.Load() > 50 })
			for i := range 3 {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
				err := generate(ctx, honest, sim.UserToken(), simulator.SeedTeam)
				cancel()
				if took := time.Since(began); err != nil || took > 3*alone+time.Second {
					t.Errorf("call %d: %v after %v; alone it takes %v", i, err, took, alone)
				}
			}
			stop()
			if other.Load() != 0 {
				t.Errorf("%d strange calls were not refused as not_applied", other.Load())
			}
		})
	}
}

// A credential that is good, and not known yet, has its turn beside a greedy one, even
// if the team has no token that it could be proved by.
func TestNewCredentialBesideAGreedyOne(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			s := harness.WithCallers(sim, url)
			if replicas > 1 {
				s = harness.WithRedis(t, s, statetest.Start(t))
			}
			f := []*harness.Server{harness.Start(t, s)}
			for len(f) < replicas {
				f = append(f, harness.Start(t, s))
			}
			create := func(ctx context.Context, f *harness.Server, credential secret.Text, description string) error {
				_, err := f.Client.CreateNamedToken(harness.As(ctx, credential),
					&teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: &description})
				return err
			}
			sim.Inject(simulator.Fault{Method: http.MethodPost, Times: -1, Delay: 100 * time.Millisecond})
			stop := flood(t, 90, func(ctx context.Context, i int) { _ = create(ctx, f[0], sim.UserToken(), fmt.Sprint("greedy ", i)) })
			harness.Eventually(t, "the greedy one has begun", func() bool { return len(sim.Requests()) > 3 })
			for i := range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				if err := create(ctx, f[replicas-1], sim.OrganizationToken(), fmt.Sprint("new ", i)); err != nil {
					t.Errorf("call %d: %v", i, err)
				}
				cancel()
			}
			stop()
		})
	}
}

// Whatever one caller asks for, twenty at a time, and whether it may have it or not,
// another caller's reads and changes are all carried out.
func TestFloodOfOneCaller(t *testing.T) {
	policy := `rules:
  - {name: modest, callers: [modest], methods: ["*"], teams: ["team-*"], organizations: [acme]}
  - {name: greedy, callers: [greedy], methods: ["*"], teams: ["team-A*", "team-B*"], organizations: [acme]}
  - {name: nosy, callers: [nosy], methods: [GetTokenByID, DeleteTokenByID], teams: ["team-Another000000001"]}
`
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, url, policy, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_UPSTREAM_RATE=27")
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "modest")
	f := harness.Start(t, s)
	const team, mine = simulator.SeedTeam, "team-Y7RyjccPVBKVEdp7"
	named := func(team, description string) string {
		return harness.Must(f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: team, Description: &description})).GetTeamToken().GetId()
	}
	known := named(mine, "known")
	ctx := context.Background()
	type client = teamtokenv1.TeamTokenServiceClient
	for _, row := range []struct {
		name string
		call func(ctx context.Context, c client, i int)
	}{
		{"GenerateToken", func(ctx context.Context, c client, _ int) { _, _ = c.GenerateToken(ctx, harness.Asking("")) }},
		{"GenerateToken of many teams", func(ctx context.Context, c client, i int) {
			_, _ = c.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i % harness.ManyTeams)})
		}},
		{"DeleteToken", func(ctx context.Context, c client, _ int) {
			_, _ = c.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: team})
		}},
		{"GetToken", func(ctx context.Context, c client, _ int) {
			_, _ = c.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: team})
		}},
		{"CreateNamedToken", func(ctx context.Context, c client, i int) {
			_, _ = c.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: team, Description: new(fmt.Sprint("d", i))})
		}},
		{"GetTokenByID", func(ctx context.Context, c client, i int) {
			_, _ = c.GetTokenByID(ctx, &teamtokenv1.GetTokenByIDRequest{TokenId: fmt.Sprint("at-", i)})
		}},
		{"DeleteTokenByID", func(ctx context.Context, c client, i int) {
			_, _ = c.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: fmt.Sprint("at-", i)})
		}},
		{"DeleteTokenByID of one that is there", func(ctx context.Context, c client, _ int) {
			_, _ = c.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: known})
		}},
		{"ListTokens", func(ctx context.Context, c client, _ int) {
			_, _ = c.ListTokens(ctx, &teamtokenv1.ListTokensRequest{Organization: "acme"})
		}},
	} {
		for _, who := range []string{"greedy", "nosy"} { // the one may do it, the other may not
			t.Run(row.name+" by "+who, func(t *testing.T) {
				clients := someones(t, f, ca, who, 2)
				stop := flood(t, 20, func(ctx context.Context, i int) {
					row.call(ctx, clients[i%2], i)
					select { // what is refused at once is not asked for as fast as can be
					case <-time.After(5 * time.Millisecond):
					case <-ctx.Done():
					}
				})
				defer stop()
				before := len(sim.Requests())
				harness.Eventually(t, "it has begun", func() bool { return who == "nosy" || len(sim.Requests()) > before+5 })
				for i := range 2 {
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					_, change := f.Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: mine})
					_, read := f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: mine})
					_, byID := f.Client.GetTokenByID(ctx, &teamtokenv1.GetTokenByIDRequest{TokenId: named(mine, fmt.Sprint(row.name, who, i))})
					cancel()
					if change != nil || read != nil || byID != nil {
						t.Errorf("a change: %v; a read: %v; by id: %v", change, read, byID)
					}
				}
			})
		}
	}
}

// waiting is how many requests wait for room, by the metrics.
func waiting(f *harness.Server) (n int) {
	for line := range strings.Lines(f.Metrics()) {
		if value, ok := strings.CutPrefix(line, "teamtoken_upstream_waiting"); ok {
			_, value, _ = strings.Cut(value, " ")
			_, _ = fmt.Sscan(value, &n)
		}
	}
	return n
}

// Whoever's limit it is that keeps a call from being made in time, its reason says so.
func TestWhoseLimitItIs(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, url, allowAll, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_UPSTREAM_RATE=2")
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "modest")
	f := harness.Start(t, s)
	modest := f.Client
	greedy := someones(t, f, ca, "greedy", 1)[0]
	read := func(ctx context.Context, c teamtokenv1.TeamTokenServiceClient, within time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		_, err := c.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
		return err
	}
	harness.Must(modest.GenerateToken(t.Context(), harness.Asking("")))
	var own atomic.Int64
	stop := flood(t, 20, func(ctx context.Context, _ int) {
		err := read(ctx, greedy, 2*time.Second)
		if d := harness.Details(err); d.Reason == "CALLER_QUOTA_EXCEEDED" && status.Code(err) == codes.ResourceExhausted && d.RetryAfter > 0 {
			own.Add(1)
		}
	})
	harness.Eventually(t, "others wait", func() bool { return waiting(f) > 10 })
	harness.Eventually(t, "one call that has to wait for others' has no time for that", func() bool {
		err := read(t.Context(), modest, 400*time.Millisecond)
		d := harness.Details(err)
		if d.Reason != "" && (d.Reason != "UPSTREAM_BUDGET_EXHAUSTED" || d.RetryAfter <= 0) {
			t.Fatal(err)
		}
		return d.Reason != "" // otherwise there was room, or the client itself was the first to see that time was over
	})
	if err := read(t.Context(), modest, 5*time.Second); err != nil {
		t.Errorf("one that can wait: %v", err)
	}
	harness.Eventually(t, "calls that wait for those of the same caller are told so", func() bool { return own.Load() > 0 })
	stop()
	sim.Inject(simulator.Fault{Status: http.StatusTooManyRequests, Header: map[string]string{"X-RateLimit-Reset": "20"}})
	for i := range 2 { // the one that was told, and the next one
		if err := read(t.Context(), modest, 5*time.Second); harness.Details(err).Reason != "UPSTREAM_RATE_LIMITED" {
			t.Errorf("the upstream said no, call %d: %v", i, err)
		}
	}
}

// One answer with a low limit slows down nobody but whose credential it is about, and
// only if it is a good one, until the upstream says otherwise.
func TestLowLimitOfOneAnswer(t *testing.T) {
	low := map[string]string{"X-RateLimit-Limit": "1"}
	none := secret.Text{}
	for _, row := range []struct {
		name    string
		callers bool // bring their own credentials
		fault   simulator.Fault
		of      secret.Text // whose call has that answer
		rate    string      // after it
	}{
		{"401 of an invented credential", true, simulator.Fault{Header: low}, secret.New("invented"), "27"},
		{"a good one of another credential", true, simulator.Fault{Header: low}, none, "27"},
		{"404", false, simulator.Fault{Status: 404, Header: low}, none, "27"},
		{"403", false, simulator.Fault{Status: 403, Header: low}, none, "27"},
		{"422", false, simulator.Fault{Status: 422, Header: low}, none, "27"},
		{"503, and then a good one", false, simulator.Fault{Status: 503, Header: low}, none, "27"},
		{"a good one", false, simulator.Fault{Header: low}, none, "0.9"},
		{"garbage", false, simulator.Fault{Header: map[string]string{"X-RateLimit-Limit": "-3"}}, none, "27"},
		{"no end of it", false, simulator.Fault{Header: map[string]string{"X-RateLimit-Limit": "Inf"}}, none, "27"},
		{"next to nothing", false, simulator.Fault{Header: map[string]string{"X-RateLimit-Limit": "0.001"}}, none, "27"},
	} {
		t.Run(row.name, func(t *testing.T) {
			sim, url := harness.Listen(t, simulator.Options{Rate: 1000})
			s := harness.WithService(sim, url)
			if row.callers {
				s = harness.WithCallers(sim, url)
			}
			s.Env = append(s.Env, "TEAMTOKEN_UPSTREAM_RATE=27")
			f := harness.Start(t, s)
			honest, other := sim.UserToken(), sim.OrganizationToken()
			if !row.callers {
				honest, other = none, none
			}
			read := func(credential secret.Text) error {
				ctx := t.Context()
				if row.callers {
					ctx = harness.As(ctx, credential)
				}
				_, err := f.Client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
				return err
			}
			ctx := t.Context()
			if row.callers {
				ctx = harness.As(ctx, honest)
			}
			if _, err := f.Client.GenerateToken(ctx, harness.Asking("")); err != nil {
				t.Fatal(err)
			}
			if !row.of.IsZero() {
				other = row.of
			}
			injected := sim.Inject(row.fault)
			_ = read(other)
			<-injected.Done()
			if got := rate(f); got != row.rate {
				t.Errorf("%s requests in a second, want %s", got, row.rate)
			}
			began := time.Now()
			for range 20 {
				if err := read(honest); err != nil {
					t.Error(err)
				}
			}
			if took := time.Since(began); took > 10*time.Second { // at 0.9 a second it would be 22
				t.Errorf("20 reads took %v", took)
			}
			if got := rate(f); got != "27" {
				t.Errorf("%s requests in a second in the end", got)
			}
		})
	}
}

// rate is how many requests may be made in a second, by the metrics.
func rate(f *harness.Server) string {
	for line := range strings.Lines(f.Metrics()) {
		if value, ok := strings.CutPrefix(line, "teamtoken_upstream_rate_per_second"); ok {
			_, value, _ = strings.Cut(value, " ")
			return strings.TrimSpace(value)
		}
	}
	return ""
}
