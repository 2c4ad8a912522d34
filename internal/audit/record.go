package audit

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/bidi"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// The events, by which a line says what it tells.
const (
	// EventAttempt: the call is allowed so far, and nothing was done yet.
	EventAttempt = "attempt"
	// EventOutcome: how an attempt ended.
	EventOutcome = "outcome"
	// EventRefusal: the call was refused by this service. It is the only line of a
	// call that was refused at once, and stands in place of the outcome otherwise.
	EventRefusal = "refusal"
	// EventRefusals: many calls that were refused at once, counted together because
	// they came too fast for a line each.
	EventRefusals = "refusals"
	// EventLate: what became of a change whose caller had been answered before.
	EventLate = "late"
	// EventRedrive: one more request that changes something is about to be made for an
	// attempt, since the answer to the one before was lost.
	EventRedrive = "redrive"
	// EventSettled: what became of an attempt whose outcome was unknown, as was found
	// out afterwards, maybe by another replica.
	EventSettled = "settled"
	// EventResumed: lines can be written again. It belongs to no call.
	EventResumed = "resumed"
)

// Record is one line. What is empty is left out of it. There is no place in it for
// a secret, and nothing that a caller sent is in it but what is named here.
//
// The names and meanings of what is in a line do not change; there may be more.
type Record struct {
	Time              time.Time     `json:"time"` // now, if it is zero
	Event             string        `json:"event"`
	CallID            string        `json:"call_id"`    // of this call, by which its lines belong together
	RequestID         string        `json:"request_id"` // as the caller was given it, who may have chosen it
	Caller            string        `json:"caller"`
	VerifiedBy        string        `json:"verified_by"`
	Peer              string        `json:"peer"`    // IP:PORT
	Surface           string        `json:"surface"` // grpc, rest
	Method            string        `json:"method"`
	Team              string        `json:"team"`
	Organization      string        `json:"organization"`
	TokenID           string        `json:"token_id"`
	ExpectedTokenID   string        `json:"expected_token_id"`
	IdempotencyKey    string        `json:"idempotency_key"` // the request's own request_id
	Redrives          string        `json:"redrives"`        // the method of the further request, of EventRedrive
	Decision          string        `json:"decision"`        // allow, deny, pending
	Rule              string        `json:"rule"`
	UpstreamRequestID string        `json:"upstream_request_id"` // the last one
	Code              string        `json:"code"`                // as gRPC names it
	Reason            string        `json:"reason"`
	Outcome           string        `json:"outcome"`
	Duration          time.Duration `json:"-"`    // duration_seconds
	Lost              int           `json:"lost"` // lines that went to standard error, of EventResumed
	*Counted                        // of EventRefusals, and nil otherwise
}

// Counted says of several refusals what a line says of one.
type Counted struct {
	Count    int       `json:"count"`    // how many calls
	Since    time.Time `json:"since"`    // when the first of them was refused
	Until    time.Time `json:"until"`    // and the last
	Peers    []string  `json:"peers"`    // their IP addresses, the first maxListed that were seen
	Unlisted int       `json:"unlisted"` // how many of the calls came from other addresses
	Methods  []string  `json:"methods"`  // the methods that they named, the first maxListed
}

const maxListed = 16

const (
	maxRunes = 256 // of one string that is as it was sent
	cut      = "…" // stands after those of a longer one
)

// append writes r as a line's JSON, without its end.
func (r *Record) append(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = appendTime(b, r.Time)
	b = append(b, '"')
	for _, f := range [...]struct{ key, value string }{
		{`,"event":`, r.Event},
		{`,"call_id":`, r.CallID},
		{`,"request_id":`, r.RequestID},
		{`,"caller":`, r.Caller},
		{`,"verified_by":`, r.VerifiedBy},
		{`,"peer":`, r.Peer},
		{`,"surface":`, r.Surface},
		{`,"method":`, r.Method},
		{`,"team":`, r.Team},
		{`,"organization":`, r.Organization},
		{`,"token_id":`, r.TokenID},
		{`,"expected_token_id":`, r.ExpectedTokenID},
		{`,"idempotency_key":`, r.IdempotencyKey},
		{`,"redrives":`, r.Redrives},
		{`,"decision":`, r.Decision},
		{`,"rule":`, r.Rule},
		{`,"upstream_request_id":`, r.UpstreamRequestID},
		{`,"code":`, r.Code},
		{`,"reason":`, r.Reason},
		{`,"outcome":`, r.Outcome},
	} {
		limit := maxRunes
		if f.key == `,"caller":` {
			limit = math.MaxInt // who is verified: bounded by that, and never cut
		}
		b = appendText(b, f.key, f.value, limit)
	}
	if r.Duration != 0 {
		b = append(b, `,"duration_seconds":`...)
		b = strconv.AppendFloat(b, r.Duration.Seconds(), 'f', -1, 64)
	}
	if r.Lost != 0 {
		b = append(b, `,"lost":`...)
		b = strconv.AppendInt(b, int64(r.Lost), 10)
	}
	if r.Counted != nil {
		b = r.Counted.append(b)
	}
	return append(b, '}')
}

