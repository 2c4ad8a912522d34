package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// stateKey makes a file of keys, as an operator does.
func stateKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "state-key.json")
	if out, err := exec.Command(binary, "state-key", "new", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// sharing are settings of replicas that share what is in r.
func sharing(t *testing.T, s settings, r *statetest.Redis, env ...string) settings {
	t.Helper()
	s.env = append(append(append([]string{}, s.env...),
		"TEAMTOKEN_STATE="+r.URL(), "TEAMTOKEN_STATE_KEY_FILE="+stateKey(t)), env...)
	return s
}

// pair starts two replicas in front of one upstream.
func pair(t *testing.T, s settings) [2]*facade {
	t.Helper()
	return [2]*facade{start(t, s), start(t, s)}
}

func details(err error) apierror.Details { return apierror.FromStatus(status.Convert(err)) }

func posts(sim *simulator.Simulator) int {
	n := 0
	for _, r := range sim.Requests() {
		if r.Method == http.MethodPost {
			n++
		}
	}
	return n
}

// 64 calls at once under one request id, through two replicas, are one request
// upstream and 64 times its answer.
func TestOneRequestIDOverReplicas(t *testing.T) {
	sim, url := newSimulator(t)
	f := pair(t, sharing(t, withService(sim, url), statetest.Start(t)))
	for round := range 5 {
		sim.Reset()
		var calls sync.WaitGroup
		var mu sync.Mutex
		secrets := map[string]int{}
		for i := range 64 {
			calls.Go(func() {
				resp, err := f[i%2].client.GenerateToken(context.Background(), asking(fmt.Sprintf("deploy-%d", round)))
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
		if posts(sim) != 1 || len(minted) != round+1 || secrets[minted[round].Secret.Reveal()] != 64 {
			t.Errorf("%d requests to generate, %d tokens, %d different answers", posts(sim), len(minted), len(secrets))
		}
	}
}

// Of 64 calls through two replicas that expect the same token, one replaces it.
func TestOneExpectedTokenOverReplicas(t *testing.T) {
	sim, url := newSimulator(t)
	f := pair(t, sharing(t, withService(sim, url), statetest.Start(t)))
	before := must(f[0].client.GenerateToken(t.Context(), asking("")))
	sim.Reset()
	var calls sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for i := range 64 {
		calls.Go(func() {
			req := asking(fmt.Sprintf("swap-%d", i))
			req.ExpectedTokenId = before.GetTeamToken().GetId()
			_, err := f[i%2].client.GenerateToken(context.Background(), req)
			mu.Lock()
			defer mu.Unlock()
			seen[status.Code(err).String()+" "+details(err).Reason]++
		})
	}
	calls.Wait()
	if seen["OK "] != 1 || seen["Aborted TOKEN_CHANGED"] != 63 || posts(sim) != 1 {
		t.Errorf("%v, %d requests to generate", seen, posts(sim))
	}
}

// What one replica answered another one answers again, sealed by the same keys, as
// long as it is true.
func TestReplayByAnotherReplica(t *testing.T) {
	sim, url := newSimulator(t)
	r := statetest.Start(t)
	f := pair(t, sharing(t, withService(sim, url), r))
	first := must(f[0].client.GenerateToken(t.Context(), asking("once")))
	again := must(f[1].client.GenerateToken(t.Context(), asking("once")))
	if first.GetSecret() != again.GetSecret() || first.GetTeamToken().String() != again.GetTeamToken().String() {
		t.Error("another answer")
	}
	other := asking("once")
	other.TeamId = simulator.AnotherTeam(0)
	if _, err := f[1].client.GenerateToken(t.Context(), other); details(err).Reason != "REQUEST_ID_REUSED" {
		t.Error(err)
	}
	must(f[1].client.GenerateToken(t.Context(), asking("another")))
	_, err := f[0].client.GenerateToken(t.Context(), asking("once"))
	if d := details(err); d.Reason != "TOKEN_SUPERSEDED" || d.Outcome != "applied_undelivered" {
		t.Error(err)
	}

	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	for _, key := range must(client.Keys(t.Context(), "*").Result()) {
		dump := must(client.Dump(t.Context(), key).Result())
		for _, minted := range sim.Minted() {
			if strings.Contains(dump, minted.Secret.Reveal()) {
				t.Errorf("%s holds a secret", key)
			}
		}
	}
}

// An answer goes before what is known of it.
func TestAnswerExpired(t *testing.T) {
	sim, url := newSimulator(t)
	r := statetest.Start(t)
	f := start(t, sharing(t, withService(sim, url), r))
	must(f.client.GenerateToken(t.Context(), asking("old")))
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	answers := must(client.Keys(t.Context(), "*answer*").Result())
	if len(answers) != 1 {
		t.Fatal(answers)
	}
	if ttl := must(client.PTTL(t.Context(), answers[0]).Result()); ttl <= 9*time.Minute || ttl > 10*time.Minute {
		t.Errorf("it is kept for %v", ttl)
	}
	must(client.Del(t.Context(), answers...).Result()) // as in ten minutes
	_, err := f.client.GenerateToken(t.Context(), asking("old"))
	if d := details(err); status.Code(err) != codes.Aborted || d.Reason != "ANSWER_EXPIRED" || d.Outcome != "applied_undelivered" {
		t.Error(err)
	}
	if n := len(sim.Minted()); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

// Without Redis changes are refused before anything is done, reads go on, and
// both are as they were when it is back. A Redis that hangs is no different.
func TestRedisIsAway(t *testing.T) {
	sim, url := newSimulator(t)
	r := statetest.Start(t)
	s := sharing(t, withService(sim, url), r)
	s.env = append(s.env, "TEAMTOKEN_UPSTREAM_RATE=1000")
	f := start(t, s)
	must(f.client.GenerateToken(t.Context(), asking("")))
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
				_, err := f.client.GenerateToken(t.Context(), asking(fmt.Sprint(row.name, i)))
				if d := details(err); status.Code(err) != codes.Unavailable || d.Reason != "STATE_STORE_UNAVAILABLE" || d.Outcome != "not_applied" {
					t.Error(err)
				}
				if _, err := f.client.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
					t.Errorf("a read: %v", err)
				}
			}
			if code, _ := f.get(t, "/readyz"); code != http.StatusOK {
				t.Error("it is not ready, although it reads")
			}
			if len(sim.Minted()) != minted {
				t.Error("a call that was refused was made")
			}
			row.returns()
			eventually(t, "changes are made again", func() bool {
				_, err := f.client.GenerateToken(t.Context(), asking(""))
				return err == nil
			})
		})
	}
}

