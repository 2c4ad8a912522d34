package chaos_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// A chaos has callers who retry as Envoy and gRPC do, replicas that are killed and
// rolled, a Redis that is killed and hangs, and an upstream that does all that
// simulator.Fault can. What each caller was told is then held against what the
// upstream really did and what the audit says, see checked.
type chaos struct {
	t       *testing.T
	seed    uint64
	sim     *simulator.Simulator
	redis   *statetest.Redis
	ca      *harness.Authority
	set     harness.Settings
	logs    string // directory of the audit logs
	started int

	mu       sync.Mutex
	replicas [2]*replica
	attempts []*attempt
	keys     map[string][]*operation // that have ended, by caller
	found    []string                // violations
	broken   []breakage
	ops      atomic.Int64
	stop     chan struct{}
}

// replica is one that runs, and a client of each caller.
type replica struct {
	*harness.Server
	clients map[string]teamtokenv1.TeamTokenServiceClient
}

// attempt is one call as its caller saw it.
type attempt struct {
	id, caller, key  string
	rpc, team, token string
	expected         string
	call, ret        time.Time
	code             codes.Code
	reason, outcome  string
	answer           string // the token's id
	secret           string
	definite         bool
	operation        *operation
}

// operation is what a caller wants, and the same in all its attempts.
type operation struct {
	rpc, team, token, expected, key, description string
}

const (
	chaosHold  = 900 * time.Millisecond
	chaosTeams = 24
)

// chaosBounds are how long a chaos may last, and how many operations it may make.
type chaosBounds struct {
	duration   time.Duration
	operations int64
}

func newChaos(t *testing.T, seed uint64, program string) *chaos {
	t.Helper()
	sim, url := harness.Listen(t, simulator.Options{Rate: -1, Teams: chaosTeams})
	c := &chaos{
		t: t, seed: seed, sim: sim, redis: statetest.Start(t), ca: harness.NewAuthority(t), logs: t.TempDir(),
		keys: map[string][]*operation{}, stop: make(chan struct{}),
	}
	policy := "rules: [{name: all, callers: ['*'], methods: ['*'], teams: ['team-*'], organizations: [acme]}]"
	c.set = harness.WithRedis(t, harness.WithPolicy(t, sim, url, policy, "TEAMTOKEN_TLS_CLIENT_CA_FILE="+c.ca.CAFile), c.redis,
		"TEAMTOKEN_UNKNOWN_HOLD="+chaosHold.String(), "TEAMTOKEN_UPSTREAM_TIMEOUT=2s", "TEAMTOKEN_LOG_LEVEL=warn")
	c.set.Env = append(c.set.Env, "TEAMTOKEN_LOG_LEVEL=info") // the harness waits for a line of it
	c.set.TLS, c.set.Trusts, c.set.Program = c.ca, c.ca.ClientCert(t, "alice"), program
	for i := range c.replicas {
		c.replicas[i] = c.startReplica()
	}
	return c
}

var chaosCallers = []string{"alice", "bob"}

// breakage is what was done to a replica or to Redis.
type breakage struct {
	at   time.Time
	what string
}

func (c *chaos) broke(format string, args ...any) {
	c.broken = append(c.broken, breakage{time.Now(), fmt.Sprintf(format, args...)})
}

// startReplica starts one more replica, which writes its audit to a file of its own.
func (c *chaos) startReplica() *replica {
	c.started++
	set := c.set
	set.Env = append(append([]string{}, set.Env...), "TEAMTOKEN_AUDIT_FILE="+filepath.Join(c.logs, fmt.Sprintf("%04d.jsonl", c.started)))
	r := &replica{Server: harness.Start(c.t, set), clients: map[string]teamtokenv1.TeamTokenServiceClient{}}
	for _, caller := range chaosCallers {
		r.clients[caller] = teamtokenv1.NewTeamTokenServiceClient(r.DialAs(c.t, c.ca.ClientCert(c.t, caller)))
	}
	return r
}

