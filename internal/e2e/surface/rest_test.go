package surface_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/requestid"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// plain sends a request as it is, and returns the answer and its body.
func plain(t *testing.T, c *harness.Client, method, path, id string, headers ...string) (*http.Response, string) {
	t.Helper()
	req := harness.Must(http.NewRequestWithContext(t.Context(), method, c.REST+path, http.NoBody))
	maps.Copy(req.Header, c.Headers)
	req.Header.Set(requestid.Header, id)
	for i := 0; i < len(headers); i += 2 {
		if http.CanonicalHeaderKey(headers[i]) == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, string(harness.Must(io.ReadAll(resp.Body)))
}

// HEAD is GET without the body: the same status and headers, the same questions asked
// of the caller, the same lines in the audit.
func TestHead(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, url, harness.PolicyFor(harness.Victim), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional")
	s.TLS = ca
	f := harness.Start(t, s)
	clients := map[string]*harness.Client{}
	for who, config := range map[string][]string{harness.Victim: {harness.Victim}, "": nil, "spiffe://teamtoken.test/other": {"spiffe://teamtoken.test/other"}} {
		identity := ca.Client() // which a transport adds its protocols to
		if config != nil {
			identity = ca.ClientCert(t, config...)
		}
		clients[who+" over HTTP/2"] = f.As(t, sim, identity, "127.0.0.1")
		identity = identity.Clone()
		identity.NextProtos = []string{"http/1.1"}
		older := f.As(t, sim, identity, "127.0.0.1")
		transport := older.HTTP.Transport.(*harness.RecordingTransport).RoundTripper.(*http.Transport)
		transport.ForceAttemptHTTP2, transport.Protocols = false, new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		clients[who+" over HTTP/1.1"] = older
	}
	made := clients[harness.Victim+" over HTTP/2"].Request(t, http.MethodPost, harness.TokenPath, "")
	if made.Code != "201" {
		t.Fatal(made)
	}
	for who, c := range clients {
		for _, path := range []string{
			harness.TokenPath, "/api/v2/teams/" + simulator.Teams()[3].ID + "/authentication-token", "/api/v2/teams/x/authentication-token",
			"/api/v2/authentication-tokens/" + made.Last().TokenID, "/api/v2/authentication-tokens/at-none", harness.TokenPath + "s", "/api/v2/nothing",
			"/api/v2/organizations/acme/team-tokens?page%5Bsize%5D=2", "/api/v2/organizations/acme/team-tokens?page%5Bsize%5D=0",
			"/api/v2/ping", "/.well-known/terraform.json", "/openapi.json", "/api/v2/ping?%zz", harness.TokenPath + "?%zz",
		} {
			t.Run(who+" "+path, func(t *testing.T) {
				var heads []http.Header
				var statuses []int
				var lines []string
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					id, before := requestid.New(), len(sim.Requests())
					resp, body := plain(t, c, method, path, id)
					if method == http.MethodHead && body != "" {
						t.Errorf("a body of %d bytes", len(body))
					}
					if method == http.MethodGet && resp.ContentLength < 0 && path != "/openapi.json" {
						t.Error("the length is not told")
					}
					h := resp.Header.Clone()
					for _, name := range []string{"Date", requestid.Header} {
						h.Del(name)
					}
					heads, statuses = append(heads, h), append(statuses, resp.StatusCode)
					var of []audit.Record
					var events string
					if namesMethod(method, path) {
						harness.Eventually(t, "the audit has the end of the call", func() bool {
							of, events = harness.EventsOf(f, id)
							return strings.HasSuffix(events, audit.EventRefusal) || strings.HasSuffix(events, audit.EventOutcome)
						})
						last := of[len(of)-1]
						events = fmt.Sprint(events, last.Method, last.Caller, last.Code, last.Reason, last.Outcome, last.Surface, len(sim.Requests())-before)
					}
					lines = append(lines, events)
				}
				if path != "/openapi.json" {
					if diff := cmp.Diff(heads[0], heads[1]); diff != "" {
						t.Errorf("other headers (-GET +HEAD):\n%s", diff)
					}
				}
				if statuses[0] != statuses[1] || lines[0] != lines[1] {
					t.Errorf("GET %d %q, HEAD %d %q", statuses[0], lines[0], statuses[1], lines[1])
				}
				allow := heads[1].Get("Allow")
				if statuses[1] == http.StatusMethodNotAllowed && strings.Contains(allow, "HEAD") {
					t.Errorf("HEAD is not allowed, and %s is", allow)
				}
			})
		}
	}
	resp, _ := plain(t, clients[harness.Victim+" over HTTP/2"], http.MethodPut, harness.TokenPath, requestid.New())
	if got := resp.Header.Get("Allow"); got != "DELETE, GET, HEAD, POST" {
		t.Errorf("allowed are %s", got)
	}
	if got := clients[harness.Victim+" over HTTP/2"].Request(t, http.MethodGet, harness.TokenPath, ""); got.Last().TokenID != made.Last().TokenID {
		t.Error("HEAD has changed something")
	}
}

