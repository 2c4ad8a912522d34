package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/ciphers"
)

type (
	api    = client.Client
	secret = client.Secret
)

// globals are the flags of every command.
type globals struct {
	Address    string        `var:"TEAMTOKEN_ADDRESS" default:"localhost:9090" help:"The service." placeholder:"HOST:PORT"`
	Insecure   bool          `var:"TEAMTOKEN_INSECURE" help:"Connect in the clear: to a mesh's proxy, or to try things out."`
	CAFile     string        `name:"ca-file" var:"TEAMTOKEN_CA_FILE" help:"CAs to trust for the service instead of the system's, in PEM." placeholder:"FILE"`
	CertFile   string        `var:"TEAMTOKEN_CERT_FILE" help:"Certificate that says who calls, in PEM: mutual TLS." placeholder:"FILE"`
	KeyFile    string        `var:"TEAMTOKEN_KEY_FILE" help:"Its key, in PEM." placeholder:"FILE"`
	BearerFile string        `var:"TEAMTOKEN_BEARER_FILE" help:"File with what says who calls as a bearer token, a JWT for example. There is also the variable TEAMTOKEN_BEARER, and no flag: command lines are read by many." placeholder:"FILE"`
	Timeout    time.Duration `var:"TEAMTOKEN_TIMEOUT" default:"60s" help:"How long the call may take."`
	Output     string        `short:"o" var:"TEAMTOKEN_OUTPUT" default:"text" enum:"text,json,table" help:"text, json or table."`
	Help       helpFlag      `short:"h" help:"Show this help."`
}

// command is what a command runs with.
type command struct {
	line           *globals
	env            func(string) (string, bool)
	stdout, stderr io.Writer
	model          *kong.Application
}

// usage is a wrong command line.
type usage struct{ error }

// with makes a client for what a command does.
func (c *command) with(ctx context.Context, do func(context.Context, *api) error) error {
	api, err := c.connect()
	if err != nil {
		return usage{err}
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(ctx, c.line.Timeout)
	defer cancel()
	return do(ctx, api)
}

func (c *command) connect() (*api, error) {
	o := client.Options{Address: c.line.Address, Insecure: c.line.Insecure}
	bearer, given := c.env("TEAMTOKEN_BEARER")
	given = given && bearer != ""
	switch {
	case c.line.Insecure && (c.line.CAFile != "" || c.line.CertFile != "" || c.line.BearerFile != "" || given):
		return nil, errors.New("--insecure excludes certificates, and a bearer token, which would be sent in the clear")
	case (c.line.CertFile == "") != (c.line.KeyFile == ""):
		return nil, errors.New("--cert-file and --key-file go together")
	case c.line.BearerFile != "" && given:
		return nil, errors.New("--bearer-file and TEAMTOKEN_BEARER are both set: leave one out")
	case c.line.Insecure:
		return client.New(o)
	}
	o.TLS = ciphers.Client(nil)
	if c.line.CAFile != "" {
		pem, err := os.ReadFile(c.line.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("--ca-file: the file holds no PEM certificate")
		}
	}
	if c.line.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.line.CertFile, c.line.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert-file, --key-file: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	if c.line.BearerFile != "" {
		content, err := os.ReadFile(c.line.BearerFile)
		if err != nil {
			return nil, fmt.Errorf("--bearer-file: %w", err)
		}
		bearer, given = string(content), true
	}
	if given {
		o.Bearer = func(context.Context) (string, error) { return strings.TrimSpace(bearer), nil }
	}
	return client.New(o)
}

// issue makes a token, and hands its secret over.
func (c *command) issue(ctx context.Context, out outFile, requestID string, make func(context.Context, *api) (*teamtokenv1.TeamToken, secret, error)) error {
	return c.with(ctx, func(ctx context.Context, api *api) error {
		place, err := out.open() // before there is a secret that has nowhere to go
		if err != nil {
			return usage{err}
		}
		defer place.discard()
		token, secret, err := make(ctx, api)
		if err != nil {
			return &unfinished{err, requestID}
		}
		if err := c.handOver(token, secret, place); err != nil {
			return &undelivered{err, requestID}
		}
		return nil
	})
}