func (c *Counted) append(b []byte) []byte {
	b = append(b, `,"count":`...)
	b = strconv.AppendInt(b, int64(c.Count), 10)
	b = append(b, `,"since":"`...)
	b = append(appendTime(b, c.Since), `","until":"`...)
	b = append(appendTime(b, c.Until), '"')
	b = appendList(b, `,"peers":`, c.Peers)
	if c.Unlisted != 0 {
		b = append(b, `,"unlisted":`...)
		b = strconv.AppendInt(b, int64(c.Unlisted), 10)
	}
	return appendList(b, `,"methods":`, c.Methods)
}

// appendList writes key and the strings of s that are not empty, or nothing if there
// are none.
func appendList(b []byte, key string, s []string) []byte {
	before, end := key+"[", ""
	for _, one := range s {
		if one != "" {
			b = appendText(b, before, one, maxRunes)
			before, end = ",", "]"
		}
	}
	return append(b, end...)
}

// appendTime writes t as RFC 3339, in a fixed width, so that times sort as strings.
func appendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339) // for which package time is quick
	b[len(b)-1] = '.'                         // in place of the Z
	n := t.Nanosecond()
	for unit := int(time.Second) / 10; unit > 0; unit /= 10 {
		b = append(b, byte('0'+n/unit%10))
	}
	return append(b, 'Z')
}

// appendText writes key and s, or nothing if s is empty. A string over the limit is cut,
// and one of so many runes and an ellipsis is such a one. What can't be seen, and what
// turns the text beside it round, is escaped: a caller's text can neither end a line,
// nor steer a terminal, nor look like another field.
func appendText(b []byte, key, s string, limit int) []byte {
	if s == "" {
		return b
	}
	b = append(b, key...)
	b = append(b, '"')
	if len(s) <= limit && isPlain(s) {
		b = append(b, s...)
		return append(b, '"')
	}
	runes := 0
	for _, c := range s { // U+FFFD for each byte that is no UTF-8
		if runes++; runes > limit {
			b = append(b, cut...)
			break
		}
		if c == '"' || c == '\\' || !caller.PrintableRune(c) || isRightToLeft(c) || runes == 1 && unicode.IsMark(c) {
			b = appendEscaped(b, c)
			continue
		}
		b = utf8.AppendRune(b, c)
	}
	return append(b, '"')
}

// isRightToLeft reports whether c is written from right to left, as Hebrew and Arabic are, so
// that quotes and fields beside it would be shown in another order.
func isRightToLeft(c rune) bool {
	if c < utf8.RuneSelf {
		return false
	}
	p, _ := bidi.LookupRune(c)
	return p.Class() == bidi.R || p.Class() == bidi.AL || p.Class() == bidi.AN
}

// isPlain reports whether s is printable ASCII with nothing to escape, as most is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func appendEscaped(b []byte, c rune) []byte {
	if c == '"' || c == '\\' {
		return append(b, '\\', byte(c))
	}
	for _, unit := range utf16.AppendRune(nil, c) {
		b = fmt.Appendf(b, `\u%04x`, unit)
	}
	return b
}

// MarshalJSON is the line that the log writes of r.
func (r *Record) MarshalJSON() ([]byte, error) { return r.append(nil), nil }

// UnmarshalJSON reads a line of the log.
func (r *Record) UnmarshalJSON(b []byte) error {
	type fields Record
	line := struct {
		*fields
		Seconds float64 `json:"duration_seconds"`
	}{fields: (*fields)(r)}
	if err := json.Unmarshal(b, &line); err != nil {
		return err
	}
	r.Duration = time.Duration(math.Round(line.Seconds * float64(time.Second)))
	return nil
}
