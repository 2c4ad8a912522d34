// Package client calls the teamtoken service.
//
//	tokens, err := client.New(client.Options{Address: "teamtoken.internal:9090"})
//	if err != nil {
//		return err
//	}
//	defer tokens.Close()
//	token, secret, err := tokens.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: "team-BUHBEM97xboT8TVz"})
//
// It is thin: requests and tokens are the contract's own messages. What it adds is what
// every caller needs. A call that makes a token gets a request_id if it has none, so
// that a connection that is lost does not lose the token: gRPC repeats the call, and
// the service gives the answer again. Only what may be repeated is. A call has a
// deadline. A secret does not print itself. An error is an *Error, which says what
// happened, and whether anything was changed.
package client
