package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// outFile is where a secret goes instead of standard output.
type outFile struct {
	Out string `help:"File to write the secret to, which nobody else can read, instead of standard output. One that exists is replaced." placeholder:"FILE"`
}

// place is where a secret is about to be written; nil is standard output.
type place struct {
	temporary *os.File
	path      string
}

// open makes the file beside the one that it will replace.
func (o outFile) open() (*place, error) {
	if o.Out == "" {
		return nil, nil
	}
	f, err := os.CreateTemp(filepath.Dir(o.Out), ".teamtoken-*") // with mode 0600
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err // its path is one that nobody named
		}
		return nil, fmt.Errorf("--out: nothing can be written to %s: %w", filepath.Dir(o.Out), err)
	}
	return &place{f, o.Out}, nil
}

// keep writes the secret, all of it or nothing.
func (p *place) keep(secret string) error {
	_, err := p.temporary.WriteString(secret + "\n")
	if err = errors.Join(err, p.temporary.Sync(), p.temporary.Close()); err != nil {
		return err
	}
	return os.Rename(p.temporary.Name(), p.path)
}

func (p *place) discard() {
	if p != nil {
		_ = p.temporary.Close()
		_ = os.Remove(p.temporary.Name()) // gone already, if it was kept
	}
}

// described is a token as JSON has it: the members of the contract.
type described struct {
	ID          string     `json:"id"`
	TeamID      string     `json:"team_id,omitempty"`
	Description *string    `json:"description,omitempty"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty"`
	ExpiredAt   *time.Time `json:"expired_at,omitempty"`
	CreatedBy   string     `json:"created_by,omitempty"`
}

func describe(t *teamtokenv1.TeamToken) described {
	return described{
		ID: t.GetId(), TeamID: t.GetTeamId(), Description: t.Description, CreatedBy: t.GetCreatedBy().GetId(), //nolint:protogetter // unset is not empty
		CreatedAt: instant(t.GetCreatedAt()), LastUsedAt: instant(t.GetLastUsedAt()), ExpiredAt: instant(t.GetExpiredAt()),
	}
}

func instant(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

// handOver gives the caller a new token's secret, and tells of the token.
func (c *command) handOver(token *teamtokenv1.TeamToken, s secret, to *place) error {
	if to != nil {
		if err := to.keep(s.Reveal()); err != nil {
			return err
		}
	}
	if c.line.Output == "json" {
		made := struct {
			described
			Secret string `json:"secret,omitempty"`
		}{described: describe(token)}
		if to == nil {
			made.Secret = s.Reveal()
		}
		return c.json(made)
	}
	if to == nil {
		if _, err := fmt.Fprintln(c.stdout, s.Reveal()); err != nil {
			return err
		}
	}
	c.tell("Made token %s of %s, which %s.", token.GetId(), token.GetTeamId(), expiry(token))
	if to != nil {
		c.tell("Its secret is in %s.", to.path)
	}
	return nil
}

func expiry(t *teamtokenv1.TeamToken) string {
	if t.GetExpiredAt() == nil {
		return "does not expire"
	}
	return "expires at " + t.GetExpiredAt().AsTime().Format(time.RFC3339)
}

// show describes one token.
func (c *command) show(t *teamtokenv1.TeamToken) error {
	switch c.line.Output {
	case "json":
		return c.json(describe(t))
	case "table":
		return c.table([]*teamtokenv1.TeamToken{t})
	}
	d := describe(t)
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", name, printable(value))
		}
	}
	row("id", d.ID)
	row("team", d.TeamID)
	if d.Description != nil {
		fmt.Fprintf(w, "description:\t%q\n", *d.Description)
	}
	row("created", when(d.CreatedAt))
	row("created by", d.CreatedBy)
	row("last used", when(d.LastUsedAt))
	row("expires", when(d.ExpiredAt))
	return w.Flush()
}

// showAll describes many.
func (c *command) showAll(tokens []*teamtokenv1.TeamToken) error {
	if c.line.Output != "json" {
		return c.table(tokens)
	}
	all := make([]described, len(tokens))
	for i, t := range tokens {
		all[i] = describe(t)
	}
	return c.json(all)
}

func (c *command) table(tokens []*teamtokenv1.TeamToken) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTEAM\tCREATED\tLAST USED\tEXPIRES\tDESCRIPTION")
	for _, t := range tokens {
		d := describe(t)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(d.ID), printable(d.TeamID), when(d.CreatedAt), when(d.LastUsedAt),
			when(d.ExpiredAt), printable(t.GetDescription()))
	}
	return w.Flush()
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

