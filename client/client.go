package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed" // the service config
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// Options say where the service is, and who calls. Address must be set.
type Options struct {
	// Address is HOST:PORT, or any other target that gRPC knows.
	Address string
	// TLS is what the service is trusted by, and with a certificate who calls: mutual
	// TLS. Nil trusts the system's CAs.
	TLS *tls.Config
	// Insecure connects in the clear, for a service mesh that encrypts, and for trying
	// things out. It excludes TLS and Bearer.
	Insecure bool
	// Bearer, if set, is asked for what each call brings as `authorization: Bearer`: a
	// JWT, or the caller's own credential for the upstream.
	Bearer func(context.Context) (string, error)
	// Timeout is the deadline of a call whose context has none; 0 is a minute.
	Timeout time.Duration
	// Dial are further options for the connection.
	Dial []grpc.DialOption
}

const defaultTimeout = time.Minute

// serviceConfig is that of the clients of every language: each has a copy, which `make
// generate-clients` makes. Retries are of UNAVAILABLE alone, and of those methods that
// may be repeated: the generating ones have a request_id. DeleteToken has none, and
// would delete a token that was made since.
//
//go:embed service_config.json
var serviceConfig string

// Client calls the service. It is safe for concurrent use.
type Client struct {
	conn    *grpc.ClientConn
	rpc     teamtokenv1.TeamTokenServiceClient
	timeout time.Duration
}

// New returns a Client. It connects when it is first used.
func New(o Options) (*Client, error) {
	if o.Insecure && (o.TLS != nil || o.Bearer != nil) {
		return nil, errors.New("client: Insecure excludes TLS, and Bearer, which would be sent in the clear")
	}
	creds := credentials.NewTLS(o.TLS)
	if o.Insecure {
		creds = insecure.NewCredentials()
	}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultServiceConfig(serviceConfig)}
	if o.Bearer != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(o.Bearer)))
	}
	conn, err := grpc.NewClient(o.Address, append(dial, o.Dial...)...)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, rpc: teamtokenv1.NewTeamTokenServiceClient(conn), timeout: o.Timeout}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// bearer brings a credential with each call, over TLS alone.
type bearer func(context.Context) (string, error)

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// GenerateToken makes the team's token, which revokes the one before. Each call without
// a request_id makes a token of its own, and is sent under a request_id of its own. A
// caller that wants to call again after an error gives the request one, and the same
// again: that is the same call, and is answered with the same token. The request is not
// changed.
func (c *Client) GenerateToken(ctx context.Context, req *teamtokenv1.GenerateTokenRequest) (*teamtokenv1.TeamToken, Secret, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	resp, err := call(ctx, c, c.rpc.GenerateToken, req, true)
	return resp.GetTeamToken(), NewSecret(resp.GetSecret()), err
}

// CreateNamedToken makes one more token of the team, as GenerateToken does.
func (c *Client) CreateNamedToken(ctx context.Context, req *teamtokenv1.CreateNamedTokenRequest) (*teamtokenv1.TeamToken, Secret, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = rand.Text()
	}
	resp, err := call(ctx, c, c.rpc.CreateNamedToken, req, true)
	return resp.GetTeamToken(), NewSecret(resp.GetSecret()), err
}

// DeleteToken revokes the team's token.
func (c *Client) DeleteToken(ctx context.Context, req *teamtokenv1.DeleteTokenRequest) error {
	_, err := call(ctx, c, c.rpc.DeleteToken, req, true)
	return err
}

// DeleteTokenByID revokes a token of a team.
func (c *Client) DeleteTokenByID(ctx context.Context, tokenID string) error {
	_, err := call(ctx, c, c.rpc.DeleteTokenByID, &teamtokenv1.DeleteTokenByIDRequest{TokenId: tokenID}, true)
	return err
}

// GetToken describes the team's token.
func (c *Client) GetToken(ctx context.Context, teamID string) (*teamtokenv1.TeamToken, error) {
	resp, err := call(ctx, c, c.rpc.GetToken, &teamtokenv1.GetTokenRequest{TeamId: teamID}, false)
	return resp.GetTeamToken(), err
}

// GetTokenByID describes a token of a team.
func (c *Client) GetTokenByID(ctx context.Context, tokenID string) (*teamtokenv1.TeamToken, error) {
	resp, err := call(ctx, c, c.rpc.GetTokenByID, &teamtokenv1.GetTokenByIDRequest{TokenId: tokenID}, false)
	return resp.GetTeamToken(), err
}

// ListTokens describes the tokens of an organization's teams, page after page from the
// one that req asks for. An error is the last thing that it yields.
func (c *Client) ListTokens(ctx context.Context, req *teamtokenv1.ListTokensRequest) iter.Seq2[*teamtokenv1.TeamToken, error] {
	return func(yield func(*teamtokenv1.TeamToken, error) bool) {
		next := proto.CloneOf(req)
		for {
			page, err := call(ctx, c, c.rpc.ListTokens, next, false)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, token := range page.GetTeamTokens() {
				if !yield(token, nil) {
					return
				}
			}
			if next.PageToken = page.GetNextPageToken(); next.GetPageToken() == "" {
				return
			}
		}
	}
}

// call makes one call, which has a deadline.
func call[Request, Response any](
	ctx context.Context, c *Client, rpc func(context.Context, Request, ...grpc.CallOption) (Response, error), req Request, changes bool,
) (Response, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	resp, err := rpc(ctx, req)
	return resp, newError(err, changes)
}
