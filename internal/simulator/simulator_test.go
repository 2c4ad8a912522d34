package simulator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

const (
	legacyPath = "/api/v2/teams/" + simulator.SeedTeam + "/authentication-token"
	namedPath  = "/api/v2/teams/" + simulator.SeedTeam + "/authentication-tokens"
	listPath   = "/api/v2/organizations/" + simulator.Organization + "/team-tokens"
)

// A rig is a simulator and a real client of it.
type rig struct {
	*simulator.Simulator
	t      *testing.T
	url    string
	client *http.Client
}

func start(t *testing.T, options simulator.Options) *rig {
	t.Helper()
	s := simulator.New(options)
	url, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       10 * time.Second,
	}
	t.Cleanup(client.CloseIdleConnections)
	return &rig{s, t, url, client}
}

type reply struct {
	status int
	header http.Header
	body   string
}

// request makes one call; err is also that of a body that breaks off.
func (r *rig) request(ctx context.Context, method, path, body string, credential secret.Text) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if !credential.IsZero() {
		request.Header.Set("Authorization", "Bearer "+credential.Reveal())
	}
	response, err := r.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text)}, err
}

// do makes one call as the owners.
func (r *rig) do(method, path, body string) reply {
	r.t.Helper()
	return r.as(r.OwnerToken(), method, path, body)
}

func (r *rig) as(credential secret.Text, method, path, body string) reply {
	r.t.Helper()
	answer, err := r.request(r.t.Context(), method, path, body, credential)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// last returns the token that was made last.
func (r *rig) last() simulator.Minted {
	r.t.Helper()
	minted := r.Minted()
	if len(minted) == 0 {
		r.t.Fatal("no token was ever made")
	}
	return minted[len(minted)-1]
}

func (r *rig) live() int {
	n := 0
	for _, m := range r.Minted() {
		if m.Live {
			n++
		}
	}
	return n
}

// member digs through JSON objects.
func (a reply) member(t *testing.T, path ...string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(a.body), &value); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: did not come", what)
	}
}

func TestListenOnlyWhereNobodyElseReaches(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0":  true,
		"localhost:0":  true,
		"127.0.0.2:0":  true,
		":0":           false,
		"0.0.0.0:0":    false,
		"[::]:0":       false,
		"192.0.2.1:0":  false,
		"127.0.0.1":    false,
		"127.0.0.1:-1": false,
	} {
		s := simulator.New(simulator.Options{})
		url, err := s.Listen(address)
		if (err == nil) != ok {
			t.Errorf("%q: url %q, error %v", address, url, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%q: close: %v", address, err)
		}
		if _, err := s.Listen(address); err == nil {
			t.Errorf("%q: a closed simulator must not listen", address)
		}
	}
}

func TestCloseEndsServiceAndKeepsTheTruth(t *testing.T) {
	r := start(t, simulator.Options{})
	r.do("POST", legacyPath, "")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
	if _, err := r.request(t.Context(), "POST", legacyPath, "", r.OwnerToken()); err == nil {
		t.Error("a closed simulator must not answer")
	}
	if len(r.Minted()) != 1 || len(r.Requests()) != 1 {
		t.Errorf("%d tokens and %d requests, want one of each", len(r.Minted()), len(r.Requests()))
	}
}

func TestTeams(t *testing.T) {
	r := start(t, simulator.Options{})
	teams := simulator.Teams()
	if len(teams) < 3 || teams[0].ID != simulator.SeedTeam {
		t.Fatalf("%v: want a few, the seed's first", teams)
	}
	for _, team := range teams {
		if len(strings.TrimPrefix(team.ID, "team-")) != 16 || team.Name == "" {
			t.Errorf("%v is not a team", team)
		}
		if got := r.do("POST", "/api/v2/teams/"+team.ID+"/authentication-token", ""); got.status != 201 {
			t.Errorf("%v: %d", team, got.status)
		}
		if got := r.last().Team; got != team.ID {
			t.Errorf("%v: the token is of %s", team, got)
		}
	}
	if r.live() != len(teams) {
		t.Errorf("%d live tokens, want one for each of %d teams", r.live(), len(teams))
	}
}