// An Idempotency-Key in quotes, as the IETF's draft has it, and a bare one are the same
// key, and the same as a request_id over gRPC.
func TestIdempotencyKeyInQuotes(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	c := f.As(t, sim, nil, "127.0.0.1")
	secretOf := func(body string) string {
		var doc struct {
			Data struct{ Attributes struct{ Token string } }
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Data.Attributes.Token == "" {
			t.Fatal("the answer has no secret") // and is not shown: it may have one
		}
		return doc.Data.Attributes.Token
	}
	for _, key := range []string{"8e03978e-40d5-43dd-bc93-6894a57f9324", "a", strings.Repeat("k", 128), "A.b_c:d-e"} {
		for _, order := range [][]string{{key, `"` + key + `"`}, {`"` + key + `"`, key}, {` "` + key + `" `, `"` + key + `"`}} {
			sim.Reset()
			key := key
			if len(key) < 100 {
				unique := requestid.New()
				key += unique
				for i := range order {
					order[i] = strings.Replace(order[i], strings.TrimSuffix(key, unique), key, 1)
				}
			} else if order[0] != key {
				continue // one round is enough, of a key that leaves no room
			}
			var secrets []string
			for _, value := range order {
				id := requestid.New()
				resp, body := plain(t, c, http.MethodPost, harness.TokenPath, id, "Idempotency-Key", value)
				if resp.StatusCode != http.StatusCreated {
					t.Fatalf("%s: %s", value, resp.Status)
				}
				secrets = append(secrets, secretOf(body))
				harness.Eventually(t, "the audit has the key", func() bool {
					of, _ := harness.EventsOf(f, id)
					return len(of) == 2 && of[0].IdempotencyKey == key && of[1].IdempotencyKey == key
				})
			}
			again, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: harness.Team, RequestId: key})
			if err != nil || again.GetSecret() != secrets[0] || secrets[0] != secrets[1] || len(sim.Minted()) == 0 {
				t.Errorf("%q: not the same token", order)
			}
			posts := 0
			for _, r := range sim.Requests() {
				if r.Method == http.MethodPost {
					posts++
				}
			}
			if posts != 1 {
				t.Errorf("%q: %d changes", order, posts)
			}
		}
	}
}

// The links of a list begin with the public address, with what a trusted proxy says,
// or with what the request names, in this order.
func TestLinksBehindAProxy(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	trusting := harness.WithService(sim, url)
	trusting.Env = append(trusting.Env, "TEAMTOKEN_TRUSTED_PROXIES=127.0.0.2/32,::1/128")
	public := harness.WithService(sim, url)
	public.Env = append(public.Env, "TEAMTOKEN_TRUSTED_PROXIES=127.0.0.2/32", "TEAMTOKEN_PUBLIC_URL=https://tokens.example.com/teamtoken/")
	programs := map[string]*harness.Server{"none": harness.Start(t, harness.WithService(sim, url)), "trusting": harness.Start(t, trusting), "public": harness.Start(t, public)}
	for _, row := range []struct {
		program, peer string
		headers       []string
		want          string
	}{
		{"none", "127.0.0.2", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.test"}, "http://named.test"},
		{"trusting", "127.0.0.1", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.test"}, "http://named.test"},
		{"trusting", "127.0.0.3", []string{"X-Forwarded-Proto", "https", "X-Forwarded-For", "127.0.0.2"}, "http://named.test"},
		{"trusting", "127.0.0.2", []string{"X-Forwarded-Proto", "https"}, "https://named.test"},
		{"trusting", "127.0.0.2", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.test", "X-Forwarded-Port", "8443"}, "https://a.test:8443"},
		{"trusting", "127.0.0.2", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.test"}, "http://named.test"},
		{"trusting", "127.0.0.2", []string{"X-Forwarded-Proto", "javascript", "X-Forwarded-Host", "a.test"}, "http://named.test"},
		{"trusting", "127.0.0.2", nil, "http://named.test"},
		{"public", "127.0.0.1", nil, "https://tokens.example.com/teamtoken"},
		{"public", "127.0.0.2", []string{"X-Forwarded-Proto", "http", "X-Forwarded-Host", "a.test"}, "https://tokens.example.com/teamtoken"},
	} {
		c := programs[row.program].As(t, sim, nil, row.peer)
		_, body := plain(t, c, http.MethodGet, "/api/v2/organizations/acme/team-tokens", requestid.New(), append(row.headers, "Host", "named.test")...)
		var doc struct{ Links map[string]*string }
		if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Links["self"] == nil || doc.Links["last"] == nil {
			t.Fatalf("%v: %s", err, body)
		}
		for name, link := range doc.Links {
			if link != nil && !strings.HasPrefix(*link, row.want+"/api/v2/organizations/acme/team-tokens?") {
				t.Errorf("%+v: links.%s is %s", row, name, *link)
			}
		}
	}
}

// A DELETE whose body says nothing is one without a body.
func TestDeletionWithAnEmptyBody(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, url))
	for _, body := range []string{"", " ", "{}", "null", "\n{}\r\n"} {
		if resp, text := f.SendREST(t, post("")); resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", resp.Status, text)
		}
		r := harness.RawRequest{Method: http.MethodDelete, Target: harness.TokenPath, Body: body, Headers: []string{"Content-Type: " + harness.JSONAPI}}
		if resp, text := f.SendREST(t, r); resp.StatusCode != http.StatusNoContent {
			t.Errorf("%q: %s: %s", body, resp.Status, text)
		}
	}
}