// A replica is killed between its request and the answer. Another one finds out
// what became of it, and the caller's retry gets a token that lives.
func TestAReplicaDies(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault simulator.Fault
		made  int // tokens, in all
	}{
		{"the request was carried out", simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyFirst, Delay: time.Minute}, 2},
		{"the request was not carried out", simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyNever, Drop: simulator.DropFIN, Delay: time.Minute}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			sim, url := newSimulator(t)
			f := pair(t, sharing(t, withService(sim, url), statetest.Start(t), "TEAMTOKEN_UNKNOWN_HOLD=2s"))
			fault := sim.Inject(row.fault)
			lost := make(chan error, 1)
			go func() { _, err := f[0].client.GenerateToken(context.Background(), asking("dies")); lost <- err }()
			<-fault.Hit()
			_ = f[0].cmd.Process.Kill()
			if <-lost == nil {
				t.Fatal("the replica that was killed has answered")
			}

			var resp *teamtokenv1.GenerateTokenResponse
			eventually(t, "the same request id has an answer", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var err error
				resp, err = f[1].client.GenerateToken(ctx, asking("dies"))
				if d := details(err); err != nil && d.Outcome != "unknown" {
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
	sim, url := newSimulator(t)
	s := withService(sim, url)
	s.env = append(s.env, "TEAMTOKEN_UNKNOWN_HOLD=2s")
	f := start(t, s)
	land := make(chan struct{})
	fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: land, Apply: simulator.ApplyLate, Drop: simulator.DropRST})
	_, err := f.client.GenerateToken(t.Context(), asking("late"))
	if d := details(err); status.Code(err) != codes.Unknown || d.Reason != "UPSTREAM_OUTCOME_UNKNOWN" || d.Outcome != "unknown" || d.RetryAfter <= 0 {
		t.Fatal(err)
	}
	short := func(requestID string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := f.client.GenerateToken(ctx, asking(requestID))
		return err
	}
	if d := details(short("")); d.Reason != "TEAM_BUSY" || d.Outcome != "not_applied" {
		t.Errorf("another call: %+v", d)
	}
	if d := details(short("late")); d.Reason != "UPSTREAM_OUTCOME_UNKNOWN" || d.Outcome != "unknown" {
		t.Errorf("the same call: %+v", d)
	}
	if n := posts(sim); n != 1 {
		t.Errorf("%d requests while nobody knew", n)
	}
	close(land)
	<-fault.Done()
	resp, err := f.client.GenerateToken(t.Context(), asking("another")) // waits until it is known
	if err != nil {
		t.Fatal(err)
	}
	if minted := sim.Minted(); len(minted) != 2 || !minted[1].Live || minted[1].Secret.Reveal() != resp.GetSecret() {
		t.Errorf("%d tokens", len(minted))
	}
	if d := details(short("late")); d.Reason != "TOKEN_SUPERSEDED" || d.Outcome != "applied_undelivered" {
		t.Errorf("the token of the first call was lost and has been replaced: %+v", d)
	}
	settled := false
	for _, line := range f.audited() {
		settled = settled || line.Event == "settled" && line.Outcome == "applied_undelivered" && line.IdempotencyKey == "late"
	}
	if !settled {
		t.Error("the audit does not say what became of it")
	}
}

