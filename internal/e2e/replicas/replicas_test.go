package replicas_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// pair starts two replicas in front of one upstream.
func pair(t *testing.T, s harness.Settings) [2]*harness.Server {
	t.Helper()
	return [2]*harness.Server{harness.Start(t, s), harness.Start(t, s)}
}

// 64 calls at once under one request id, through two replicas, are one request
// upstream and 64 times its answer.
func TestOneRequestIDOverReplicas(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := pair(t, harness.WithRedis(t, harness.WithService(sim, url), statetest.Start(t)))
	for round := range 5 {
		sim.Reset()
		var calls sync.WaitGroup
		var mu sync.Mutex
		secrets := map[string]int{}
		for i := range 64 {
			calls.Go(func() {
				resp, err := f[i%2].Client.GenerateToken(context.Background(), harness.Asking(fmt.Sprintf("deploy-%d", round)))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				secrets[resp.GetSecret()]++
			})
		}
		calls.Wait()
		minted := sim.Minted()
		if harness.Posts(sim) != 1 || len(minted) != round+1 || secrets[minted[round].Secret.Reveal()] != 64 {
			t.Errorf("%d requests to generate, %d tokens, %d different answers", harness.Posts(sim), len(minted), len(secrets))
		}
	}
}

// Of 64 calls through two replicas that expect the same token, one replaces it.
func TestOneExpectedTokenOverReplicas(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := pair(t, harness.WithRedis(t, harness.WithService(sim, url), statetest.Start(t)))
	before := harness.Must(f[0].Client.GenerateToken(t.Context(), harness.Asking("")))
	sim.Reset()
	var calls sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for i := range 64 {
		calls.Go(func() {
			req := harness.Asking(fmt.Sprintf("swap-%d", i))
			req.ExpectedTokenId = before.GetTeamToken().GetId()
			_, err := f[i%2].Client.GenerateToken(context.Background(), req)
			mu.Lock()
			defer mu.Unlock()
			seen[status.Code(err).String()+" "+harness.Details(err).Reason]++
		})
	}
	calls.Wait()
	if seen["OK "] != 1 || seen["Aborted TOKEN_CHANGED"] != 63 || harness.Posts(sim) != 1 {
		t.Errorf("%v, %d requests to generate", seen, harness.Posts(sim))
	}
}

// What one replica answered another one answers again, sealed by the same keys, as
// long as it is true.
func TestReplayByAnotherReplica(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	f := pair(t, harness.WithRedis(t, harness.WithService(sim, url), r))
	first := harness.Must(f[0].Client.GenerateToken(t.Context(), harness.Asking("once")))
	again := harness.Must(f[1].Client.GenerateToken(t.Context(), harness.Asking("once")))
	if first.GetSecret() != again.GetSecret() || first.GetTeamToken().String() != again.GetTeamToken().String() {
		t.Error("another answer")
	}
	other := harness.Asking("once")
	other.TeamId = simulator.AnotherTeam(0)
	if _, err := f[1].Client.GenerateToken(t.Context(), other); harness.Details(err).Reason != "REQUEST_ID_REUSED" {
		t.Error(err)
	}
	harness.Must(f[1].Client.GenerateToken(t.Context(), harness.Asking("another")))
	_, err := f[0].Client.GenerateToken(t.Context(), harness.Asking("once"))
	if d := harness.Details(err); d.Reason != "TOKEN_SUPERSEDED" || d.Outcome != "applied_undelivered" {
		t.Error(err)
	}

	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	for _, key := range harness.Must(client.Keys(t.Context(), "*").Result()) {
		dump := harness.Must(client.Dump(t.Context(), key).Result())
		for _, minted := range sim.Minted() {
			if strings.Contains(dump, minted.Secret.Reveal()) {
				t.Errorf("%s holds a secret", key)
			}
		}
	}
}

