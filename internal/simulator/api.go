package simulator

import (
	"crypto/rand"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// A call is a request that is being carried out. The simulator is locked while
// it is.
type call struct {
	*http.Request
	body   []byte
	caller *token // who calls; nil if nobody authenticated
	id     string // what the * in the route's path stands for
	now    time.Time
}

// access is what a route asks of the caller.
type access int

const (
	anyone access = iota
	anyCredential
	managers // nobody else can tell that there is anything
)

type route struct {
	method, path string // * stands for one segment
	access       access
	act          func(*Simulator, *call) answer
}

const api = "/api/v2"

var routes = []route{
	{"POST", api + "/teams/*/authentication-token", managers, (*Simulator).generate},
	{"GET", api + "/teams/*/authentication-token", managers, (*Simulator).readLegacy},
	{"DELETE", api + "/teams/*/authentication-token", managers, (*Simulator).deleteLegacy},
	{"POST", api + "/teams/*/authentication-tokens", managers, (*Simulator).createNamed},
	{"GET", api + "/authentication-tokens/*", managers, (*Simulator).readByID},
	{"DELETE", api + "/authentication-tokens/*", managers, (*Simulator).deleteByID},
	{"GET", api + "/organizations/*/team-tokens", managers, (*Simulator).list},

	// Not of the Team Token API: what clients look at before they use it.
	{"GET", api + "/organizations", anyCredential, (*Simulator).listOrganizations},
	{"GET", api + "/organizations/*", anyCredential, (*Simulator).readOrganization},
	{"GET", api + "/account/details", anyCredential, (*Simulator).readAccount},
	{"GET", api + "/ping", anyone, (*Simulator).ping},
	{"GET", "/.well-known/terraform.json", anyone, (*Simulator).discover},
}

// match returns what the * stands for.
func (rt route) match(r *http.Request) (id string, ok bool) {
	if !strings.Contains(rt.path, "*") {
		return "", r.URL.Path == rt.path && r.Method == rt.method
	}
	before, after, _ := strings.Cut(rt.path, "*")
	id, ok = strings.CutPrefix(r.URL.Path, before)
	if ok {
		id, ok = strings.CutSuffix(id, after)
	}
	return id, ok && r.Method == rt.method && id != "" && !strings.Contains(id, "/")
}

// carryOut does what upstream does with a request.
func (s *Simulator) carryOut(r *http.Request, body []byte) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &call{Request: r, body: body, now: s.options.Now()}
	c.caller = s.organization.authenticate(bearer(r), c.now)
	s.organization.request = r.Header.Get("X-Request-Id")
	remaining, wait := s.limit.take(user(c), c.now)

	a := s.dispatch(c, wait)
	brand(a.header)
	s.limit.head(a.header, remaining, wait)
	return a
}

func (s *Simulator) dispatch(c *call, wait time.Duration) answer {
	if wait > 0 {
		return refusal(http.StatusTooManyRequests)
	}
	for _, rt := range routes {
		id, ok := rt.match(c.Request)
		switch {
		case !ok:
			continue
		case rt.access != anyone && c.caller == nil:
			return refusal(http.StatusUnauthorized)
		case rt.access == managers && !c.caller.manager:
			return refusal(http.StatusNotFound)
		}
		c.id = id
		return rt.act(s, c)
	}
	return refusal(http.StatusNotFound)
}

// user is whose requests a call is counted among: all of a user's tokens share
// one limit, and so do all strangers at one address.
func user(c *call) string {
	if c.caller != nil {
		return c.caller.holder.ID
	}
	host, _, _ := net.SplitHostPort(c.RemoteAddr)
	return host
}

// brand puts the headers of every answer of the vendor's.
func brand(h http.Header) {
	h.Set("TFP-API-Version", "2.6")
	h.Set("TFP-AppName", "HCP Terraform")
	h.Set("X-Request-Id", rand.Text())
}

func (s *Simulator) generate(c *call) answer {
	team := s.organization.teams[c.id]
	if team == nil {
		return refusal(http.StatusNotFound)
	}
	var asked wanted
	if len(c.body) > 0 {
		var err error
		if asked, err = parse(c.body); err != nil {
			return reject(err)
		}
	}
	expiredAt, err := s.expiry(asked, c.now)
	if err != nil {
		return reject(err)
	}
	// As documented, this token has no description, whatever was asked for.
	return show(http.StatusCreated, s.organization.mint(team, c.caller, nil, expiredAt, c.now))
}

