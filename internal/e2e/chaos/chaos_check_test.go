package chaos_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// truth is what the upstream did, beside what was said of it.
type truth struct {
	attempts map[string]*attempt           // by id
	changes  map[string][]simulator.Change // by the attempt that they were made for
	mint     map[string]simulator.Change   // by token
	death    map[string]simulator.Change
	secrets  map[string]string         // by token
	lines    map[string][]audit.Record // by attempt
	broken   []breakage
}

// checked holds what every caller was told against the truth, and returns what is
// not as the design promises.
func (c *chaos) checked() (violations []string) {
	h := truth{
		attempts: map[string]*attempt{}, changes: map[string][]simulator.Change{}, mint: map[string]simulator.Change{},
		death: map[string]simulator.Change{}, secrets: map[string]string{}, lines: map[string][]audit.Record{}, broken: c.broken,
	}
	for _, a := range c.attempts {
		h.attempts[a.id] = a
	}
	changes := c.sim.Changes()
	for _, change := range changes {
		h.changes[change.Request] = append(h.changes[change.Request], change)
		if change.Minted != "" {
			h.mint[change.Minted] = change
		}
		if change.Revoked != "" {
			h.death[change.Revoked] = change
		}
	}
	live := map[string]bool{}
	for _, m := range c.sim.Minted() {
		h.secrets[m.ID], live[m.ID] = m.Secret.Reveal(), m.Live
	}
	for _, line := range c.audited() {
		h.lines[line.RequestID] = append(h.lines[line.RequestID], line)
	}
	violate := func(format string, args ...any) {
		if len(violations) < 20 {
			violations = append(violations, fmt.Sprintf(format, args...))
		}
	}
	defer func() { violations = append(violations, c.found...) }()
	given := map[string]bool{}
	perKey := map[string]int{}
	told := map[string]int{}
	for _, a := range c.attempts {
		told[strings.TrimSpace(a.code.String()+" "+a.reason+" "+a.outcome)]++
		done := h.changes[a.id]
		redrives := h.redrives(a.id)
		if len(done) > 0 && a.key != "" {
			perKey[a.caller+" "+a.rpc+" "+a.key] += mints(done) - redrives
		}
		switch {
		case a.code == codes.OK && a.secret != "":
			given[a.answer] = true
			h.delivered(a, violate)
		case a.outcome == "not_applied" && len(done) > 0:
			violate("%s was told not_applied (%s), and the upstream did %+v", a, a.reason, done)
		case a.reason == "REQUEST_ID_REUSED": // each caller uses one for one thing
			violate("%s was held against another's request", a)
		case a.code == codes.Unavailable && a.reason != "" && a.outcome != "not_applied" && a.rpc != "GetToken":
			violate("%s was told UNAVAILABLE, %s, although something may have been done: %s", a, a.reason, a.outcome)
		case a.outcome == "" && a.code != codes.OK && a.reason != "":
			if a.rpc != "GetToken" {
				violate("%s was told of no outcome: %v %s", a, a.code, a.reason)
			}
		}
		if a.key == "" && len(done) > 1+redrives {
			violate("%s was sent more often than is written down: %+v", a, done)
		}
		if a.code != codes.OK && a.rpc != "DeleteTokenByID" {
			h.heldBack(a, changes, violate)
		}
	}
	for key, n := range perKey {
		if n > 1 {
			violate("%s: %d tokens under one request id, that no redrive accounts for:%s", key, n, h.around(func(a *attempt) bool { return a.caller+" "+a.rpc+" "+a.key == key }))
		}
	}
	for _, change := range changes {
		h.traced(change, violate)
	}
	orphans, excused := 0, 0
	for _, id := range slices.Sorted(maps.Keys(live)) {
		if !live[id] || h.mint[id].Legacy || given[id] {
			continue
		}
		if h.excused(h.mint[id].Request) {
			excused++
			continue
		}
		if orphans++; orphans < 4 {
			a := h.attempts[h.mint[id].Request]
			violate("nobody was given %s, made by %s:%s", id, a, h.around(func(b *attempt) bool { return b == a }))
		}
	}
	violations = append(violations, h.linear(c.attempts, changes)...)
	c.t.Logf("%d operations in %d attempts, %d changes upstream; %d live tokens whose answer was lost on the way to the caller; replicas started %d; %v",
		c.ops.Load(), len(c.attempts), len(changes), excused, c.started, told)
	return violations
}

