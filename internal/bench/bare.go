package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/jsonapi"
)

// bare generates tokens, and does nothing else: it checks, counts, logs, times
// and protects nothing. The connections are kept as ours are, since otherwise
// dialling would be all that is measured.
type bare struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer

	url    string
	client *http.Client
}

// serveBare serves the bare handler over gRPC and behind two bare gateways, and
// how much it has allocated.
func serveBare(upstream string) error {
	b := bare{url: upstream, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	var listeners [4]net.Listener
	for i := range listeners {
		var err error
		if listeners[i], err = listen(); err != nil {
			return err
		}
	}
	onGRPC, onDirect, onDialled, onAdmin := listeners[0], listeners[1], listeners[2], listeners[3]
	server := grpc.NewServer()
	teamtokenv1.RegisterTeamTokenServiceServer(server, b)

	direct, dialled := runtime.NewServeMux(), runtime.NewServeMux()
	if err := teamtokenv1.RegisterTeamTokenServiceHandlerServer(context.Background(), direct, b); err != nil {
		return err
	}
	if err := teamtokenv1.RegisterTeamTokenServiceHandlerFromEndpoint(context.Background(), dialled, onGRPC.Addr().String(),
		[]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}); err != nil {
		return err
	}
	admin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		allocations := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}} // what metricMallocs is made of
		metrics.Read(allocations)
		fmt.Fprintf(w, "%s %d\n", metricMallocs, allocations[0].Value.Uint64())
	})
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("serving", "grpc", onGRPC.Addr().String(),
		"rest", "http://"+onDirect.Addr().String(), "dialled", "http://"+onDialled.Addr().String(),
		"admin", "http://"+onAdmin.Addr().String())

	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(onGRPC) })
	serving.Go(func() error { return http.Serve(onDirect, direct) })   //nolint:gosec // loopback
	serving.Go(func() error { return http.Serve(onDialled, dialled) }) //nolint:gosec // loopback
	serving.Go(func() error { return http.Serve(onAdmin, admin) })     //nolint:gosec // loopback
	return serving.Wait()
}

// tokenDocument is what the handler reads of the upstream's answer: all of it.
type tokenDocument struct {
	Data struct {
		ID         string `json:"id"`
		Attributes struct {
			CreatedAt   *time.Time `json:"created-at"`
			LastUsedAt  *time.Time `json:"last-used-at"`
			ExpiredAt   *time.Time `json:"expired-at"`
			Description *string    `json:"description"`
			Token       string     `json:"token"`
		} `json:"attributes"`
		Relationships struct {
			Team      related `json:"team"`
			CreatedBy related `json:"created-by"`
		} `json:"relationships"`
	} `json:"data"`
}

type related struct {
	Data struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	} `json:"data"`
}

func (b bare) GenerateToken(
	ctx context.Context, in *teamtokenv1.GenerateTokenRequest,
) (*teamtokenv1.GenerateTokenResponse, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		b.url+"/api/v2/teams/"+in.GetTeamId()+"/authentication-token", strings.NewReader(requestDocument))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	req.Header.Set("Accept", jsonapi.MediaType)
	req.Header.Set("Content-Type", jsonapi.MediaType)
	req.Header.Set("User-Agent", "bare")
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("upstream: %s", resp.Status)
	}
	var doc tokenDocument
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	attributes := doc.Data.Attributes
	return &teamtokenv1.GenerateTokenResponse{
		TeamToken: &teamtokenv1.TeamToken{
			Id:          doc.Data.ID,
			TeamId:      doc.Data.Relationships.Team.Data.ID,
			Description: attributes.Description,
			CreatedAt:   timestamp(attributes.CreatedAt),
			LastUsedAt:  timestamp(attributes.LastUsedAt),
			ExpiredAt:   timestamp(attributes.ExpiredAt),
			CreatedBy: &teamtokenv1.Creator{
				Id: doc.Data.Relationships.CreatedBy.Data.ID, Kind: teamtokenv1.Creator_KIND_USER,
			},
		},
		Secret: attributes.Token,
	}, nil
}

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