func (s *Simulator) createNamed(c *call) answer {
	team := s.organization.teams[c.id]
	if team == nil {
		return refusal(http.StatusNotFound)
	}
	asked, err := parse(c.body)
	if err != nil {
		return reject(err)
	}
	if asked.description == nil {
		return reject(errInvalid("Description can't be null"))
	}
	if team.named[*asked.description] != nil {
		return reject(errInvalid("Description has already been taken"))
	}
	expiredAt, err := s.expiry(asked, c.now)
	if err != nil {
		return reject(err)
	}
	return show(http.StatusCreated, s.organization.mint(team, c.caller, asked.description, expiredAt, c.now))
}

// expiry settles when a token that is made now expires; nil means never.
func (s *Simulator) expiry(asked wanted, now time.Time) (*time.Time, error) {
	now = milliseconds(now)
	longest := now.Add(s.options.MaxTTL)
	if asked.expiredAt != nil {
		at := milliseconds(*asked.expiredAt)
		if !at.After(now) {
			return nil, errInvalid("Expired at must be in the future")
		}
		if s.options.MaxTTL > 0 && at.After(longest) {
			return nil, errInvalid("Expired at is beyond the organization's maximum token lifetime")
		}
		return &at, nil
	}
	at := now.Add(s.options.DefaultTTL)
	if s.options.MaxTTL > 0 && (s.options.DefaultTTL < 0 || at.After(longest)) {
		return &longest, nil
	}
	if s.options.DefaultTTL < 0 {
		return nil, nil
	}
	return &at, nil
}

// legacy returns the legacy token of the team that the call names, or nil.
func (s *Simulator) legacy(c *call) *token {
	if team := s.organization.teams[c.id]; team != nil {
		return team.legacy
	}
	return nil
}

func (s *Simulator) readLegacy(c *call) answer   { return s.read(s.legacy(c)) }
func (s *Simulator) deleteLegacy(c *call) answer { return s.delete(s.legacy(c)) }
func (s *Simulator) readByID(c *call) answer     { return s.read(s.organization.find(c.id)) }
func (s *Simulator) deleteByID(c *call) answer   { return s.delete(s.organization.find(c.id)) }

func (s *Simulator) read(t *token) answer {
	if t == nil {
		return refusal(http.StatusNotFound)
	}
	return show(http.StatusOK, t)
}

func (s *Simulator) delete(t *token) answer {
	if t == nil {
		return refusal(http.StatusNotFound)
	}
	if t.team != nil {
		o := s.organization
		o.changes = append(o.changes, Change{At: s.options.Now(), Team: t.team.ID, Revoked: t.id, Legacy: t.description == nil, Request: o.request})
	}
	s.organization.revoke(t)
	return answer{status: http.StatusNoContent, header: http.Header{}}
}

func (s *Simulator) listOrganizations(*call) answer {
	attributes := map[string]any{"name": Organization}
	return about(http.StatusOK, []jsonapi.Resource[any]{{ID: Organization, Type: jsonapi.Organizations, Attributes: attributes}})
}

func (s *Simulator) readOrganization(c *call) answer {
	if c.id != Organization {
		return refusal(http.StatusNotFound)
	}
	attributes := map[string]any{"name": Organization}
	return about(http.StatusOK, jsonapi.Resource[any]{ID: Organization, Type: jsonapi.Organizations, Attributes: attributes})
}

// readAccount answers for a team or an organization as the vendor does: with
// the user that stands in for it.
func (s *Simulator) readAccount(c *call) answer {
	holder := c.caller.holder
	attributes := map[string]any{"username": holder.ID, "is-service-account": holder.Type != "users"}
	return about(http.StatusOK, jsonapi.Resource[any]{ID: holder.ID, Type: jsonapi.Users, Attributes: attributes})
}

func (s *Simulator) ping(*call) answer {
	return answer{status: http.StatusNoContent, header: http.Header{}}
}

func (s *Simulator) discover(*call) answer {
	a := document(http.StatusOK, map[string]string{"tfe.v2.2": api + "/"})
	a.header.Set("Content-Type", "application/json")
	return a
}
