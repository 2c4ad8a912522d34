package replicas_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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

func changesOf(sim *simulator.Simulator) int {
	n := 0
	for _, r := range sim.Requests() {
		if r.Method != http.MethodGet {
			n++
		}
	}
	return n
}

// Who can write to Redis has nothing revoked: what he writes, and what he kept and puts
// back, is not carried out, is not in the audit, is counted, and is out of the queue.
func TestRedisIsWrittenByAnother(t *testing.T) {
	t.Parallel()
	const team, unsettled = "{teamtoken}:team:" + simulator.SeedTeam, "{teamtoken}:unsettled"
	forged := func(method string) string {
		journal := map[string]any{"method": method, "caller": "ci", "call_id": "forged", "team_id": simulator.SeedTeam}
		return string(harness.Must(json.Marshal(map[string]any{
			"method": method, "team": simulator.SeedTeam, "description": "d", "bucket": "service", "journal": journal,
			"change": map[string]any{"method": method, "team": simulator.SeedTeam, "description": "d", "journal": journal}, "at": time.Now().UnixMilli(),
		})))
	}
	type scene struct {
		*redis.Client
		during, before string // dumps of the team: while its token was made, and when another one was left
	}
	for name, write := range map[string]func(ctx context.Context, s scene) error{
		"a change of his making": func(ctx context.Context, s scene) error {
			return s.HSet(ctx, team, "change", forged("CreateNamedToken"), "epoch", 9, "begun", 1, "until", 1, "hold", 1, "record", "", "by", "x").Err()
		},
		"a deletion of his making": func(ctx context.Context, s scene) error {
			return s.HSet(ctx, team, "change", forged("DeleteToken"), "epoch", 9, "begun", 1, "hold", 1, "by", "x").Err()
		},
		"the change as it was while the token was made": func(ctx context.Context, s scene) error {
			return s.RestoreReplace(ctx, team, 0, s.during).Err()
		},
		"a change that was settled": func(ctx context.Context, s scene) error {
			return s.RestoreReplace(ctx, team, 0, s.before).Err()
		},
		"the change of another team": func(ctx context.Context, s scene) error {
			return s.Copy(ctx, "{teamtoken}:team:"+simulator.AnotherTeam(0), team, 0, true).Err()
		},
		"not even a hash": func(ctx context.Context, s scene) error { return s.Set(ctx, team, forged("CreateNamedToken"), 0).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, url := harness.NewSimulator(t)
			r := statetest.Start(t)
			f := harness.Start(t, harness.WithRedis(t, harness.WithService(sim, url), r, "TEAMTOKEN_UNKNOWN_HOLD=1s"))
			s := scene{Client: redis.NewClient(&redis.Options{Addr: r.Address()})}
			t.Cleanup(func() { _ = s.Close() })
			create := func(id, team string) error {
				_, err := f.Client.CreateNamedToken(t.Context(), &teamtokenv1.CreateNamedTokenRequest{TeamId: team, Description: new("d"), RequestId: id})
				return err
			}
			sim.Inject(simulator.Fault{Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyNever})
			if harness.Details(create("left", simulator.SeedTeam)).Outcome != "unknown" {
				t.Fatal("it is known what became of the first call")
			}
			s.before = harness.Must(s.Dump(t.Context(), team).Result())
			harness.Eventually(t, "the first call is settled", func() bool { return s.ZCard(t.Context(), unsettled).Val() == 0 })
			sim.Reset()
			release, made := make(chan struct{}), make(chan error, 1)
			fault := sim.Inject(simulator.Fault{Method: http.MethodPost, Hold: release})
			go func() { made <- create("made", simulator.SeedTeam) }()
			<-fault.Hit()
			s.during = harness.Must(s.Dump(t.Context(), team).Result())
			close(release)
			if err := <-made; err != nil {
				t.Fatal(err)
			}
			sim.Inject(simulator.Fault{Method: http.MethodPost, Drop: simulator.DropRST, Apply: simulator.ApplyNever})
			_ = create("other", simulator.AnotherTeam(0))
			s.ZRem(t.Context(), unsettled, simulator.AnotherTeam(0))          // nobody resolves that one
			harness.Eventually(t, "the calls are in the audit", func() bool { // each has an attempt and an outcome; the first was settled besides
				return len(f.Audited()) == 7
			})

			changes, lines := changesOf(sim), len(f.Audited())
			if err := write(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if s.Type(t.Context(), team).Val() == "hash" {
				s.HDel(t.Context(), team, "holder", "due")
			}
			s.ZAdd(t.Context(), unsettled, redis.Z{Score: 1, Member: simulator.SeedTeam})
			harness.Eventually(t, "it is out of the queue", func() bool { return s.ZCard(t.Context(), unsettled).Val() == 0 })
			harness.Eventually(t, "it is counted", func() bool {
				return strings.Contains(f.Metrics(), `teamtoken_state_rejected_total{kind="change"} 1`)
			})
			if changesOf(sim) != changes {
				t.Errorf("requests: %v", sim.Requests())
			}
			for _, line := range f.Audited()[lines:] {
				t.Errorf("in the audit: %+v", line)
			}
			harness.Eventually(t, "the log says so", func() bool {
				return strings.Contains(f.Stderr.String(), "a value in the state store was rejected")
			})
			if minted := sim.Minted(); len(minted) != 1 || !minted[0].Live {
				t.Error("the token that was made is not live")
			}
			if err := create("after", simulator.SeedTeam); harness.Details(err).Reason != "DESCRIPTION_TAKEN" { // when the hold is over
				t.Error(err)
			}
		})
	}
}