// run does all of it within bounds, then lets what is left come to its end.
func (c *chaos) run(b chaosBounds) {
	var all, faults sync.WaitGroup
	faults.Go(func() { c.injectFaults(rand.New(rand.NewPCG(c.seed, 1))) })
	faults.Go(func() { c.disruptReplicas(rand.New(rand.NewPCG(c.seed, 2))) })
	until := time.Now().Add(b.duration)
	for i := range 2 * chaosTeams {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(c.seed, 100+uint64(i)))
			for n := 0; time.Now().Before(until) && c.ops.Load() < b.operations; n++ {
				c.operate(rng, i, n)
				c.ops.Add(1)
			}
		})
	}
	all.Wait()
	close(c.stop)
	faults.Wait()
	c.sim.Reset()
}

// injectFaults lets requests to the upstream go wrong, about one in six: no more than a
// few wait to hit one, or every request would be hit when there are few.
func (c *chaos) injectFaults(rng *rand.Rand) {
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	var waiting []*simulator.Injected
	for {
		waiting = slices.DeleteFunc(waiting, func(f *simulator.Injected) bool {
			select {
			case <-f.Hit():
				return true
			default:
				return false
			}
		})
		if len(waiting) > 3 {
			select {
			case <-tick.C:
				continue
			case <-c.stop:
				return
			}
		}
		select {
		case <-tick.C:
		case <-c.stop:
			return
		}
		ms := func(most int) time.Duration { return time.Duration(rng.IntN(most)) * time.Millisecond }
		f := []simulator.Fault{
			{Status: 503},
			{Status: 502, Apply: simulator.ApplyFirst, Body: new("<html>")},
			{Status: 504, Apply: simulator.ApplyLate, Delay: ms(700)},
			{Drop: simulator.DropRST},
			{Drop: simulator.DropRST, Apply: simulator.ApplyFirst},
			{Drop: simulator.DropFIN, Apply: simulator.ApplyFirst, Delay: ms(300)},
			{Drop: simulator.DropRST, Apply: simulator.ApplyLate, Delay: ms(700)},
			{Delay: ms(600)},
			{Delay: ms(600), Apply: simulator.ApplyLate},
			{Truncate: new(rng.IntN(200))},
			{Body: new("{}")},
			{Status: 429, Header: map[string]string{"X-RateLimit-Reset": "0.05"}},
			{Status: 429, Header: map[string]string{"X-RateLimit-Reset": ""}},
			{Header: map[string]string{"X-RateLimit-Reset": "soon", "Date": "yesterday", "X-Request-Id": "\x7f"}},
			{Status: 401},
			{Status: 409},
		}[rng.IntN(16)]
		f.Method = []string{"POST", "POST", "POST", "DELETE", "DELETE", "GET"}[rng.IntN(6)]
		waiting = append(waiting, c.sim.Inject(f))
	}
}

// disruptReplicas kills and rolls replicas, and has Redis die and hang, one at a time.
func (c *chaos) disruptReplicas(rng *rand.Rand) {
	for {
		pause := time.NewTimer(time.Duration(1000+rng.IntN(3000)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-c.stop:
			pause.Stop()
			return
		}
		i := rng.IntN(2)
		switch rng.IntN(6) {
		case 0, 1:
			c.broke("replica %s is killed", c.replicas[i].GRPC)
			_ = c.replicas[i].Cmd.Process.Signal(syscall.SIGKILL)
			<-c.replicas[i].Exited
			c.replace(i)
		case 2:
			old := c.replicas[i]
			c.replace(i)
			c.broke("replica %s is rolled", old.GRPC)
			old.Terminate()
		case 3: // as a machine does that is out of memory, or is moved
			c.broke("replica %s stands still", c.replicas[i].GRPC)
			_ = c.replicas[i].Cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
			_ = c.replicas[i].Cmd.Process.Signal(syscall.SIGCONT)
			c.broke("replica %s goes on", c.replicas[i].GRPC)
		case 4:
			c.broke("Redis is killed")
			c.redis.Kill()
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			c.redis.Run()
			c.broke("Redis runs")
		case 5:
			c.broke("Redis hangs")
			c.redis.Hang()
			time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond)
			c.redis.Resume()
			c.broke("Redis goes on")
		}
	}
}

func (c *chaos) replace(i int) {
	next := c.startReplica()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replicas[i] = next
}

