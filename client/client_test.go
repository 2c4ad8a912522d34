package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// collector answers calls that make a token, and keeps the request_id of each.
type collector struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer
	mu  sync.Mutex
	ids map[string]int
}

func (s *collector) seen(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[id]++
}

func (s *collector) GenerateToken(ctx context.Context, r *teamtokenv1.GenerateTokenRequest) (*teamtokenv1.GenerateTokenResponse, error) {
	switch r.GetTeamId() {
	case "slow":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case "failing":
		return nil, status.Error(codes.Internal, "failed")
	}
	s.seen(r.GetRequestId())
	return &teamtokenv1.GenerateTokenResponse{}, nil
}

func (s *collector) CreateNamedToken(_ context.Context, r *teamtokenv1.CreateNamedTokenRequest) (*teamtokenv1.CreateNamedTokenResponse, error) {
	s.seen(r.GetRequestId())
	return &teamtokenv1.CreateNamedTokenResponse{}, nil
}

func serve(t *testing.T) (*collector, *client.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, server := &collector{ids: map[string]int{}}, grpc.NewServer()
	teamtokenv1.RegisterTeamTokenServiceServer(server, s)
	go server.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(server.Stop)
	c, err := client.New(client.Options{Address: l.Addr().String(), Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return s, c
}

// One request is used by many calls, one after another and at once. Without a
// request_id each call is one of its own; with one they are all the same. What the
// caller gave is as it was.
func TestRequestIsNotChanged(t *testing.T) {
	for _, id := range []string{"", "mine"} {
		for name, make := range map[string]func(*client.Client) (proto.Message, func() error){
			"GenerateToken": func(c *client.Client) (proto.Message, func() error) {
				req := &teamtokenv1.GenerateTokenRequest{TeamId: "team-a", RequestId: id}
				return req, func() error { _, _, err := c.GenerateToken(t.Context(), req); return err }
			},
			"CreateNamedToken": func(c *client.Client) (proto.Message, func() error) {
				req := &teamtokenv1.CreateNamedTokenRequest{TeamId: "team-a", Description: proto.String("x"), RequestId: id}
				return req, func() error { _, _, err := c.CreateNamedToken(t.Context(), req); return err }
			},
		} {
			t.Run(fmt.Sprintf("%s %q", name, id), func(t *testing.T) {
				s, c := serve(t)
				req, call := make(c)
				before := proto.Clone(req)
				const calls = 20
				if err := call(); err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range calls - 1 {
					wg.Go(func() {
						if err := call(); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if !proto.Equal(req, before) {
					t.Errorf("the request is %v, and was %v", req, before)
				}
				want := calls
				if id != "" {
					want = 1
				}
				if len(s.ids) != want || s.ids[""] != 0 {
					t.Errorf("%d calls came under %d ids, want %d", calls, len(s.ids), want)
				}
			})
		}
	}
}

// Whoever asks for the context's own error finds it, and no other.
func TestContextErrors(t *testing.T) {
	_, c := serve(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	for _, test := range []struct {
		ctx  context.Context
		team string
		want error
	}{
		{cancelled, "slow", context.Canceled},
		{short, "slow", context.DeadlineExceeded},
		{t.Context(), "failing", nil},
	} {
		_, _, err := c.GenerateToken(test.ctx, &teamtokenv1.GenerateTokenRequest{TeamId: test.team})
		var failed *client.Error
		if !errors.As(err, &failed) {
			t.Fatalf("%v is no *client.Error", err)
		}
		for _, is := range []error{context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, is) != (is == test.want) {
				t.Errorf("%v: errors.Is of %v is %v", err, is, errors.Is(err, is))
			}
		}
	}
}

// The clients of all languages have one service config. Java's is written in Java, which
// has no parser of JSON at hand.
func TestServiceConfig(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	want := read("service_config.json")
	for name, before := range map[string]string{
		"../clients/python/src/teamtoken/service_config.json": "",
		"../clients/typescript/src/gen/service_config.ts":     "export const serviceConfig = ",
	} {
		if read(name) != before+want {
			t.Errorf("%s is another one: make generate-clients", name)
		}
	}
	var config struct {
		MethodConfig []struct {
			Name        []struct{ Method string }
			RetryPolicy map[string]any
		}
	}
	if err := json.Unmarshal([]byte(want), &config); err != nil || len(config.MethodConfig) != 1 {
		t.Fatal(err)
	}
	java := strings.Join(strings.Fields(read("../clients/java/src/main/java/com/github/teamtoken/TeamTokenClient.java")), " ")
	var methods []string
	for _, n := range config.MethodConfig[0].Name {
		methods = append(methods, fmt.Sprintf("%q", n.Method))
	}
	if !strings.Contains(java, "REPEATED = List.of("+strings.Join(methods, ", ")+")") {
		t.Errorf("the Java client repeats other methods than %q", methods)
	}
	for name, value := range config.MethodConfig[0].RetryPolicy {
		said := fmt.Sprintf("%q, %#v", name, value)
		switch v := value.(type) {
		case float64:
			said = fmt.Sprintf("%q, %.1f", name, v)
		case []any:
			said = fmt.Sprintf("%q, List.of(%q)", name, v[0])
		}
		if !strings.Contains(java, said) {
			t.Errorf("the Java client does not say %s", said)
		}
	}
}

// The example is compiled as a reader does it: in a module of its own, which can't
// import what is internal here.
func TestExampleOutside(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, from := range map[string]string{"example_test.go": "example_test.go", "go.sum": "../go.sum"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mod := "module example.com/reader\n\ngo 1.26.0\n\nrequire github.com/teamtoken/teamtoken v0.0.0\n\nreplace github.com/teamtoken/teamtoken => " + root + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
		t.Fatal(err)
	}
	test := exec.Command("go", "test", "-mod=mod", ".")
	test.Dir, test.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := test.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