// around is the story of some attempts, and of the others of their team meanwhile.
func (h *truth) around(of func(*attempt) bool) string {
	var team string
	var from, to time.Time
	for _, a := range h.attempts {
		if of(a) {
			if team = a.team; from.IsZero() || a.call.Before(from) {
				from = a.call
			}
			if a.ret.After(to) {
				to = a.ret
			}
		}
	}
	return h.story(func(a *attempt) bool { return a.team == team && a.call.Before(to) && a.ret.After(from) })
}

// story tells what is known of some attempts, in order, and leaves out those that
// only asked.
func (h *truth) story(of func(*attempt) bool) string {
	type event struct {
		at   time.Time
		what string
	}
	var events []event
	for _, a := range h.attempts {
		if !of(a) || len(h.changes[a.id]) == 0 && a.outcome != "unknown" && a.reason != "" {
			continue
		}
		name := a.id[:6]
		events = append(events,
			event{a.call, fmt.Sprintf("%s called %s %q %q", name, a.rpc, a.key, a.expected)},
			event{a.ret, fmt.Sprintf("%s told %v %s %s %s", name, a.code, a.reason, a.outcome, a.answer)})
		for _, c := range h.changes[a.id] {
			events = append(events, event{c.At, name + " made " + c.Minted + ", revoked " + c.Revoked})
		}
		for _, l := range h.lines[a.id] {
			events = append(events, event{l.Time, fmt.Sprintf("%s audit %s %s %s %s", name, l.Event, l.Redrives, l.Outcome, l.TokenID)})
		}
	}
	if len(events) == 0 {
		return ""
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	from, to := events[0].at.Add(-2*time.Second), events[len(events)-1].at
	for _, b := range h.broken {
		if b.at.After(from) && b.at.Before(to) {
			events = append(events, event{b.at, "*** " + b.what})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "\n\t%s %s", e.at.UTC().Format("05.000"), e.what)
	}
	return b.String()
}

func (a *attempt) String() string {
	if a == nil {
		return "an attempt that no caller made"
	}
	return fmt.Sprintf("%s's %s of %s (key %q, id %s)", a.caller, a.rpc, a.team, a.key, a.id)
}

func mints(changes []simulator.Change) (n int) {
	for _, c := range changes {
		if c.Minted != "" {
			n++
		}
	}
	return n
}

func (h *truth) redrives(attempt string) (n int) {
	for _, line := range h.lines[attempt] {
		if line.Event == audit.EventRedrive {
			n++
		}
	}
	return n
}

// delivered: a token that was returned with OK is the one that the upstream made
// for this caller, with its secret, and lived between the call and the answer.
func (h *truth) delivered(a *attempt, violate func(string, ...any)) {
	made, known := h.mint[a.answer]
	death, dead := h.death[a.answer]
	owner := h.attempts[made.Request]
	switch {
	case !known || h.secrets[a.answer] != a.secret:
		violate("%s was given a token that was never made: %s", a, a.answer)
	case made.At.After(a.ret):
		violate("%s was given %s before it was made", a, a.answer)
	case dead && death.At.Before(a.call):
		violate("%s was given %s, which was dead for %v when it called", a, a.answer, a.call.Sub(death.At))
	case owner == nil || owner.caller != a.caller || owner.key != a.key:
		violate("%s was given the token of %s", a, owner)
	}
}

// heldBack: after an answer that left it open whether a change was carried out,
// nobody else changes the team before it is.
func (h *truth) heldBack(a *attempt, changes []simulator.Change, violate func(string, ...any)) {
	for _, late := range h.changes[a.id] {
		if !late.At.After(a.ret) {
			continue
		}
		from, _ := slices.BinarySearchFunc(changes, a.ret, func(c simulator.Change, t time.Time) int { return c.At.Compare(t) })
		for _, other := range changes[from:] {
			if !other.At.Before(late.At) {
				break
			}
			if other.Team == a.team && other.Request != a.id && other.Legacy {
				violate("%s was left open, and landed %v after a change by %s:%s", a, late.At.Sub(other.At), h.attempts[other.Request],
					h.story(func(b *attempt) bool {
						return b.team == a.team && b.call.Before(late.At) && b.ret.After(a.call.Add(-time.Second))
					}))
				return
			}
		}
	}
}

// traced: whatever the upstream did had been written down before, as an attempt.
func (h *truth) traced(change simulator.Change, violate func(string, ...any)) {
	for _, line := range h.lines[change.Request] {
		if line.Event == audit.EventAttempt && !line.Time.After(change.At) {
			return
		}
	}
	violate("the upstream did %+v, and no attempt before it is written down", change)
}

// excused: the answer was lost between the replica and the caller, which no server
// can know: it is in the audit as applied, or as an attempt that the replica did
// not live to end.
func (h *truth) excused(attempt string) bool {
	a := h.attempts[attempt]
	ended := false
	for _, line := range h.lines[attempt] {
		switch line.Event {
		case audit.EventOutcome, audit.EventRefusal, audit.EventLate, audit.EventSettled:
			ended = true
			if line.Outcome == "applied" {
				return true
			}
		}
	}
	return !ended && a != nil && a.code != codes.OK && a.key == ""
}

// linear checks each team's token as a register: what was written is what the
// upstream did, when it did; what was read is what callers were told, at some
// instant between call and answer.
func (h *truth) linear(attempts []*attempt, changes []simulator.Change) (violations []string) {
	teams := map[string][]porcupine.Operation{}
	clients := map[string]int{}
	origin := time.Now().Add(-24 * time.Hour)
	add := func(team string, in register, call, ret time.Time) {
		clients[team]++
		teams[team] = append(teams[team], porcupine.Operation{
			ClientId: clients[team], Input: in, Call: call.Sub(origin).Nanoseconds(), Return: ret.Sub(origin).Nanoseconds(),
		})
	}
	for _, change := range changes {
		if !change.Legacy {
			continue
		}
		in := register{write: true, value: change.Minted}
		if a := h.attempts[change.Request]; a != nil {
			// What replaces a token that was lost expects that, and not what the call says.
			again := slices.ContainsFunc(h.lines[a.id], func(l audit.Record) bool {
				return l.Event == audit.EventRedrive && l.Time.Before(change.At)
			})
			if a.expected != "" && a.code == codes.OK && !again {
				in.expected = a.expected
			}
			if change.At.Before(a.call) {
				violations = append(violations, fmt.Sprintf("%s was carried out before it was made", a))
			}
		}
		add(change.Team, in, change.At, change.At.Add(1))
	}
	for _, a := range attempts {
		switch {
		case a.rpc == "GetToken" && a.code == codes.OK, a.rpc == "GenerateToken" && a.code == codes.OK:
			add(a.team, register{value: a.answer}, a.call, a.ret)
		case a.rpc == "GetToken" && a.code == codes.NotFound, a.rpc == "DeleteToken" && a.reason == "TEAM_NOT_FOUND_OR_FORBIDDEN":
			add(a.team, register{}, a.call, a.ret)
		case a.reason == "TOKEN_CHANGED":
			add(a.team, register{not: true, value: a.expected}, a.call, a.ret)
		}
	}
	for _, team := range slices.Sorted(maps.Keys(teams)) {
		switch porcupine.CheckOperationsTimeout(registers, teams[team], 2*time.Minute) {
		case porcupine.Illegal:
			violations = append(violations, fmt.Sprintf("%s: no order of its %d operations explains what was seen", team, len(teams[team])))
		case porcupine.Unknown:
			violations = append(violations, fmt.Sprintf("%s: %d operations are too many to find their order", team, len(teams[team])))
		case porcupine.Ok:
		}
	}
	return violations
}

// register is an operation on a team's token: a write, maybe of an expected one, or
// a read that found it, or found it not to be.
type register struct {
	write, not      bool
	value, expected string
}

var registers = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		in := input.(register)
		switch {
		case in.write:
			return in.expected == "" || in.expected == state, in.value
		case in.not:
			return in.value != state, state
		default:
			return in.value == state, state
		}
	},
}

// A checker that finds nothing proves nothing: this is what it has to find.
func TestRegister(t *testing.T) {
	for _, row := range []struct {
		name  string
		legal bool
		ops   []porcupine.Operation
	}{
		{"a read of what was written", true, []porcupine.Operation{{Input: register{write: true, value: "a"}, Return: 1}, {Input: register{value: "a"}, Call: 2, Return: 3}}},
		{"a read of what was replaced", false, []porcupine.Operation{
			{Input: register{write: true, value: "a"}, Return: 1},
			{Input: register{write: true, value: "b"}, Call: 2, Return: 3},
			{Input: register{value: "a"}, Call: 4, Return: 5},
		}},
		{"two that replace the same", false, []porcupine.Operation{
			{Input: register{write: true, value: "a"}, Return: 1},
			{Input: register{write: true, value: "b", expected: "a"}, Call: 2, Return: 9},
			{Input: register{write: true, value: "c", expected: "a"}, Call: 2, Return: 9},
		}},
	} {
		if porcupine.CheckOperations(registers, row.ops) != row.legal {
			t.Errorf("%s: want legal %t", row.name, row.legal)
		}
	}
}