// operate makes one operation, with all its attempts.
func (c *chaos) operate(rng *rand.Rand, worker, n int) {
	caller := chaosCallers[worker%2]
	op := &operation{team: simulator.AnotherTeam(rng.IntN(chaosTeams)), key: fmt.Sprintf("%d-%d", worker/2, n)} // both callers have it
	switch k := rng.IntN(100); {
	case k < 20:
		op.rpc, op.key = "GenerateToken", ""
	case k < 45:
		op.rpc = "GenerateToken"
	case k < 55:
		op.rpc = "GenerateToken"
		op.expected = c.look(rng, caller, op.team)
	case k < 63:
		op.rpc, op.key, op.description = "CreateNamedToken", "", fmt.Sprintf("d%d-%d", worker, n)
	case k < 75:
		op.rpc, op.description = "CreateNamedToken", fmt.Sprintf("d%d-%d", worker, n)
	case k < 80:
		op.rpc, op.key = "DeleteToken", ""
	case k < 83:
		op.rpc, op.key = "DeleteToken", ""
		op.expected = c.look(rng, caller, op.team)
	case k < 90:
		op.rpc, op.key = "DeleteTokenByID", ""
		if op.token = c.given(rng, caller); op.token == "" {
			return
		}
	default:
		op = c.earlier(rng, caller)
		if op == nil {
			return
		}
	}
	if op.key != "" && rng.IntN(10) == 0 { // a proxy that hedges
		var both sync.WaitGroup
		seed := rng.Uint64()
		for side := range 2 {
			both.Go(func() { c.retryUntilDefinite(rand.New(rand.NewPCG(seed, uint64(side))), caller, op) })
		}
		both.Wait()
	} else {
		c.retryUntilDefinite(rng, caller, op)
	}
	if op.rpc == "CreateNamedToken" && rng.IntN(8) > 0 { // or the lists grow for ever
		if token := c.answered(op); token != "" {
			c.retryUntilDefinite(rng, caller, &operation{rpc: "DeleteTokenByID", team: op.team, token: token})
		}
	}
	if op.key != "" {
		c.mu.Lock()
		c.keys[caller] = append(c.keys[caller], op)
		c.mu.Unlock()
	}
}

// retryUntilDefinite attempts an operation as long as its answer says that one may.
func (c *chaos) retryUntilDefinite(rng *rand.Rand, caller string, op *operation) {
	for tries := 0; ; tries++ {
		a := c.attempt(rng, caller, op)
		switch {
		case a.definite:
			return
		case op.key != "": // until it is known
			if tries > 200 {
				c.violate("no end of %+v: at %v %v %s %s", op, a.ret.UTC(), a.code, a.reason, a.outcome)
				return
			}
		case a.code != codes.Unavailable || tries == 2: // as retry policies do
			return
		}
		time.Sleep(time.Duration(10+rng.IntN(90)) * time.Millisecond)
	}
}

// attempt makes one call, and writes down what came of it.
func (c *chaos) attempt(rng *rand.Rand, caller string, op *operation) *attempt {
	c.mu.Lock()
	client := c.replicas[rng.IntN(2)].clients[caller]
	c.mu.Unlock()
	a := &attempt{
		id: requestid.New(), caller: caller, key: op.key, rpc: op.rpc, team: op.team, token: op.token, expected: op.expected, operation: op,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+rng.IntN(3000))*time.Millisecond)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, requestid.Header, a.id)
	a.call = time.Now()
	var err error
	var made interface {
		GetTeamToken() *teamtokenv1.TeamToken
		GetSecret() string
	}
	switch op.rpc {
	case "GenerateToken":
		made, err = client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: op.team, RequestId: op.key, ExpectedTokenId: op.expected})
	case "CreateNamedToken":
		made, err = client.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{TeamId: op.team, RequestId: op.key, Description: &op.description})
	case "DeleteToken":
		_, err = client.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: op.team, ExpectedTokenId: op.expected})
	case "DeleteTokenByID":
		_, err = client.DeleteTokenByID(ctx, &teamtokenv1.DeleteTokenByIDRequest{TokenId: op.token})
	case "GetToken":
		var resp *teamtokenv1.GetTokenResponse
		resp, err = client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: op.team})
		a.answer = resp.GetTeamToken().GetId()
	}
	a.ret = time.Now()
	d := harness.Details(err)
	a.code, a.reason, a.outcome = status.Code(err), d.Reason, d.Outcome
	if err == nil && made != nil {
		a.answer, a.secret = made.GetTeamToken().GetId(), made.GetSecret()
	}
	switch a.code {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.Internal, codes.PermissionDenied:
		a.definite = true
	case codes.Aborted:
		a.definite = a.reason != "TEAM_BUSY"
	case codes.Unknown: // with a request id it can be made good
		a.definite = a.outcome == "applied_undelivered" && op.key == ""
	}
	c.mu.Lock()
	c.attempts = append(c.attempts, a)
	c.mu.Unlock()
	return a
}

