package identity_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A connection whose client's certificate would not be taken any more is not used any
// more: its calls are refused, and it is closed within seconds, busy or idle, over
// each surface. A call that was under way before is answered. A session of that time
// is not resumed. Who has another certificate never notices.
func TestCertificateThatIsOutlived(t *testing.T) {
	t.Parallel()
	const goer, stayer = "spiffe://teamtoken.test/goer", "spiffe://teamtoken.test/stayer"
	for _, kind := range []string{"files", "SPIFFE"} {
		for _, way := range []string{"its CA is removed", "its CA is replaced", "it expires"} {
			t.Run(kind+"/"+way, func(t *testing.T) {
				t.Parallel() // they mostly wait
				sim, upstream := harness.NewSimulator(t)
				own, goes := harness.NewAuthority(t), harness.NewAuthority(t)
				var f *harness.Server
				var trust func(cas ...*harness.Authority)
				if kind == "files" {
					files := harness.Volume{Dir: t.TempDir()}
					trust = func(cas ...*harness.Authority) {
						all := ""
						for _, ca := range cas {
							all += string(harness.Must(os.ReadFile(ca.CAFile)))
						}
						files.Publish(t, map[string]string{"ca.pem": all})
					}
					trust(own, goes)
					s := harness.WithPolicy(t, sim, upstream, harness.PolicyFor(goer, stayer), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+files.File("ca.pem"))
					s.TLS = own
					f = harness.Start(t, s)
				} else {
					w := harness.StartWorkloadAPI(t, own, "spiffe://teamtoken.test/teamtoken")
					trust = w.Trust
					trust(own, goes)
					s := harness.WithPolicy(t, sim, upstream, harness.PolicyFor(goer, stayer), "TEAMTOKEN_SPIFFE_SOCKET="+w.Socket)
					s.Trusts = anyName(own)
					f = harness.Start(t, s)
				}
				as := func(ca *harness.Authority, id string, until time.Time) *tls.Config {
					certFile, keyFile := ca.Issue(t, func(leaf *x509.Certificate) {
						leaf.URIs = []*url.URL{harness.Must(url.Parse(id))}
						if !until.IsZero() {
							leaf.NotAfter = until
						}
					})
					config := anyName(own)
					config.Certificates = []tls.Certificate{harness.Must(tls.LoadX509KeyPair(certFile, keyFile))}
					return config
				}
				until := time.Time{}
				if way == "it expires" {
					until = time.Now().Add(8 * time.Second).Truncate(time.Second) // as certificates have it
				}
				going := as(goes, goer, until)

				// Somebody else, all the time.
				staying := as(own, stayer, time.Time{})
				other := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, staying))
				browser := f.NewHTTPClient(t, staying.Clone())
				stays := func() {
					_, err := other.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
					resp, restErr := browser.Do(harness.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, f.REST+harness.TokenPath, nil)))
					if restErr == nil {
						_ = resp.Body.Close()
						if resp.StatusCode != http.StatusOK {
							restErr = errors.New(resp.Status)
						}
					}
					if err != nil || restErr != nil {
						t.Errorf("somebody else is disturbed: %v, %v", err, restErr)
					}
				}
				if _, err := other.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
					t.Fatal(err)
				}
				stays()

				calls := map[string]func() error{}
				client := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, going))
				calls["gRPC"] = func() error {
					_, err := client.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
					return err
				}
				clients := map[string]*http.Client{}
				for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
					transport := &http.Transport{TLSClientConfig: going.Clone(), ForceAttemptHTTP2: http2}
					t.Cleanup(transport.CloseIdleConnections)
					clients[name] = &http.Client{Transport: transport}
					calls[name] = func() error {
						return harness.IsOK(clients[name], harness.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, f.REST+harness.TokenPath, nil)))
					}
				}
				// Connections that say nothing more, and sessions to resume.
				rest := strings.Replace(strings.TrimPrefix(f.REST, "https://"), "localhost", "127.0.0.1", 1)
				idle := map[string]func() error{} // returns when it is closed
				for name, address := range map[string]string{"gRPC": f.GRPC, "HTTP/2": rest} {
					raw := harness.DialHTTP2(t, address, going)
					idle[name] = func() error { return closes(raw) }
				}
				plain := harness.Must(tls.Dial("tcp", rest, going.Clone()))
				t.Cleanup(func() { _ = plain.Close() })
				harness.Say(t, plain, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n")
				answers := bufio.NewReader(plain)
				if resp := harness.Must(http.ReadResponse(answers, nil)); resp.StatusCode != http.StatusNoContent {
					t.Fatal(resp.Status)
				}
				idle["HTTP/1.1"] = func() error { _, err := answers.ReadByte(); return err }
				var resumed []*tls.Config
				for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
					config := going.Clone()
					config.MaxVersion, config.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
					for i := range 2 {
						if got, err := resumes(rest, config); err != nil || got != (i > 0) {
							t.Errorf("TLS %x, handshake %d: resumed is %v, %v", version, i, got, err)
						}
					}
					resumed = append(resumed, config)
				}
				for name, call := range calls {
					if err := call(); err != nil {
						t.Fatalf("%s, at first: %v", name, err)
					}
				}
				release := make(chan struct{})
				sim.Inject(simulator.Fault{Method: http.MethodPost, Times: 3, Hold: release})
				before := len(sim.Requests())
				var under sync.WaitGroup
				under.Go(func() {
					if _, err := client.GenerateToken(context.Background(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.AnotherTeam(0)}); err != nil {
						t.Errorf("gRPC, the call under way: %v", err)
					}
				})
				for i, name := range []string{"HTTP/1.1", "HTTP/2"} {
					under.Go(func() {
						resp, err := clients[name].Do(f.Request(context.Background(), http.MethodPost, simulator.AnotherTeam(i+1), sim.UserToken()))
						if err != nil {
							t.Errorf("%s, the call under way: %v", name, err)
							return
						}
						if _ = resp.Body.Close(); resp.StatusCode != http.StatusCreated {
							t.Errorf("%s, the call under way: %s", name, resp.Status)
						}
					})
				}
				harness.Eventually(t, "three calls are under way", func() bool { return len(sim.Requests()) >= before+3 })

				switch way {
				case "its CA is removed":
					trust(own)
				case "its CA is replaced":
					trust(harness.NewAuthority(t), own) // of the same name
				default:
					time.Sleep(time.Until(until))
				}
				changed := time.Now()
				for name, call := range calls {
					harness.Eventually(t, name+" is refused", func() bool { return call() != nil })
					for range 3 {
						if err := call(); err == nil {
							t.Errorf("%s is not refused any more", name)
						}
					}
				}
				for name, closed := range idle {
					if err := closed(); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: the idle connection stays open", name)
					}
				}
				if took := time.Since(changed); took > 15*time.Second {
					t.Errorf("it took %v", took)
				}
				for _, config := range resumed {
					if _, err := resumes(rest, config); err == nil {
						t.Errorf("TLS %x: a session is resumed, or another one begun", config.MaxVersion)
					}
				}
				stays()
				close(release)
				under.Wait()
				stays()
			})
		}
	}
}

