package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// rig is the processes and the paths through them.
type rig struct {
	bareGRPC, grpc        *path
	direct, dialled, rest *path

	processes []*process
	conns     []*grpc.ClientConn
	http      *http.Client
	kill      context.CancelFunc
}

// paths lists them so that each of the program stands beside what it is compared
// with.
func (r *rig) paths() []*path { return []*path{r.bareGRPC, r.grpc, r.direct, r.rest, r.dialled} }

// path is one way to have a token generated.
type path struct {
	name  string
	of    *process // which answers
	call  func(ctx context.Context, caller int) error
	costs []cost // one for each round
}

// connections is how many gRPC connections the callers share.
const connections = 4

// newRig starts the processes, which run until close.
func newRig(ctx context.Context, o options, program string) (_ *rig, err error) {
	ctx, kill := context.WithCancel(ctx)
	r := &rig{kill: kill, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.callers}}}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	upstream, err := r.start(ctx, self, []string{"-role", "upstream"}, nil)
	if err != nil {
		return nil, err
	}
	bare, err := r.start(ctx, self, []string{"-role", "bare", "-upstream", upstream.REST}, nil)
	if err != nil {
		return nil, err
	}
	env := []string{
		"TFE_ADDRESS=" + upstream.REST, "TFE_TOKEN=" + credential, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
		"TEAMTOKEN_UPSTREAM_RATE=1000000", // with all that a rate costs, and no wait
		"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0",
	}
	if o.profile != "" {
		env = append(env, "TEAMTOKEN_PPROF=true")
	}
	ours, err := r.start(ctx, program, nil, env)
	if err != nil {
		return nil, err
	}
	if r.bareGRPC, err = r.overGRPC("bare gRPC", bare); err != nil {
		return nil, err
	}
	if r.grpc, err = r.overGRPC("teamtoken gRPC", ours); err != nil {
		return nil, err
	}
	r.direct = r.overHTTP("bare gateway, direct", bare, bare.REST)
	r.dialled = r.overHTTP("bare gateway, dialled", bare, bare.Dialled)
	r.rest = r.overHTTP("teamtoken REST", ours, ours.REST)
	return r, nil
}

func (r *rig) start(ctx context.Context, program string, args, env []string) (*process, error) {
	p, err := start(ctx, program, args, env)
	if err == nil {
		r.processes = append(r.processes, p)
	}
	return p, err
}

// close ends the processes.
func (r *rig) close() {
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	r.http.CloseIdleConnections()
	r.kill()
	for _, p := range r.processes {
		<-p.ended
	}
}

// measure loads the paths round by round, until all rounds are done or end has
// come. The first round warms up and does not count.
func (r *rig) measure(ctx context.Context, o options, rounds int, end time.Time) error {
	for round := -1; round < rounds && time.Now().Before(end); round++ {
		paths := r.paths()
		if round%2 != 0 {
			slices.Reverse(paths)
		}
		for _, p := range paths {
			c, err := p.load(ctx, o)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round >= 0 {
				p.costs = append(p.costs, c)
			}
		}
	}
	return nil
}

// add takes over what another rig measured.
func (r *rig) add(other *rig) {
	if r.grpc == nil {
		*r = *other
		return
	}
	for i, p := range r.paths() {
		p.costs = append(p.costs, other.paths()[i].costs...)
	}
}

// anyTeam stands for the team in the document of the upstream here.
const anyTeam = "team-BUHBEM97xboT8TVz"

// teamOf is whose token a caller generates: one's own, since changes of one team go
// one after the other.
func teamOf(caller int) string { return fmt.Sprintf("team-%016d", caller) }

func (r *rig) overGRPC(name string, p *process) (*path, error) {
	clients := make([]teamtokenv1.TeamTokenServiceClient, connections)
	for i := range clients {
		conn, err := grpc.NewClient(p.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		r.conns = append(r.conns, conn)
		clients[i] = teamtokenv1.NewTeamTokenServiceClient(conn)
	}
	return &path{name: name, of: p, call: func(ctx context.Context, caller int) error {
		resp, err := clients[caller%connections].GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: teamOf(caller)})
		if err == nil && resp.GetSecret() != generated {
			err = errOther
		}
		return err
	}}, nil
}

func (r *rig) overHTTP(name string, p *process, url string) *path {
	return &path{name: name, of: p, call: func(ctx context.Context, caller int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost,
			url+"/api/v2/teams/"+teamOf(caller)+"/authentication-token", strings.NewReader(requestDocument))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", jsonapi.MediaType)
		resp, err := r.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			return err
		case resp.StatusCode/100 != 2:
			return errors.New(resp.Status)
		case !strings.Contains(string(body), generated):
			return errOther
		}
		return nil
	}}
}

var errOther = errors.New("the answer does not hold the token that the upstream made")

// load puts one round's calls on the path, and returns what they cost.
func (p *path) load(ctx context.Context, o options) (cost, error) {
	idle, err := p.of.mallocs(ctx)
	if err != nil {
		return cost{}, err
	}
	mallocs, err := p.of.mallocs(ctx)
	if err != nil {
		return cost{}, err
	}
	asking := mallocs - idle // what it allocates to tell
	cpu, err := p.of.cpu()
	if err != nil {
		return cost{}, err
	}
	made, err := p.callAll(ctx, o)
	if err != nil {
		return cost{}, err
	}
	after, err := p.of.cpu()
	if err != nil {
		return cost{}, err
	}
	mallocsAfter, err := p.of.mallocs(ctx)
	if err != nil {
		return cost{}, err
	}
	return cost{
		cpuMicros:   float64((after - cpu).Nanoseconds()) / 1e3 / made,
		allocations: (mallocsAfter - mallocs - asking) / made,
	}, nil
}

// roundLimit ends a round of one path whatever it is to make.
const roundLimit = 15 * time.Second

// callAll makes the calls of a round, and returns how many it made. One that
// fails ends it: errors are cheap.
func (p *path) callAll(ctx context.Context, o options) (made float64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var begun, answered atomic.Int64
	end := time.Now().Add(roundLimit)
	var callers sync.WaitGroup
	for caller := range o.callers {
		callers.Go(func() {
			for ctx.Err() == nil && begun.Add(1) <= int64(o.calls) && time.Now().Before(end) {
				if err := p.call(ctx, caller); err != nil {
					cancel(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	callers.Wait()
	return float64(answered.Load()), context.Cause(ctx)
}

// profiled is how long a profile is, in seconds.
const profiled = 10

// writeProfiles writes a CPU profile of the program for each surface.
func writeProfiles(ctx context.Context, o options, program string) error {
	r, err := newRig(ctx, o, program)
	if err != nil {
		return err
	}
	defer r.close()
	for file, p := range map[string]*path{"grpc.pprof": r.grpc, "rest.pprof": r.rest} {
		loading, stop := context.WithCancel(ctx)
		var load sync.WaitGroup
		load.Go(func() {
			for loading.Err() == nil {
				_, _ = p.callAll(loading, o) // judged before
			}
		})
		profile, err := p.of.admin(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", profiled))
		stop()
		load.Wait()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.profile, file), profile, 0o600); err != nil {
			return err
		}
	}
	return nil
}
