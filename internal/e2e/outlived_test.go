package e2e

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
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// A connection whose client's certificate would not be taken any more is not used any
// more: its calls are refused, and it is closed within seconds, busy or idle, over
// each surface. A call that was under way before is answered. A session of that time
// is not resumed. Who has another certificate never notices.
func TestCertificateThatIsOutlived(t *testing.T) {
	const goer, stayer = "spiffe://teamtoken.test/goer", "spiffe://teamtoken.test/stayer"
	for _, kind := range []string{"files", "SPIFFE"} {
		for _, way := range []string{"its CA is removed", "its CA is replaced", "it expires"} {
			t.Run(kind+"/"+way, func(t *testing.T) {
				t.Parallel() // they mostly wait
				sim, upstream := newSimulator(t)
				own, goes := newAuthority(t), newAuthority(t)
				var f *facade
				var trust func(cas ...*authority)
				if kind == "files" {
					files := volume{dir: t.TempDir()}
					trust = func(cas ...*authority) {
						all := ""
						for _, ca := range cas {
							all += string(must(os.ReadFile(ca.caFile)))
						}
						files.publish(t, map[string]string{"ca.pem": all})
					}
					trust(own, goes)
					s := withPolicy(t, sim, upstream, policyFor(goer, stayer), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+files.file("ca.pem"))
					s.tls = own
					f = start(t, s)
				} else {
					w := startWorkloadAPI(t, own, "spiffe://teamtoken.test/teamtoken")
					trust = w.trust
					trust(own, goes)
					s := withPolicy(t, sim, upstream, policyFor(goer, stayer), "TEAMTOKEN_SPIFFE_SOCKET="+w.socket)
					s.trusts = own.anyName()
					f = start(t, s)
				}
				as := func(ca *authority, id string, until time.Time) *tls.Config {
					certFile, keyFile := ca.issue(t, func(leaf *x509.Certificate) {
						leaf.URIs = []*url.URL{must(url.Parse(id))}
						if !until.IsZero() {
							leaf.NotAfter = until
						}
					})
					config := own.anyName()
					config.Certificates = []tls.Certificate{must(tls.LoadX509KeyPair(certFile, keyFile))}
					return config
				}
				until := time.Time{}
				if way == "it expires" {
					until = time.Now().Add(8 * time.Second).Truncate(time.Second) // as certificates have it
				}
				going := as(goes, goer, until)

				// Somebody else, all the time.
				staying := as(own, stayer, time.Time{})
				other := teamtokenv1.NewTeamTokenServiceClient(f.dialAs(t, staying))
				browser := f.browser(t, staying.Clone())
				stays := func() {
					_, err := other.GetToken(t.Context(), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam})
					resp, restErr := browser.Do(must(http.NewRequestWithContext(t.Context(), http.MethodGet, f.rest+tokenPath, nil)))
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
				client := teamtokenv1.NewTeamTokenServiceClient(f.dialAs(t, going))
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
						return isOK(clients[name], must(http.NewRequestWithContext(t.Context(), http.MethodGet, f.rest+tokenPath, nil)))
					}
				}
				// Connections that say nothing more, and sessions to resume.
				rest := strings.Replace(strings.TrimPrefix(f.rest, "https://"), "localhost", "127.0.0.1", 1)
				idle := map[string]func() error{} // returns when it is closed
				for name, address := range map[string]string{"gRPC": f.grpc, "HTTP/2": rest} {
					raw := dialHTTP2(t, address, going)
					idle[name] = func() error { return closes(raw) }
				}
				plain := must(tls.Dial("tcp", rest, going.Clone()))
				t.Cleanup(func() { _ = plain.Close() })
				say(t, plain, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\n\r\n")
				answers := bufio.NewReader(plain)
				if resp := must(http.ReadResponse(answers, nil)); resp.StatusCode != http.StatusNoContent {
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
						resp, err := clients[name].Do(f.request(context.Background(), http.MethodPost, simulator.AnotherTeam(i+1), sim.UserToken()))
						if err != nil {
							t.Errorf("%s, the call under way: %v", name, err)
							return
						}
						if _ = resp.Body.Close(); resp.StatusCode != http.StatusCreated {
							t.Errorf("%s, the call under way: %s", name, resp.Status)
						}
					})
				}
				eventually(t, "three calls are under way", func() bool { return len(sim.Requests()) >= before+3 })

				switch way {
				case "its CA is removed":
					trust(own)
				case "its CA is replaced":
					trust(newAuthority(t), own) // of the same name
				default:
					time.Sleep(time.Until(until))
				}
				changed := time.Now()
				for name, call := range calls {
					eventually(t, name+" is refused", func() bool { return call() != nil })
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
func closes(c *rawHTTP2) error {
	for {
		if _, err := c.ReadFrame(); err != nil {
			return err
		}
	}
}

// resumes makes a handshake and a request, and reports whether a session was resumed.
func resumes(address string, config *tls.Config) (bool, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /api/v2/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return false, err
	}
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return conn.ConnectionState().DidResume, err
}

// A REST client, too, is to connect anew when its connection is old: it is told so
// with an answer, and no call is cut.
func TestAgeOfRESTConnections(t *testing.T) {
	sim, upstream := newSimulator(t)
	a := newAuthority(t)
	const age = time.Second
	f := limited(t, sim, upstream, a, "TEAMTOKEN_MAX_CONNECTION_AGE="+age.String())
	leave := bystander(t, f, sim.OrganizationToken())
	defer leave()
	me := sim.UserToken()
	rest := strings.Replace(strings.TrimPrefix(f.rest, "https://"), "localhost", "127.0.0.1", 1)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run("HTTP/1.1/"+method, func(t *testing.T) {
			config := a.client()
			config.ServerName = "localhost"
			conn := must(tls.Dial("tcp", rest, config))
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			answers := bufio.NewReader(conn)
			begun := time.Now()
			for n := 1; ; n++ {
				_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", method, tokenPath, me.Reveal())
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
		raw := dialHTTP2(t, rest, a.client())
		if err := raw.WriteWindowUpdate(0, 1<<30); err != nil { // as much as can be answered within the age
			t.Fatal(err)
		}
		release := make(chan struct{})
		fault := sim.Inject(simulator.Fault{Method: http.MethodDelete, Times: 1, Hold: release})
		bearer := []string{"authorization", "Bearer " + me.Reveal()}
		under := raw.call(t, http.MethodDelete, "/api/v2/teams/"+simulator.AnotherTeam(3)+"/authentication-token", bearer...)
		<-fault.Hit()
		away := false
		for n := 1; !away; n++ {
			stream := raw.call(t, http.MethodGet, tokenPath, bearer...)
			answered := false
			raw.until(t, func(f h2.Frame) bool {
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
		if status, _ := raw.answer(t, under); status != "204" && status != "404" {
			t.Errorf("the call under way: %s", status)
		}
		if err := closes(raw); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection stays open")
		}
	})
}