// A token with a description whose answer was lost for good is found and deleted,
// also if it comes late.
func TestNoOrphan(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"carried out, and every answer lost": {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyFirst, Times: 3},
		"carried out late":                   {Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyLate, Delay: 300 * time.Millisecond},
		"an answer of no use":                {Method: http.MethodPost, Body: new("{}")},
		"an answer cut short":                {Method: http.MethodPost, Truncate: new(20)},
	} {
		t.Run(name, func(t *testing.T) {
			sim, url := newSimulator(t)
			s := withService(sim, url)
			s.env = append(s.env, "TEAMTOKEN_UNKNOWN_HOLD=1s")
			f := start(t, s)
			sim.Inject(fault)
			_, err := f.client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: new("d")})
			if err == nil || details(err).Outcome == "not_applied" {
				t.Fatal(err)
			}
			eventually(t, "nothing is left", func() bool {
				minted := sim.Minted()
				for _, m := range minted {
					if m.Live {
						return false
					}
				}
				return len(minted) > 0
			})
			resp, err := f.client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: new("d")})
			if err != nil || sim.TokenID(sim.Minted()[len(sim.Minted())-1].Secret) != resp.GetTeamToken().GetId() {
				t.Errorf("the description is free again: %v", err)
			}
		})
	}
}

// The upstream is never asked more often than it takes, by both replicas together,
// and nobody starves behind a caller who asks without end.
func TestBudgetOverReplicas(t *testing.T) {
	sim, url := listen(t, simulator.Options{Rate: 30, Teams: manyTeams})
	policy := "rules: [{name: all, callers: ['*'], methods: [GenerateToken], teams: ['team-*']}]"
	ca := newAuthority(t)
	s := sharing(t, withPolicy(t, sim, url, policy, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.caFile), statetest.Start(t), "TEAMTOKEN_UPSTREAM_RATE=27")
	s.tls, s.trusts = ca, ca.holder(t, "greedy")
	f := pair(t, s)
	modest := [2]teamtokenv1.TeamTokenServiceClient{}
	for i := range f {
		modest[i] = teamtokenv1.NewTeamTokenServiceClient(f[i].dialAs(t, ca.holder(t, "modest")))
	}
	ctx, stop := context.WithCancel(t.Context())
	var greedy sync.WaitGroup
	for i := range 80 {
		greedy.Go(func() {
			for ctx.Err() == nil {
				_, _ = f[i%2].client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i)})
			}
		})
	}
	eventually(t, "he has begun", func() bool { return len(sim.Requests()) > 30 })
	before := len(sim.Requests())
	const calls = 10
	for i := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
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
		if strings.Contains(replica.metrics(), `error_type="rate_limited"`) {
			t.Error("the upstream had to say no")
		}
	}
}