func TestRequestsAreWhatWasSent(t *testing.T) {
	r := start(t, simulator.Options{})
	request, err := http.NewRequestWithContext(t.Context(), "POST", r.url+legacyPath+"?a=%5Bb%5D&&c", strings.NewReader("{"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header["Authorization"] = []string{"Bearer " + r.UserToken().Reveal(), "Basic QWxh", "Bare"}
	request.Header.Set("Idempotency-Key", "k")
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	r.do("GET", "/nowhere", "")

	got := r.Requests()
	if len(got) != 2 {
		t.Fatalf("%d requests, want 2", len(got))
	}
	first := got[0]
	if first.Method != "POST" || first.Path != legacyPath+"?a=%5Bb%5D&&c" || string(first.Body) != "{" ||
		first.Header.Get("Idempotency-Key") != "k" || !first.Bearer.Equal(r.UserToken()) {
		t.Errorf("%+v", first)
	}
	if got := fmt.Sprint(first.Header["Authorization"]); got != "[Bearer [redacted] Basic [redacted] [redacted]]" {
		t.Errorf("Authorization is shown as %s", got)
	}
	if got[1].Method != "GET" || got[1].Path != "/nowhere" {
		t.Errorf("second: %+v", got[1])
	}
	if r.Reset(); len(r.Requests()) != 0 {
		t.Error("Reset must forget requests")
	}
}

func TestABodyWithoutEndIsCutOff(t *testing.T) {
	r := start(t, simulator.Options{})
	if _, err := r.request(t.Context(), "POST", legacyPath, strings.Repeat(" ", 2<<20), r.OwnerToken()); err == nil {
		t.Error("answered")
	}
	if len(r.Requests()) != 0 || len(r.Minted()) != 0 {
		t.Error("what has not arrived must have no effect")
	}
}

func TestRequestsDoNotGrowForEver(t *testing.T) {
	const sent = 1<<16 + 1
	s := simulator.New(simulator.Options{Rate: -1})
	for i := range sent {
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", fmt.Sprintf("/%d", i), nil))
	}
	got := s.Requests()
	if len(got) >= sent || len(got) < sent/2 || got[len(got)-1].Path != fmt.Sprintf("/%d", sent-1) {
		t.Errorf("%d of %d requests are kept, up to %s", len(got), sent, got[len(got)-1].Path)
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	r := start(t, simulator.Options{})
	r.do("POST", legacyPath, "")
	printed := fmt.Sprintf("%+v %#v", r.Minted(), r.Requests())
	for _, text := range []secret.Text{r.OwnerToken(), r.last().Secret} {
		if strings.Contains(printed, text.Reveal()) {
			t.Error("a secret was printed")
		}
	}
}

func TestEverySimulatorHasItsOwnCredentials(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		s := simulator.New(simulator.Options{})
		for _, text := range []secret.Text{s.OwnerToken(), s.UserToken(), s.OrganizationToken()} {
			if seen[text.Reveal()] || !secretForm.MatchString(text.Reveal()) {
				t.Error("a credential is not fresh, or not of the vendor's form")
			}
			seen[text.Reveal()] = true
		}
	}
}

func TestManyGenerateAtOnce(t *testing.T) {
	const callers = 64
	r := start(t, simulator.Options{Rate: -1})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			answer, err := r.request(t.Context(), "POST", legacyPath, "", r.OwnerToken())
			if err != nil || answer.status != 201 {
				t.Errorf("%d, %v", answer.status, err)
			}
		})
	}
	wg.Wait()
	if minted := r.Minted(); len(minted) != callers || r.live() != 1 || !minted[callers-1].Live {
		t.Fatalf("%d tokens of which %d live, want %d and only the last", len(minted), r.live(), callers)
	}
	for i, m := range r.Minted() {
		want := 401
		if m.Live {
			want = 200
		}
		if got := r.as(m.Secret, "GET", "/api/v2/account/details", "").status; got != want {
			t.Errorf("token %d: %d, want %d", i, got, want)
		}
	}
}
