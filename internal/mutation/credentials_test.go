package mutation

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

func withCredential(ctx context.Context, credential secret.Text) context.Context {
	return calls.NewContext(ctx, &calls.Call{Credential: credential})
}

func remembering() *credentials {
	c := newCredentials()
	return &c
}

// What the upstream said to a credential decides on its rank, for that team and for a
// while. A step is "CREDENTIAL TEAM ANSWER" of a change, or of a read where it is in
// brackets, or a time that goes by; "CREDENTIAL TEAM = RANK" is what is to be seen.
func TestRanks(t *testing.T) {
	answers := map[string]error{
		"ok": nil, "401": &upstream.Error{Kind: upstream.Unauthorized}, "403": &upstream.Error{Kind: upstream.Forbidden},
		"404": &upstream.Error{Kind: upstream.NotFound}, "422": &upstream.Error{Kind: upstream.Rejected},
		"429": &upstream.Error{Kind: upstream.RateLimited}, "lost": &upstream.Error{Kind: upstream.NoResponse}, "other": errors.New("other"),
	}
	ranks := map[string]rank{"accepted": accepted, "unknown": unknown, "refused": refused}
	for _, row := range []struct{ name, steps string }{
		{"the service's own", "- t = accepted, - t 401, - t = accepted"},
		{"never seen", "a t = unknown"},
		{"a change", "a t ok, a t = accepted, a u = unknown, b t = unknown"},
		{"a read", "a t (ok), a t = accepted, a u = unknown"},
		{"it is forgotten", "a t ok, 4m, a t = accepted, 2m, a t = unknown"},
		{"it is used", "a t ok, 4m, a t ok, 4m, a t = accepted"},
		{"401", "a t 401, a t = refused, a u = unknown, 2m, a t = unknown"},
		{"403", "a t 403, a t = refused"},
		{"404 of a change", "a t 404, a t = refused"},
		{"404 of a read may be a team without a token", "a t (404), a t = unknown"},
		{"it was accepted, and is no more", "a t ok, a t 401, a t = refused, 2m, a t = unknown"},
		{"it may read, and not change", "a t (ok), a t 404, a t = refused, a t (ok), a t = refused, 2m, a t = accepted"},
		{"it may again", "a t 404, a t ok, a t = accepted"},
		{"what says nothing of it", "a t 422, a t 429, a t lost, a t other, a t = unknown, a t ok, a t 422, a t 429, a t lost, a t = accepted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := remembering()
				for step := range strings.SplitSeq(row.steps, ", ") {
					words := strings.Fields(step)
					if d, err := time.ParseDuration(step); err == nil {
						time.Sleep(d)
						continue
					}
					ctx := t.Context()
					if words[0] != "-" {
						ctx = withCredential(ctx, secret.New(words[0]))
					}
					if words[2] != "=" {
						answer := strings.Trim(words[2], "()")
						a.learn(ctx, words[1], answer == words[2], answers[answer])
					} else if got := a.rankOf(ctx, words[1]); got != ranks[words[3]] {
						t.Errorf("%s: %d", step, got)
					}
				}
			})
		})
	}
}

// However many credentials the upstream refuses, what is kept of them is bounded, and
// pushes out none that it has accepted.
func TestRanksAreBounded(t *testing.T) {
	a := remembering()
	honest := withCredential(t.Context(), secret.New("honest"))
	a.learn(honest, "t", true, nil)
	before := heap()
	for i := range 100_000 {
		a.learn(withCredential(context.Background(), secret.New(strconv.Itoa(i))), "t", true, &upstream.Error{Kind: upstream.Unauthorized})
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("%d KiB are kept", grown>>10)
	}
	if a.rankOf(honest, "t") != accepted {
		t.Error("one that was accepted is forgotten")
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