// An answer goes before what is known of it.
func TestAnswerExpired(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	f := harness.Start(t, harness.WithRedis(t, harness.WithService(sim, url), r))
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("old")))
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	answers := harness.Must(client.Keys(t.Context(), "*answer*").Result())
	if len(answers) != 1 {
		t.Fatal(answers)
	}
	if ttl := harness.Must(client.PTTL(t.Context(), answers[0]).Result()); ttl <= 9*time.Minute || ttl > 10*time.Minute {
		t.Errorf("it is kept for %v", ttl)
	}
	harness.Must(client.Del(t.Context(), answers...).Result()) // as in ten minutes
	_, err := f.Client.GenerateToken(t.Context(), harness.Asking("old"))
	if d := harness.Details(err); status.Code(err) != codes.Aborted || d.Reason != "ANSWER_EXPIRED" || d.Outcome != "applied_undelivered" {
		t.Error(err)
	}
	if n := len(sim.Minted()); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

// Without Redis changes are refused before anything is done, reads go on, and
// both are as they were when it is back. A Redis that hangs is no different.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	s := harness.WithRedis(t, harness.WithService(sim, url), r)
	s.Env = append(s.Env, "TEAMTOKEN_UPSTREAM_RATE=1000")
	f := harness.Start(t, s)
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("")))
	for _, row := range []struct {
		name          string
		goes, returns func()
	}{
		{"killed", r.Kill, r.Run},
		{"hung", r.Hang, r.Resume},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.goes()
			minted := len(sim.Minted())
			for i := range 5 {
				_, err := f.Client.GenerateToken(t.Context(), harness.Asking(fmt.Sprint(row.name, i)))
				if d := harness.Details(err); status.Code(err) != codes.Unavailable || d.Reason != "STATE_STORE_UNAVAILABLE" || d.Outcome != "not_applied" {
					t.Error(err)
				}
				if _, err := f.Client.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
					t.Errorf("a read: %v", err)
				}
			}
			if code, _ := f.Get(t, "/readyz"); code != http.StatusOK {
				t.Error("it is not ready, although it reads")
			}
			if len(sim.Minted()) != minted {
				t.Error("a call that was refused was made")
			}
			row.returns()
			harness.Eventually(t, "changes are made again", func() bool {
				_, err := f.Client.GenerateToken(t.Context(), harness.Asking(""))
				return err == nil
			})
		})
	}
}

// A replica is killed between its request and the answer. Another one finds out
// what became of it, and the caller's retry gets a token that lives.
func TestAReplicaDies(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		fault simulator.Fault
		made  int // tokens, in all
	}{
		{"the request was carried out", simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyFirst, Delay: time.Minute}, 2},
		{"the request was not carried out", simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyNever, Drop: simulator.DropFIN, Delay: time.Minute}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			f := pair(t, harness.WithRedis(t, harness.WithService(sim, url), statetest.Start(t), "TEAMTOKEN_UNKNOWN_HOLD=2s"))
			fault := sim.Inject(row.fault)
			lost := make(chan error, 1)
			go func() { _, err := f[0].Client.GenerateToken(context.Background(), harness.Asking("dies")); lost <- err }()
			<-fault.Hit()
			_ = f[0].Cmd.Process.Kill()
			if <-lost == nil {
				t.Fatal("the replica that was killed has answered")
			}

			var resp *teamtokenv1.GenerateTokenResponse
			harness.Eventually(t, "the same request id has an answer", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var err error
				resp, err = f[1].Client.GenerateToken(ctx, harness.Asking("dies"))
				if d := harness.Details(err); err != nil && d.Outcome != "unknown" {
					t.Fatalf("meanwhile: %v, %+v", err, d)
				}
				return err == nil
			})
			minted := sim.Minted()
			if last := minted[len(minted)-1]; len(minted) != row.made || last.Secret.Reveal() != resp.GetSecret() || !last.Live {
				t.Errorf("%d tokens, and the last one's secret is not the answer's, or dead", len(minted))
			}
		})
	}
}

