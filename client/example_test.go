package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A token is generated. What failed, and whether anything was changed, is told apart.
func Example() {
	ctx := context.Background()
	tokens, err := client.New(client.Options{Address: "localhost:1", Insecure: true}) // where nobody is
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()

	req := &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}
	_, secret, err := tokens.GenerateToken(ctx, req)
	var failed *client.Error
	switch {
	case err == nil:
		fmt.Println("made", secret)
	case errors.As(err, &failed) && failed.Outcome == teamtokenv1.Outcome_OUTCOME_NOT_APPLIED:
		fmt.Println("nothing was changed:", failed.Message)
	default:
		fmt.Println("call again with the same request, to be told:", req.GetRequestId() != "")
	}
	// Output: call again with the same request, to be told: true
}
