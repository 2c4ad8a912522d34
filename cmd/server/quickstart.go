package main

import (
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// printQuickstart tells a person who runs the simulator what to type next.
func printQuickstart(w io.Writer, srv *server.Server, upstream string) {
	_, port, _ := net.SplitHostPort(srv.GRPCAddr)
	scheme, restAddr, _ := strings.Cut(srv.RESTURL, "://")
	_, restPort, _ := net.SplitHostPort(restAddr)
	plain, insecure := "-plaintext ", ""
	if scheme == "https" { // by a certificate that a client need not know
		plain, insecure = "-insecure ", "--insecure "
	}
	fmt.Fprintf(w, `
teamtoken serves in front of a simulator of the upstream: its tokens open nothing real.

  gRPC       localhost:%[1]s
  REST       %[7]s://localhost:%[2]s
  admin      %[3]s/metrics
  upstream   %[4]s (the simulator)

Generate a token, by either of these. Each revokes the token before:

  grpcurl %[8]s-d '{"team_id": "%[5]s"}' \
    localhost:%[1]s teamtoken.v1.TeamTokenService/GenerateToken

  curl %[9]s--request POST --header "Content-Type: application/vnd.api+json" \
    %[7]s://localhost:%[2]s/api/v2/teams/%[5]s/authentication-token

See that the last one works, upstream. Set TOKEN to what stood in its answer as "secret" (grpcurl) or "token" (curl):

  curl --header "Authorization: Bearer $TOKEN" %[4]s/api/v2/organizations/%[6]s

Stop with Ctrl-C.

`, port, restPort, srv.AdminURL, upstream, simulator.SeedTeam, simulator.Organization,
		scheme, plain, insecure)
}