// After a lost answer that may still come true the team is held back: other calls
// find it busy, the same request is told that nobody knows yet, and in the end it
// gets its token.
func TestHold(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_UNKNOWN_HOLD=2s")
	f := harness.Start(t, s)
	land := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: land, Apply: simulator.ApplyLate, Drop: simulator.DropRST})
	_, err := f.Client.GenerateToken(t.Context(), harness.Asking("late"))
	if d := harness.Details(err); status.Code(err) != codes.Unknown || d.Reason != "UPSTREAM_OUTCOME_UNKNOWN" || d.Outcome != "unknown" || d.RetryAfter <= 0 {
		t.Fatal(err)
	}
	short := func(requestID string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := f.Client.GenerateToken(ctx, harness.Asking(requestID))
		return err
	}
	if d := harness.Details(short("")); d.Reason != "TEAM_BUSY" || d.Outcome != "not_applied" {
		t.Errorf("another call: %+v", d)
	}
	if d := harness.Details(short("late")); d.Reason != "UPSTREAM_OUTCOME_UNKNOWN" || d.Outcome != "unknown" {
		t.Errorf("the same call: %+v", d)
	}
	if n := harness.Posts(sim); n != 1 {
		t.Errorf("%d requests while nobody knew", n)
	}
	close(land)
	<-fault.Done()
	resp, err := f.Client.GenerateToken(t.Context(), harness.Asking("another")) // waits until it is known
	if err != nil {
		t.Fatal(err)
	}
	if minted := sim.Minted(); len(minted) != 2 || !minted[1].Live || minted[1].Secret.Reveal() != resp.GetSecret() {
		t.Errorf("%d tokens", len(minted))
	}
	if d := harness.Details(short("late")); d.Reason != "TOKEN_SUPERSEDED" || d.Outcome != "applied_undelivered" {
		t.Errorf("the token of the first call was lost and has been replaced: %+v", d)
	}
	settled := false
	for _, line := range f.Audited() {
		settled = settled || line.Event == "settled" && line.Outcome == "applied_undelivered" && line.IdempotencyKey == "late"
	}
	if !settled {
		t.Error("the audit does not say what became of it")
	}
}

// A token with a description whose answer was lost for good is found and deleted,
// also if it comes late.
func TestNoOrphan(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]simulator.Fault{
		"carried out, and every answer lost": {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyFirst, Times: 3},
		"carried out late":                   {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyLate, Delay: 300 * time.Millisecond},
		"an answer of no use":                {Method: http.MethodPost, Body: new("{}")},
		"an answer cut short":                {Method: http.MethodPost, Truncate: new(20)},
	} {
		t.Run(name, func(t *testing.T) {
			sim, url := harness.NewSimulator(t)
			s := harness.WithService(sim, url)
			s.Env = append(s.Env, "TEAMTOKEN_UNKNOWN_HOLD=1s")
			f := harness.Start(t, s)
			sim.Inject(fault)
			_, err := f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: new("d")})
			if err == nil || harness.Details(err).Outcome == "not_applied" {
				t.Fatal(err)
			}
			harness.Eventually(t, "nothing is left", func() bool {
				minted := sim.Minted()
				for _, m := range minted {
					if m.Live {
						return false
					}
				}
				return len(minted) > 0
			})
			resp, err := f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: new("d")})
			if err != nil || sim.TokenID(sim.Minted()[len(sim.Minted())-1].Secret) != resp.GetTeamToken().GetId() {
				t.Errorf("the description is free again: %v", err)
			}
		})
	}
}

// The upstream is never asked more often than it takes, by both replicas together,
// and nobody starves behind a caller who asks without end.
func TestBudgetOverReplicas(t *testing.T) {
	sim, url := harness.Listen(t, simulator.Options{Rate: 30, Teams: harness.ManyTeams})
	policy := "rules: [{name: all, callers: ['*'], methods: [GenerateToken], teams: ['team-*']}]"
	ca := harness.NewAuthority(t)
	s := harness.WithRedis(t, harness.WithPolicy(t, sim, url, policy, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile), statetest.Start(t), "TEAMTOKEN_UPSTREAM_RATE=27")
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "greedy")
	f := pair(t, s)
	modest := [2]teamtokenv1.TeamTokenServiceClient{}
	for i := range f {
		modest[i] = teamtokenv1.NewTeamTokenServiceClient(f[i].DialAs(t, ca.ClientCert(t, "modest")))
	}
	ctx, stop := context.WithCancel(t.Context())
	var greedy sync.WaitGroup
	for i := range 80 {
		greedy.Go(func() {
			for ctx.Err() == nil {
				_, _ = f[i%2].Client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i)})
			}
		})
	}
	harness.Eventually(t, "he has begun", func() bool { return len(sim.Requests()) > 30 })
	before := len(sim.Requests())
	const calls = 10
	for i := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		if _, err := modest[i%2].GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(100)}); err != nil {
			t.Errorf("the modest caller: %v", err)
		}
		cancel()
	}
	during := len(sim.Requests()) - before
	stop()
	greedy.Wait()
	if during > 6*calls { // in turns it is twice as many; one after the other it would be eighty times
		t.Errorf("%d requests went by for the modest caller's %d", during, calls)
	}
	for _, replica := range f {
		if strings.Contains(replica.Metrics(), `error_type="rate_limited"`) {
			t.Error("the upstream had to say no")
		}
	}
}

