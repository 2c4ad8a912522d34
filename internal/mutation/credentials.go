package mutation

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/calls"
	"github.com/teamtoken/teamtoken/internal/outcome"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

// rank is what is known of a call's credential, for the order in which the calls of
// a team are served: callers can make up as many credentials as they like.
type rank int

const (
	accepted rank = iota // by the upstream, for this team; the service's own always is
	unknown              // whether the upstream accepts it
	refused              // by the upstream, when it was to change something of this team
)

// rankWeights have three of the accepted served for each of the unknown, among which
// is whoever wants the first token of a team; and the refused only while none of these
// waits.
var rankWeights = []int{accepted: 3, unknown: 1, refused: 0}

// class is that of a rank in the queue that replicas share.
func (r rank) class() int {
	if r == refused {
		return 1
	}
	return 0
}

const (
	acceptedLife  = 5 * time.Minute
	refusedLife   = time.Minute
	maxRemembered = 8192
)

// credentials remember which callers' credentials the upstream has accepted and
// refused lately, and for which team. It keeps hashes alone, and a bounded number of
// them: what is forgotten is found out again. Whoever makes up credentials can't push
// out those that were accepted.
type credentials struct{ accepted, refused memory }

func newCredentials() credentials {
	return credentials{memory{life: acceptedLife}, memory{life: refusedLife}}
}

// pair is a hash of a credential and a team.
type pair [sha256.Size]byte

func pairOf(credential, team string) pair { return sha256.Sum256([]byte(team + "\x00" + credential)) }

// rankOf is the rank of the call of ctx, which is about a team.
func (a *credentials) rankOf(ctx context.Context, team string) rank {
	credential := calls.From(ctx).Credential
	if credential.IsZero() {
		return accepted
	}
	p, now := pairOf(credential.Reveal(), team), time.Now()
	switch {
	case a.refused.has(p, now): // even if the credential may read the token
		return refused
	case a.accepted.has(p, now):
		return accepted
	default:
		return unknown
	}
}

// learn notes whether the upstream accepted the credential of ctx. err is the result of
// a request about the team. changed says that the request was a change that does not
// need a token to exist, so that a 404 means that the credential may not change the team.
func (a *credentials) learn(ctx context.Context, team string, changed bool, err error) {
	credential := calls.From(ctx).Credential
	if credential.IsZero() {
		return
	}
	p, now := pairOf(credential.Reveal(), team), time.Now()
	switch {
	case err == nil:
		a.accepted.add(p, now)
		if changed {
			a.refused.remove(p)
		}
	case outcome.IsKind(err, upstream.Unauthorized, upstream.Forbidden), outcome.IsNotFound(err) && changed:
		a.accepted.remove(p)
		a.refused.add(p, now)
	}
}

// testCredential reads the team's token with the caller's credential, to find out
// whether the upstream accepts it, and returns its rank. It runs before the call waits
// for a lock that others wait for. An error means that the upstream does not accept the
// credential or can't be asked.
func (e *Engine) testCredential(ctx context.Context, team upstream.TeamID) (rank, error) {
	_, err := e.upstream.ReadToken(ctx, team)
	e.credentials.learn(ctx, team.String(), false, err)
	if outcome.IsKind(err, upstream.Unauthorized, upstream.Unreachable, upstream.RateLimited, upstream.LocallyRateLimited, upstream.Exhausted, upstream.Timeout) {
		return refused, err
	} // a team without a token, for example: the change itself shows it
	return e.credentials.rankOf(ctx, team.String()), nil
}

// CredentialAccepted notes whether the upstream accepted the credential of ctx for a
// request that read something of a team.
func (e *Engine) CredentialAccepted(ctx context.Context, team string, err error) {
	e.credentials.learn(ctx, team, false, err)
}

// memory is a bounded set of pairs, each for a time. It is safe for concurrent use.
type memory struct {
	life  time.Duration
	mu    sync.RWMutex
	until map[pair]time.Time
}

func (m *memory) has(p pair, now time.Time) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return now.Before(m.until[p])
}

func (m *memory) add(p pair, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil {
		m.until = make(map[pair]time.Time)
	}
	for old, until := range m.until { // in no order: any that goes is found out again
		if len(m.until) < maxRemembered {
			break
		}
		if now.After(until) || len(m.until) >= maxRemembered {
			delete(m.until, old)
		}
	}
	m.until[p] = now.Add(m.life)
}

func (m *memory) remove(p pair) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, p)
}
