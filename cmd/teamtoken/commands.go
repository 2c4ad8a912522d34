package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// commandLine is what kong parses.
type commandLine struct {
	globals    `embed:""`
	Generate   generateCommand   `cmd:"" help:"Make a team's token, which revokes the one before, and show its secret."`
	Create     createCommand     `cmd:"" help:"Make one more token of a team, with a description, and show its secret."`
	Get        getCommand        `cmd:"" help:"Describe a team's token, or a token by its id."`
	Delete     deleteCommand     `cmd:"" help:"Revoke a team's token, or a token by its id."`
	List       listCommand       `cmd:"" help:"Describe the tokens of an organization's teams."`
	Version    versionCommand    `cmd:"" help:"Show the version."`
	Completion completionCommand `cmd:"" help:"Write a completion script for a shell."`
}

type helpFlag bool

// BeforeReset shows the help before anything else can be wrong.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	return errors.Join(ctx.PrintUsage(false), errShown)
}

// lifetime is how long a token is to live.
type lifetime struct {
	ExpiresIn time.Duration `help:"How long the token is to live, 720h for 30 days. Without it, as long as the service or the upstream says." placeholder:"DURATION" xor:"expiry"`
	ExpiresAt time.Time     `help:"Until when it is to live, in RFC 3339." placeholder:"TIME" xor:"expiry"`
}

func (l lifetime) timestamp() *timestamppb.Timestamp {
	switch {
	case l.ExpiresIn != 0:
		return timestamppb.New(time.Now().Add(l.ExpiresIn))
	case !l.ExpiresAt.IsZero():
		return timestamppb.New(l.ExpiresAt)
	default:
		return nil
	}
}

// once lets a call be made again.
type once struct {
	RequestID string `help:"Make the call again that had this id: its answer is given once more. Without it, there is a fresh one, which is told if the outcome is unknown." placeholder:"ID"`
}

func (o *once) id() string {
	if o.RequestID == "" {
		o.RequestID = rand.Text()
	}
	return o.RequestID
}

type generateCommand struct {
	Team   string `arg:"" help:"The team's id, team-…"`
	Expect string `help:"Go on only if this is the id of the team's present token." placeholder:"TOKEN"`
	lifetime
	once
	outFile
}

func (g *generateCommand) Run(ctx context.Context, c *command) error {
	return c.issue(ctx, g.outFile, g.id(), func(ctx context.Context, api *api) (*teamtokenv1.TeamToken, secret, error) {
		return api.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{
			TeamId: g.Team, ExpectedTokenId: g.Expect, ExpiredAt: g.timestamp(), RequestId: g.id(),
		})
	})
}

type createCommand struct {
	Team        string `arg:"" help:"The team's id, team-…"`
	Description string `required:"" help:"What the token is for. No two of a team have the same." placeholder:"TEXT"`
	lifetime
	once
	outFile
}

func (n *createCommand) Run(ctx context.Context, c *command) error {
	return c.issue(ctx, n.outFile, n.id(), func(ctx context.Context, api *api) (*teamtokenv1.TeamToken, secret, error) {
		return api.CreateNamedToken(ctx, &teamtokenv1.CreateNamedTokenRequest{
			TeamId: n.Team, Description: &n.Description, ExpiredAt: n.timestamp(), RequestId: n.id(),
		})
	})
}

// isTeam tells a team's id from a token's.
func isTeam(id string) bool { return strings.HasPrefix(id, "team-") }

type getCommand struct {
	ID string `arg:"" help:"A team's id, team-…, or a token's, at-…"`
}

func (g *getCommand) Run(ctx context.Context, c *command) error {
	return c.with(ctx, func(ctx context.Context, api *api) error {
		get := api.GetTokenByID
		if isTeam(g.ID) {
			get = api.GetToken
		}
		token, err := get(ctx, g.ID)
		if err != nil {
			return err
		}
		return c.show(token)
	})
}

type deleteCommand struct {
	ID           string `arg:"" help:"A team's id, team-…, or a token's, at-…"`
	Expect       string `help:"Of a team: go on only if this is the id of its present token." placeholder:"TOKEN"`
	AllowMissing bool   `help:"Of a team: it is no failure if there is no token."`
}

func (d *deleteCommand) Run(ctx context.Context, c *command) error {
	if !isTeam(d.ID) && (d.Expect != "" || d.AllowMissing) {
		return usage{errors.New("--expect and --allow-missing are for a team's token")}
	}
	return c.with(ctx, func(ctx context.Context, api *api) error {
		var err error
		if isTeam(d.ID) {
			err = api.DeleteToken(ctx, &teamtokenv1.DeleteTokenRequest{TeamId: d.ID, ExpectedTokenId: d.Expect, AllowMissing: d.AllowMissing})
		} else {
			err = api.DeleteTokenByID(ctx, d.ID)
		}
		if err == nil {
			c.tell("Deleted the token of %s.", d.ID)
		}
		return err
	})
}

type listCommand struct {
	Organization string   `arg:"" help:"The organization's name."`
	Query        string   `help:"Only the tokens of teams whose name holds this." placeholder:"TEXT"`
	Sort         string   `help:"The order: team-name, created-by, expired-at or last-used-at, with a - in front for the reverse (--sort=-expired-at)." placeholder:"NAME"`
	Status       []string `help:"Only tokens of any of these: active, expiring_in_7_days, expiring_in_30_days, expired, no_expiration." placeholder:"NAME,…"`
	Limit        int      `help:"No more than so many; 0 is all." default:"0" placeholder:"N"`
}

func (l *listCommand) Run(ctx context.Context, c *command) error {
	return c.with(ctx, func(ctx context.Context, api *api) error {
		req := &teamtokenv1.ListTokensRequest{Organization: l.Organization, Query: l.Query, Sort: l.Sort, ExpiryStatus: l.Status, PageSize: 100}
		if l.Limit > 0 && l.Limit < 100 {
			req.PageSize = int32(l.Limit)
		}
		var tokens []*teamtokenv1.TeamToken
		for token, err := range api.ListTokens(ctx, req) {
			if err != nil {
				return err
			}
			tokens = append(tokens, token)
			if l.Limit > 0 && len(tokens) == l.Limit {
				break
			}
		}
		return c.showAll(tokens)
	})
}

type versionCommand struct{}

func (versionCommand) Run(c *command) error {
	_, err := fmt.Fprintln(c.stdout, "teamtoken", version)
	return err
}