// A call for which there is no room in time is told how long it would have been.
func TestBudgetIsUsedUp(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "TEAMTOKEN_UPSTREAM_RATE=0.2")
	f := harness.Start(t, s)
	harness.Eventually(t, "it has asked what the upstream takes", func() bool { return len(sim.Requests()) == 1 })
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := f.Client.GenerateToken(ctx, harness.Asking(""))
	if d := harness.Details(err); status.Code(err) != codes.ResourceExhausted || d.Reason != "UPSTREAM_BUDGET_EXHAUSTED" || d.Outcome != "not_applied" || d.RetryAfter <= 0 {
		t.Errorf("%v, %+v", err, d)
	}
	if n := len(sim.Minted()); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

// The keys that seal are rotated as the manual says, and no answer is lost.
func TestStateKeys(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	s := harness.WithRedis(t, harness.WithService(sim, url), statetest.Start(t))
	file := ""
	for _, v := range s.Env {
		if path, ok := strings.CutPrefix(v, "TEAMTOKEN_STATE_KEY_FILE="); ok {
			file = path
		}
	}
	f := pair(t, s)
	want := harness.Must(f[0].Client.GenerateToken(t.Context(), harness.Asking("old"))).GetSecret()
	for i, step := range []string{"add", "promote"} {
		if out, err := exec.Command(harness.Binary, "state-key", step, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, replica := range f {
			harness.Eventually(t, "it is in use", func() bool {
				return strings.Count(replica.Stderr.String(), "a changed file is in use") == i+1
			})
		}
	}
	if info := harness.Must(os.Stat(file)); info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	if got := harness.Must(f[1].Client.GenerateToken(t.Context(), harness.Asking("old"))).GetSecret(); got != want {
		t.Error("what the old key sealed does not open")
	}
	other := &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(0), RequestId: "new"}
	want = harness.Must(f[0].Client.GenerateToken(t.Context(), other)).GetSecret()
	if got := harness.Must(f[1].Client.GenerateToken(t.Context(), other)).GetSecret(); got != want {
		t.Error("what the new key sealed does not open elsewhere")
	}
}

// A call asks Redis twice on its way, with a request id or without.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	s := harness.WithRedis(t, harness.WithService(sim, url), r, "TEAMTOKEN_UNKNOWN_HOLD=10m") // and in the background once a second
	s.Env = append(s.Env, "TEAMTOKEN_UPSTREAM_RATE=100000")
	f := harness.Start(t, s)
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	asked := func() (n int) {
		info := harness.Must(client.Info(context.Background(), "commandstats").Result())
		for line := range strings.Lines(info) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
				count, _, _ := strings.Cut(rest, ",")
				n = harness.Must(strconv.Atoi(count))
			}
		}
		return n
	}
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("")))
	const calls = 200
	for name, id := range map[string]func(int) string{
		"without a request id": func(int) string { return "" },
		"with one":             func(i int) string { return fmt.Sprint("r", i) },
	} {
		before, begun := asked(), time.Now()
		for i := range calls {
			harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking(id(i))))
		}
		background := 3 * (1 + int(time.Since(begun)/time.Second))
		n := asked() - before
		t.Logf("%s: %d steps of Redis in %d calls", name, n, calls)
		if n < 2*calls || n > 2*calls+background {
			t.Errorf("%s: %d steps of Redis in %d calls, and %d in the background", name, n, calls, background)
		}
	}
}