// closes reads until the server closes a connection.
func closes(c *harness.RawHTTP2) error {
	for {
		if _, err := c.ReadFrame(); err != nil {
			return err
		}
	}
}

// resumes makes a handshake and a request, and reports whether a session was resumed.
func resumes(address string, config *tls.Config) (bool, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: harness.Patience}, "tcp", address, config)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(harness.Patience))
	if _, err := io.WriteString(conn, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return false, err
	}
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return conn.ConnectionState().DidResume, err
}

// A REST client, too, is to connect anew when its connection is old: it is told so
// with an answer, and no call is cut.
func TestAgeOfRESTConnections(t *testing.T) {
	t.Parallel()
	sim, upstream := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	const age = time.Second
	f := harness.Limited(t, sim, upstream, a, "TEAMTOKEN_MAX_CONNECTION_AGE="+age.String())
	leave := harness.BackgroundCaller(t, f, sim.OrganizationToken())
	defer leave()
	me := sim.UserToken()
	rest := strings.Replace(strings.TrimPrefix(f.REST, "https://"), "localhost", "127.0.0.1", 1)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run("HTTP/1.1/"+method, func(t *testing.T) {
			config := a.Client()
			config.ServerName = "localhost"
			conn := harness.Must(tls.Dial("tcp", rest, config))
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(harness.Patience))
			answers := bufio.NewReader(conn)
			begun := time.Now()
			for n := 1; ; n++ {
				_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", method, harness.TokenPath, me.Reveal())
				if err != nil {
					t.Fatalf("request %d: %v", n, err)
				}
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatalf("request %d is not answered: %v", n, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode >= 300 {
					t.Fatalf("request %d: %s", n, resp.Status)
				}
				if resp.Close {
					if n < 3 || time.Since(begun) < age*8/10 {
						t.Errorf("the connection ends with answer %d, after %v", n, time.Since(begun))
					}
					break
				}
			}
			if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last answer: %v", err)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		raw := harness.DialHTTP2(t, rest, a.Client())
		if err := raw.WriteWindowUpdate(0, 1<<30); err != nil { // as much as can be answered within the age
			t.Fatal(err)
		}
		release := make(chan struct{})
		fault := sim.Inject(simulator.Fault{Method: http.MethodDelete, Times: 1, Hold: release})
		bearer := []string{"authorization", "Bearer " + me.Reveal()}
		under := raw.Call(t, http.MethodDelete, "/api/v2/teams/"+simulator.AnotherTeam(3)+"/authentication-token", bearer...)
		<-fault.Hit()
		away := false
		for n := 1; !away; n++ {
			stream := raw.Call(t, http.MethodGet, harness.TokenPath, bearer...)
			answered := false
			raw.Until(t, func(f h2.Frame) bool {
				goAway, ok := f.(*h2.GoAwayFrame)
				away = away || ok
				answered = answered || f.Header().StreamID == stream && f.Header().Type == h2.FrameHeaders
				return answered || ok && goAway.LastStreamID < stream // it came too late to be a call of this connection
			})
			if !answered && !away {
				t.Fatalf("request %d is not answered", n)
			}
			if n > 100000 {
				t.Fatal("the connection has no age")
			}
		}
		close(release)
		if status, _ := raw.Answer(t, under); status != "204" && status != "404" {
			t.Errorf("the call under way: %s", status)
		}
		if err := closes(raw); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection stays open")
		}
	})
}