// A record that another wrote answers nothing: the caller is told that nobody knows.
func TestRecordIsWrittenByAnother(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	r := statetest.Start(t)
	f := harness.Start(t, harness.WithRedis(t, harness.WithService(sim, url), r))
	client := redis.NewClient(&redis.Options{Addr: r.Address()})
	defer client.Close()
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("one")))
	harness.Must(f.Client.GenerateToken(t.Context(), harness.Asking("two")))
	records := harness.Must(client.Keys(t.Context(), "*record*").Result())
	answers := harness.Must(client.Keys(t.Context(), "*answer*").Result())
	if len(records) != 2 || len(answers) != 2 {
		t.Fatal(records, answers)
	}
	values := [2]string{harness.Must(client.Get(t.Context(), records[0]).Result()), harness.Must(client.Get(t.Context(), records[1]).Result())}
	sealed := [2]string{harness.Must(client.Get(t.Context(), answers[0]).Result()), harness.Must(client.Get(t.Context(), answers[1]).Result())}
	posted := harness.Posts(sim)
	for name, value := range map[string][2]string{
		"not applied, it says": {`{"params":"p","fate":"done","failure":"UPSTREAM_REJECTED not_applied"}`, `{}`},
		"each other's":         {values[1], values[0]},
		"cut":                  {values[0][:20], values[1][:20]},
	} {
		for i, key := range records {
			harness.Must(client.Set(t.Context(), key, value[i], redis.KeepTTL).Result())
		}
		for _, id := range []string{"one", "two"} {
			_, err := f.Client.GenerateToken(t.Context(), harness.Asking(id))
			if d := harness.Details(err); status.Code(err) != codes.Unknown || d.Outcome != "unknown" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for i, key := range records {
		harness.Must(client.Set(t.Context(), key, values[i], redis.KeepTTL).Result())
		harness.Must(client.Set(t.Context(), answers[i], sealed[1-i], redis.KeepTTL).Result())
	}
	for _, id := range []string{"one", "two"} {
		_, err := f.Client.GenerateToken(t.Context(), harness.Asking(id))
		if d := harness.Details(err); d.Reason != "ANSWER_EXPIRED" || d.Outcome != "applied_undelivered" {
			t.Errorf("each other's answers: %v", err)
		}
	}
	if harness.Posts(sim) != posted {
		t.Error("something was made")
	}
	for _, kind := range []string{"record", "answer"} {
		if want := fmt.Sprintf(`teamtoken_state_rejected_total{kind=%q}`, kind); !strings.Contains(f.Metrics(), want) {
			t.Errorf("no %s", want)
		}
	}
}
