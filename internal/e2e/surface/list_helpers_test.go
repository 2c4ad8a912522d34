package surface_test

import (
	"context"
	"iter"

	"google.golang.org/protobuf/proto"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// allTokens lists the tokens that req asks for, page after page as they are
// wanted. An error is the last thing that it gives.
func allTokens(
	ctx context.Context, client teamtokenv1.TeamTokenServiceClient, req *teamtokenv1.ListTokensRequest,
) iter.Seq2[*teamtokenv1.TeamToken, error] {
	return func(yield func(*teamtokenv1.TeamToken, error) bool) {
		next := proto.CloneOf(req)
		for {
			page, err := client.ListTokens(ctx, next)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, token := range page.GetTeamTokens() {
				if !yield(token, nil) {
					return
				}
			}
			if next.PageToken = page.GetNextPageToken(); next.PageToken == "" {
				return
			}
		}
	}
}
