// Package harness runs the built program for the tests of the packages beside it: its
// listeners, real clients, and the simulator for upstream. Nothing of ours is replaced.
//
// # A test
//
//	func TestMain(m *testing.M) { harness.Main(m) } // once for each package
//
//	func TestOne(t *testing.T) {
//		t.Parallel()
//		sim, url := harness.NewSimulator(t)
//		f := harness.Start(t, harness.WithService(sim, url))
//		_, err := f.Client.GenerateToken(t.Context(), harness.Asking("one"))
//		…
//	}
//
// Start gives each test a process of its own on free ports, and ends it with the test. At that
// end it looks for secrets (every one that the simulator has made, and its credentials, in
// many encodings) in all that the program wrote, in its metrics, and in every error that a
// client of the harness was answered; and for reports of the race detector.
//
// # What there is
//
//   - Settings: WithService (one credential of the service's), WithCallers (each caller's own),
//     WithPolicy, WithRedis (replicas that share a state); what they lack is in Settings.
//   - Clients: Server.Client and Server.HTTP; Server.DialAs and NewHTTPClient for other
//     certificates; Server.As for one caller on both surfaces, whose answers bring the lines
//     of the audit and the upstream's requests with them.
//   - What no client would send: SendREST and SendGRPC, byte by byte; DialHTTP2, frame by frame.
//   - Identities: Authority (a CA, its certificates), Signer and MovingIssuer (JWTs),
//     NewWorkloadAPI (SPIFFE).
//   - Files that are replaced while they are read: Volume; Server.After waits for the program
//     to notice.
//   - What the program tells: Server.Audited, Metrics, Reloads; Collect is an OpenTelemetry
//     collector.
//   - Waiting: Eventually, for what is sure to come. Nothing sleeps in hope.
//   - Programs from outside Go: Tool finds one, or skips the test; TEAMTOKEN_TEST_REQUIRE
//     names those that must be there. Shipped is the program without the race detector.
//
// # Parallel or not
//
// A test that has its own program says t.Parallel first. One that measures time, floods a
// listener or counts memory does not: it runs alone within its package, and `make test` runs
// the packages that have such tests one after the other.
package harness
