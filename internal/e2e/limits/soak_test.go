package limits_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/state/statetest"
)

// footprint is what a process holds.
type footprint struct{ goroutines, descriptors, resident int }

func measured(t *testing.T, f *harness.Server) (p footprint) {
	t.Helper()
	_, profile := f.Get(t, "/debug/pprof/goroutine?debug=1")
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &p.goroutines); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(f.Cmd.Process.Pid)
	p.descriptors = len(harness.Must(os.ReadDir(filepath.Join("/proc", pid, "fd"))))
	file := harness.Must(os.Open(filepath.Join("/proc", pid, "status")))
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			p.resident = harness.Must(strconv.Atoi(strings.Fields(rest)[0])) // KiB
		}
	}
	return p
}

// TestSoak runs at the upstream's rate limit, with a thousand calls a second beside
// that the policy denies: the upstream never has to say no, and in the end nothing
// is held that was not in the beginning. It is short unless TEAMTOKEN_SOAK_TIME says
// how long.
func TestSoak(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc")
	}
	duration := 5 * time.Second
	if text := os.Getenv("TEAMTOKEN_SOAK_TIME"); text != "" {
		duration = harness.Must(time.ParseDuration(text))
	}
	sim, url := harness.Listen(t, simulator.Options{Rate: 30, Teams: harness.ManyTeams})
	ca := harness.NewAuthority(t)
	s := harness.WithRedis(t, harness.WithPolicy(t, sim, url, "rules: [{name: all, callers: [friend], methods: ['*'], teams: ['team-*']}]",
		"TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile), statetest.Start(t),
		"TEAMTOKEN_UPSTREAM_RATE=27", "TEAMTOKEN_PPROF=true", "TEAMTOKEN_LOG_LEVEL=error", "TEAMTOKEN_AUDIT_FILE="+os.DevNull)
	s.Env = append(s.Env, "TEAMTOKEN_LOG_LEVEL=info")
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "friend")
	f := harness.Start(t, s)
	stranger := f.DialAs(t, ca.ClientCert(t, "stranger"))

	warm := func(d time.Duration) (made, denied int64) {
		var yes, no atomic.Int64
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					req := &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(i)}
					if n%2 == 0 {
						req.RequestId = requestid.New()
					}
					if _, err := f.Client.GenerateToken(t.Context(), req); err != nil {
						t.Errorf("within the rate: %v", err)
					}
					yes.Add(1)
				}
			})
		}
		all.Go(func() { // a thousand a second, as evenly as a ticker goes
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			client := teamtokenv1.NewTeamTokenServiceClient(stranger)
			var calls sync.WaitGroup
			defer calls.Wait()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				for range 10 {
					calls.Go(func() {
						_, err := client.GenerateToken(ctx, harness.Asking(""))
						if status.Code(err) == codes.PermissionDenied {
							no.Add(1)
						}
					})
				}
			}
		})
		all.Wait()
		return yes.Load(), no.Load()
	}
	warm(2 * time.Second)
	base := measured(t, f)
	limited := strings.Count(f.Metrics(), `error_type="rate_limited"`)
	made, denied := warm(duration)
	var after footprint
	defer func() { t.Logf("before %+v, after %+v (KiB)", base, after) }()
	held := func() bool {
		after = measured(t, f)
		return after.goroutines > base.goroutines+8 || after.descriptors > base.descriptors+4 || after.resident > base.resident*3/2+32<<10
	}
	for idle := time.Now(); held(); time.Sleep(100 * time.Millisecond) { // connections to the upstream are kept for 90 seconds
		if time.Since(idle) > 2*time.Minute {
			t.Fatal("it holds more than before")
		}
	}
	t.Logf("%v: %d tokens made, %.1f a second; %d calls denied, %.0f a second",
		duration, made, float64(made)/duration.Seconds(), denied, float64(denied)/duration.Seconds())
	if strings.Count(f.Metrics(), `error_type="rate_limited"`) > limited {
		t.Error("the upstream had to say no")
	}
	if rate := float64(made) / duration.Seconds(); rate < 20 && !harness.Raced() {
		t.Errorf("%.1f a second of the 27 that there are", rate)
	}
}