// A call for which there is no room in time is told how long it would have been.
func TestBudgetIsUsedUp(t *testing.T) {
	sim, url := newSimulator(t)
	s := withService(sim, url)
	s.env = append(s.env, "TEAMTOKEN_UPSTREAM_RATE=0.2")
	f := start(t, s)
	eventually(t, "it has asked what the upstream takes", func() bool { return len(sim.Requests()) == 1 })
	must(f.client.GenerateToken(t.Context(), asking("")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := f.client.GenerateToken(ctx, asking(""))
	if d := details(err); status.Code(err) != codes.ResourceExhausted || d.Reason != "UPSTREAM_BUDGET_EXHAUSTED" || d.Outcome != "not_applied" || d.RetryAfter <= 0 {
		t.Errorf("%v, %+v", err, d)
	}
	if n := len(sim.Minted()); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

// The keys that seal are rotated as the manual says, and no answer is lost.
func TestStateKeys(t *testing.T) {
	sim, url := newSimulator(t)
	s := sharing(t, withService(sim, url), statetest.Start(t))
	file := ""
	for _, v := range s.env {
		if path, ok := strings.CutPrefix(v, "TEAMTOKEN_STATE_KEY_FILE="); ok {
			file = path
		}
	}
	f := pair(t, s)
	want := must(f[0].client.GenerateToken(t.Context(), asking("old"))).GetSecret()
	for i, step := range []string{"add", "promote"} {
		if out, err := exec.Command(binary, "state-key", step, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, replica := range f {
			eventually(t, "it is in use", func() bool {
				return strings.Count(replica.stderr.String(), "a changed file is in use") == i+1
			})
		}
	}
	if info := must(os.Stat(file)); info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	if got := must(f[1].client.GenerateToken(t.Context(), asking("old"))).GetSecret(); got != want {
		t.Error("what the old key sealed does not open")
	}
	other := &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(0), RequestId: "new"}
	want = must(f[0].client.GenerateToken(t.Context(), other)).GetSecret()
	if got := must(f[1].client.GenerateToken(t.Context(), other)).GetSecret(); got != want {
		t.Error("what the new key sealed does not open elsewhere")
	}
}

// A call asks Redis twice on its way, with a request id or without.
func TestRoundTrips(t *testing.T) {
	sim, url := newSimulator(t)
	r := statetest.Start(t)
	s := sharing(t, withService(sim, url), r, "TEAMTOKEN_UNKNOWN_HOLD=10m") // and in the background once a second
	s.env = append(s.env, "TEAMTOKEN_UPSTREAM_RATE=100000")
	f := start(t, s)
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	asked := func() (n int) {
		info := must(client.Info(context.Background(), "commandstats").Result())
		for line := range strings.Lines(info) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
				count, _, _ := strings.Cut(rest, ",")
				n = must(strconv.Atoi(count))
			}
		}
		return n
	}
	must(f.client.GenerateToken(t.Context(), asking("")))
	const calls = 200
	for name, id := range map[string]func(int) string{
		"without a request id": func(int) string { return "" },
		"with one":             func(i int) string { return fmt.Sprint("r", i) },
	} {
		before, begun := asked(), time.Now()
		for i := range calls {
			must(f.client.GenerateToken(t.Context(), asking(id(i))))
		}
		background := 3 * (1 + int(time.Since(begun)/time.Second))
		n := asked() - before
		t.Logf("%s: %d steps of Redis in %d calls", name, n, calls)
		if n < 2*calls || n > 2*calls+background {
			t.Errorf("%s: %d steps of Redis in %d calls, and %d in the background", name, n, calls, background)
		}
	}
}
