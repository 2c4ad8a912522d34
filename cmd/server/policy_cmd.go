package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/caller"
	"github.com/teamtoken/teamtoken/internal/policy"
)

// policyLine is the command line of `teamtoken-server policy`.
type policyLine struct {
	Check   checkCommand   `cmd:"" help:"Look a policy file through, and name all that is wrong with it."`
	Explain explainCommand `cmd:"" help:"Say which rule of a policy file decides a call, and why the others do not."`
}

type checkCommand struct {
	File string `arg:"" help:"The policy file."`
}

type explainCommand struct {
	File         string    `arg:"" help:"The policy file."`
	Caller       string    `required:"" placeholder:"ID" help:"Who calls: a SPIFFE id, a DNS name, or ISSUER#SUBJECT."`
	Method       string    `required:"" placeholder:"RPC" help:"What he calls, GenerateToken for example."`
	Team         string    `placeholder:"ID" help:"The team: of a call that names a token by its id, that of the token."`
	Organization string    `placeholder:"NAME" help:"The organization, of ListTokens."`
	VerifiedBy   string    `placeholder:"HOW" enum:"mtls,jwt,mesh," default:"" help:"How he is known: mtls, jwt or mesh."`
	Claims       string    `placeholder:"JSON" help:"The claims of his JWT: a JSON object, or @FILE with one."`
	At           time.Time `placeholder:"TIME" help:"When he calls, in RFC 3339; now, if it is left out."`
}

// errDenied is the end of an explanation of a call that is not allowed.
var errDenied = errors.New("denied")

// policyCommand is the program as `teamtoken-server policy`: 0 if the file is good,
// or the call allowed; 1 if the call is denied; 2 if anything is wrong.
func policyCommand(args []string, stdout, stderr io.Writer) int {
	var line policyLine
	return subcommand("policy", "Policy files: who may do what. See docs/policy.md.", &line, args, stdout, stderr)
}

func readPolicy(path string) (*policy.Policy, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", path, err)
	}
	return p, nil
}

// Run looks the file through.
func (c *checkCommand) Run(w io.Writer) error {
	p, err := readPolicy(c.File)
	if err != nil {
		return err
	}
	rules := "rules"
	if p.Rules() == 1 {
		rules = "rule"
	}
	fmt.Fprintf(w, "ok: %d %s\n", p.Rules(), rules)
	for _, issuer := range p.Issuers() {
		fmt.Fprintf(w, "not checked: TEAMTOKEN_JWT_ISSUER of the service must be %s, otherwise the rules for its callers match nobody\n", issuer)
	}
	return nil
}

// Run decides the call, and says why.
func (c *explainCommand) Run(w io.Writer) error {
	p, err := readPolicy(c.File)
	if err != nil {
		return err
	}
	if !policy.Known(c.Method) {
		return fmt.Errorf("--method: there is no method %q: there are %s", c.Method, strings.Join(policy.Methods(), ", "))
	}
	who := caller.Caller{ID: c.Caller, VerifiedBy: caller.AuthMethod(c.VerifiedBy)}
	if who.Claims, err = claims(c.Claims); err != nil {
		return fmt.Errorf("--claims: %w", err)
	}
	if c.At.IsZero() {
		c.At = time.Now()
	}
	r := policy.Request{Caller: who, Method: c.Method, Team: c.Team, Organization: c.Organization, Now: c.At}
	for _, v := range p.Explain(r) {
		fmt.Fprintf(w, "rule %s: %s\n", v.Rule, v.Why)
	}
	switch d := p.Decide(r); {
	case d.Allowed:
		fmt.Fprintf(w, "allowed by rule %s\n", d.Rule)
	case d.Pending:
		fmt.Fprintln(w, "pending: it depends on the team of the token, see --team")
	default:
		fmt.Fprintln(w, "denied: no rule allows it")
		return errDenied
	}
	return nil
}

// claims reads a JSON object, or the file that @ names.
func claims(text string) (caller.Claims, error) {
	if text == "" {
		return nil, nil
	}
	content := []byte(text)
	if path, ok := strings.CutPrefix(text, "@"); ok {
		var err error
		if content, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	var object caller.Claims
	if err := json.Unmarshal(content, &object); err != nil || object == nil {
		return nil, errors.New("it must be a JSON object, or @FILE with one, in which no key occurs twice")
	}
	return object, nil
}
