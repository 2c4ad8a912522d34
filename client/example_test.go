package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"

	"github.com/teamtoken/teamtoken/client"
	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// A token is generated. What failed, and whether anything was changed, is told apart.
func Example() {
	ctx := context.Background()
	tokens, err := client.New(client.Options{Address: "localhost:1", Insecure: true}) // where nobody is
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()

	// The same request_id again is the same call: it is answered with the same token.
	req := &teamtokenv1.GenerateTokenRequest{TeamId: "team-BUHBEM97xboT8TVz", RequestId: rand.Text()}
	_, secret, err := tokens.GenerateToken(ctx, req)
	var failed *client.Error
	switch {
	case err == nil:
		fmt.Println("made", secret)
	case errors.As(err, &failed) && failed.Outcome == teamtokenv1.Outcome_OUTCOME_NOT_APPLIED:
		fmt.Println("nothing was changed:", failed.Message)
	default:
		fmt.Println("call again with the same request, to be told")
	}
	// Output: call again with the same request, to be told
}