// printable is text without what would move a terminal's cursor, or a column.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '�'
		}
		return r
	}, text)
}

func (c *command) json(v any) error { return writeJSON(c.stdout, v) }

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// tell says something to a person.
func (c *command) tell(format string, args ...any) { fmt.Fprintf(c.stderr, format+"\n", args...) }

// unfinished is a call that makes a token and failed.
type unfinished struct {
	error
	requestID string
}

func (u *unfinished) Unwrap() error { return u.error }

// undelivered is a token that was made, and whose secret could not be handed over.
type undelivered struct {
	error
	requestID string
}

func (u *undelivered) Unwrap() error { return u.error }

// failed tells of a failure, and returns what to exit with.
func (c *command) failed(err error) int {
	var wrong usage
	var lost *undelivered
	var call *client.Error
	switch {
	case errors.As(err, &wrong):
		return c.report(failure{Message: err.Error(), Exit: exitUsage, Next: "See teamtoken --help."})
	case errors.As(err, &lost):
		return c.report(failure{
			Message: "The token was made, and its secret could not be written: " + err.Error(), Exit: exitUndelivered, Outcome: "applied_undelivered",
			Next: "Call again with --request-id " + lost.requestID + " within ten minutes, to be given it again.",
		})
	case !errors.As(err, &call):
		return c.report(failure{Message: err.Error(), Exit: exitNotApplied})
	}
	f := failure{
		Message: call.Message, Code: code.Code(call.Code).String(), //nolint:gosec // there are seventeen
		Reason: call.ReasonName, XRequestID: call.XRequestID, Exit: exitNotApplied,
		Outcome: strings.ToLower(strings.TrimPrefix(call.Outcome.String(), "OUTCOME_")),
	}
	for _, v := range call.Violations {
		f.Message += fmt.Sprintf(" %s: %s.", v.Field, v.Description)
	}
	if call.ReasonName == "" { // the service did not say it
		f.Message = fmt.Sprintf("No answer of the service at %s: %s", c.line.Address, call.Message)
		f.Next = "Check --address, and --insecure or the certificates."
	}
	var making *unfinished
	switch call.Outcome {
	case teamtokenv1.Outcome_OUTCOME_UNSPECIFIED:
		f.Outcome = ""
	case teamtokenv1.Outcome_OUTCOME_UNKNOWN:
		f.Exit = exitUnknown
		if call.ReasonName != "" {
			f.Next = "Look at the team's token before you call again."
		}
		if errors.As(err, &making) {
			again := "all again with --request-id " + making.requestID + ": it is the same call, and gives the token when it is known."
			if call.ReasonName == "" {
				f.Next += " Then c" + again
			} else {
				f.Next = "C" + again
			}
		}
	case teamtokenv1.Outcome_OUTCOME_APPLIED_UNDELIVERED:
		f.Exit, f.Next = exitUndelivered, "Call again without --request-id, for another token."
	case teamtokenv1.Outcome_OUTCOME_NOT_APPLIED:
		if call.RetryAfter > 0 {
			f.Next = fmt.Sprintf("Call again in %v.", call.RetryAfter.Round(time.Millisecond))
		}
	}
	return c.report(f)
}

// failure is what is told of a failure.
type failure struct {
	Message    string `json:"message"`
	Code       string `json:"code,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Outcome    string `json:"outcome,omitempty"`
	Next       string `json:"next,omitempty"`
	XRequestID string `json:"x_request_id,omitempty"` // by which the call is found in the service's logs
	Exit       int    `json:"exit"`
}

func (c *command) report(f failure) int {
	if c.line.Output == "json" {
		_ = writeJSON(c.stderr, map[string]failure{"error": f}) // there is nobody left to tell
		return f.Exit
	}
	c.tell("teamtoken: %s", printable(f.Message))
	if f.Next != "" {
		c.tell("%s", f.Next)
	}
	var words []string
	for _, w := range []string{f.Code, f.Reason, f.Outcome} {
		if w != "" {
			words = append(words, w)
		}
	}
	if f.XRequestID != "" {
		words = append(words, "x-request-id "+f.XRequestID)
	}
	if len(words) > 0 {
		c.tell("(%s)", strings.Join(words, ", "))
	}
	return f.Exit
}

// said is for what fails before there is a command.
func said(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "teamtoken:", err)
	return exitUsage
}