// look is the id of a team's token, or one that it never had.
func (c *chaos) look(rng *rand.Rand, caller, team string) string {
	if a := c.attempt(rng, caller, &operation{rpc: "GetToken", team: team}); a.answer != "" {
		return a.answer
	}
	return "at-0000000000000000"
}

// given is a token that a caller was given and may want to delete.
func (c *chaos) given(rng *rand.Rand, caller string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 20 {
		if len(c.attempts) == 0 {
			return ""
		}
		a := c.attempts[rng.IntN(len(c.attempts))]
		if a.rpc == "CreateNamedToken" && a.caller == caller && a.answer != "" {
			return a.answer
		}
	}
	return ""
}

// answered is the token that an operation has just given, if it did.
func (c *chaos) answered(op *operation) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range slices.Backward(c.attempts[max(0, len(c.attempts)-200):]) {
		if a.operation == op && a.answer != "" {
			return a.answer
		}
	}
	return ""
}

// earlier is an operation that the caller had an answer to, to be asked for again.
func (c *chaos) earlier(rng *rand.Rand, caller string) *operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.keys[caller]) == 0 {
		return nil
	}
	return c.keys[caller][rng.IntN(len(c.keys[caller]))]
}

// audited are the lines of all replicas' audits.
func (c *chaos) audited() (lines []audit.Record) {
	files, err := filepath.Glob(filepath.Join(c.logs, "*.jsonl"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			c.t.Fatal(err)
		}
		r := bufio.NewReader(f)
		for {
			line, err := r.ReadBytes('\n')
			var record audit.Record
			if json.Unmarshal(line, &record) == nil {
				lines = append(lines, record)
			}
			if strings.Contains(string(line), "atlasv1") {
				c.violate("a secret in the audit")
			}
			if err == io.EOF {
				break
			}
		}
		_ = f.Close()
	}
	return lines
}

func (c *chaos) violate(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

// waitResolved waits until nothing is left to be resolved, and for no longer than a
// few holds: a slow machine may need more than two.
func (c *chaos) waitResolved() {
	client := redis.NewClient(&redis.Options{Addr: c.redis.Address()})
	defer client.Close()
	begun := time.Now()
	for time.Since(begun) < 10*chaosHold {
		if n, err := client.ZCard(context.Background(), "{teamtoken}:unsettled").Result(); err == nil && n == 0 {
			c.t.Logf("all was settled %v after the last call, with a hold of %v", time.Since(begun).Round(time.Millisecond), chaosHold)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.violate("something is left unsettled %v after the last call", 10*chaosHold)
}

// TestChaos runs for a short time with the other tests, and for long by `make
// chaos`.
func TestChaos(t *testing.T) {
	bounds := chaosBounds{duration: 12 * time.Second, operations: 1 << 40}
	if text := os.Getenv("TEAMTOKEN_CHAOS_TIME"); text != "" {
		bounds.duration = harness.Must(time.ParseDuration(text))
	}
	if text := os.Getenv("TEAMTOKEN_CHAOS_OPERATIONS"); text != "" {
		bounds.operations = harness.Must(strconv.ParseInt(text, 10, 64))
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TEAMTOKEN_CHAOS_SEED"); text != "" {
		seed = harness.Must(strconv.ParseUint(text, 10, 64))
	}
	t.Logf("TEAMTOKEN_CHAOS_SEED=%d", seed)
	c := newChaos(t, seed, "")
	progress := time.NewTicker(30 * time.Second)
	defer progress.Stop()
	go func() {
		for {
			select {
			case <-progress.C:
				fmt.Fprintf(os.Stderr, "chaos: %d operations\n", c.ops.Load())
			case <-c.stop:
				return
			}
		}
	}()
	c.run(bounds)
	c.waitResolved()
	for _, violation := range c.checked() {
		t.Error(violation)
	}
}
