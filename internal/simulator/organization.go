package simulator

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math/big"
	"time"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
	"github.com/teamtoken/teamtoken/internal/secret"
)

// Organization is the name of the only organization that there is.
const Organization = "acme"

// SeedTeam is the id of the team in the vendor's sample request.
const SeedTeam = "team-BUHBEM97xboT8TVz"

// A Team of the organization.
type Team struct{ ID, Name string }

// Teams returns the teams that exist, SeedTeam first. The owners' team is not
// among them: its token is a credential of the simulator.
func Teams() []Team {
	return []Team{
		{SeedTeam, "platform"},
		{"team-Y7RyjccPVBKVEdp7", "payments"},
		{"team-58pFiBffTLMxLphR", "Data Science"},
		{"team-LnREdjodkvZFGdXL", "observability"},
	}
}

// AnotherTeam is the id of the team of this number, from 0, of as many as
// Options.Teams says.
func AnotherTeam(number int) string { return fmt.Sprintf("team-Another%09d", number) }

// organization is what upstream knows: every team and every token. It knows
// nothing of HTTP, and is not safe for concurrent use.
type organization struct {
	teams              map[string]*team
	minted             []*token // teams' tokens in the order of their making, also the revoked
	byID               map[string]*token
	bySecret           map[[sha256.Size]byte]*token // so that no secret lies bare in a key
	owners, user, self *token

	changes []Change
	request string // that is being carried out, by its X-Request-Id
}

// A Change is the truth about one thing that a request did to a team's tokens.
type Change struct {
	At              time.Time
	Team            string // its id
	Minted, Revoked string // the tokens' ids; empty if there is none
	Legacy          bool   // it is about the team's token without a description
	Request         string // the request's X-Request-Id
}

type team struct {
	Team
	legacy *token            // nil if there is none
	named  map[string]*token // by description
}

// A party is whoever may hold a token: a user, a team or an organization.
type party = jsonapi.Identifier

type token struct {
	id          string
	secret      secret.Text
	holder      party // who calls, when this token does
	createdBy   party
	team        *team // nil for a user's or an organization's
	description *string
	manager     bool // may do everything; otherwise it only authenticates
	revoked     bool

	createdAt             time.Time
	lastUsedAt, expiredAt *time.Time
}

func newOrganization(now time.Time, more int) *organization {
	o := &organization{
		teams:    map[string]*team{},
		byID:     map[string]*token{},
		bySecret: map[[sha256.Size]byte]*token{},
	}
	for _, t := range Teams() {
		o.teams[t.ID] = &team{Team: t, named: map[string]*token{}}
	}
	for i := range more {
		id := AnotherTeam(i)
		o.teams[id] = &team{Team: Team{id, fmt.Sprintf("another-%d", i)}, named: map[string]*token{}}
	}
	owners := &team{Team: Team{"team-6p5jTwJQXwqZBncC", "owners"}}
	user := party{ID: "user-62goNpx1ThQf689e", Type: jsonapi.Users} // the vendor's sample's
	self := party{ID: Organization, Type: jsonapi.Organizations}

	o.owners = &token{holder: party{ID: owners.ID, Type: jsonapi.Teams}, createdBy: user, team: owners}
	o.user = &token{holder: user, createdBy: user}
	o.self = &token{holder: self, createdBy: user}
	owners.legacy = o.owners
	for _, credential := range []*token{o.owners, o.user, o.self} {
		credential.manager = true
		o.issue(credential, now)
	}
	return o
}

// issue gives a token its id, its secret and its life.
func (o *organization) issue(t *token, now time.Time) {
	t.id = "at-" + alphanumerics(16)
	t.secret = secret.New(alphanumerics(14) + ".atlasv1." + alphanumerics(67))
	t.createdAt = milliseconds(now)
	o.byID[t.id] = t
	o.bySecret[digest(t.secret)] = t
}

// mint makes a team's token. One without description takes the place of the
// team's legacy token, which is revoked.
func (o *organization) mint(of *team, by *token, description *string, expiredAt *time.Time, now time.Time) *token {
	t := &token{
		holder:      party{ID: of.ID, Type: jsonapi.Teams},
		createdBy:   by.holder,
		team:        of,
		description: description,
		expiredAt:   expiredAt,
	}
	change := Change{At: now, Team: of.ID, Legacy: description == nil, Request: o.request}
	if description != nil {
		of.named[*description] = t
	} else {
		if of.legacy != nil {
			change.Revoked = of.legacy.id
			o.revoke(of.legacy)
		}
		of.legacy = t
	}
	o.issue(t, now)
	change.Minted = t.id
	o.changes = append(o.changes, change)
	o.minted = append(o.minted, t)
	return t
}

// revoke ends a token: it neither authenticates nor is found any more.
func (o *organization) revoke(t *token) {
	t.revoked = true
	delete(o.byID, t.id)
	delete(o.bySecret, digest(t.secret))
	switch {
	case t.team == nil:
	case t.description == nil:
		t.team.legacy = nil
	default:
		delete(t.team.named, *t.description)
	}
}

// find returns the token with that id, or nil. As the vendor's OpenAPI document
// has it, a team's id stands for the team's legacy token.
func (o *organization) find(id string) *token {
	if t := o.teams[id]; t != nil {
		return t.legacy
	}
	return o.byID[id]
}

// authenticate returns the live token with that secret, or nil, and notes that
// it was used.
func (o *organization) authenticate(text secret.Text, now time.Time) *token {
	t := o.bySecret[digest(text)]
	if t == nil || !t.live(now) {
		return nil
	}
	used := milliseconds(now)
	t.lastUsedAt = &used
	return t
}

func (t *token) live(now time.Time) bool { return !t.revoked && !t.expired(now) }

func (t *token) expired(now time.Time) bool { return t.expiredAt != nil && !now.Before(*t.expiredAt) }

func digest(text secret.Text) [sha256.Size]byte { return sha256.Sum256([]byte(text.Reveal())) }

// milliseconds is the precision of every date that upstream keeps.
func milliseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// alphanumerics returns n random characters.
func alphanumerics(n int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	text := make([]byte, n)
	for i := range text {
		at, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet)))) // never fails
		text[i] = alphabet[at.Int64()]
	}
	return string(text)
}
