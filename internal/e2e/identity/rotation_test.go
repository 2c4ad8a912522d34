package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

var rotated = []string{harness.ServerPair, harness.ClientCAs, harness.IssuerKeys, harness.PolicyFile, harness.Credential, harness.UpstreamCAs}

// era is one value of everything that is rotated.
type era struct {
	name       string
	server     *harness.Authority // of the listeners' certificate
	client     *harness.Authority // of callers' certificates
	upstream   *harness.Authority // of the upstream's certificate
	issuer     *harness.Signer    // of callers' JWTs
	credential secret.Text
}

// guest is a caller by certificate whom the policy allows in this era alone.
func (e *era) guest() string { return "spiffe://teamtoken.test/guest-" + e.name }

func newEra(t *testing.T, name string, credential secret.Text) *era {
	t.Helper()
	return &era{name, harness.NewAuthority(t), harness.NewAuthority(t), harness.NewAuthority(t), harness.NewSigner(t, name), credential}
}

// rotation is a program, what its files hold, what its upstream and its callers
// use, and the load.
type rotation struct {
	f          *harness.Server
	sim        *simulator.Simulator
	volume     harness.Volume
	accepted   map[string][]*era           // by setting: what the files accept, of which the last is what is used
	shown      atomic.Pointer[era]         // whose certificate the upstream has
	handshakes atomic.Int64                // of the upstream, with that one
	certified  atomic.Pointer[tls.Config]  // what a caller by certificate needs
	bearer     atomic.Pointer[secret.Text] // what a caller by JWT brings
	trusted    *tls.Config                 // what any client needs: the listeners' CAs of all eras
	done       [8]atomic.Int64             // calls of each caller
	brought    []secret.Text               // every JWT that callers had
}

// contents are what the files hold.
func (r *rotation) contents() map[string]string {
	bundle := func(setting string, of func(*era) string) (all string) {
		for _, e := range r.accepted[setting] {
			all += of(e)
		}
		return all
	}
	newest := func(setting string) *era { a := r.accepted[setting]; return a[len(a)-1] }
	read := func(file string) string { return string(harness.Must(os.ReadFile(file))) }
	var keys []*harness.Signer
	for _, e := range r.accepted[harness.IssuerKeys] {
		keys = append(keys, e.issuer)
	}
	callers := []string{harness.ByCertificate, harness.JWTIssuer + "#" + harness.ByJWT}
	for _, e := range r.accepted[harness.PolicyFile] {
		callers = append(callers, e.guest())
	}
	return map[string]string{
		"tls.crt":       read(newest(harness.ServerPair).server.CertFile),
		"tls.key":       read(newest(harness.ServerPair).server.KeyFile),
		"client-ca.pem": bundle(harness.ClientCAs, func(e *era) string { return read(e.client.CAFile) }),
		"jwks.json":     harness.JWKS(keys...),
		"policy.yaml":   harness.PolicyFor(callers...),
		"token":         newest(harness.Credential).credential.Reveal() + "\n",
		"upstream.pem":  bundle(harness.UpstreamCAs, func(e *era) string { return read(e.upstream.CAFile) }),
	}
}

// accept has the program's files accept these eras, and use the last of them.
func (r *rotation) accept(t *testing.T, settings []string, eras ...*era) {
	t.Helper()
	before := r.contents()
	for _, s := range settings {
		r.accepted[s] = eras
	}
	after := r.contents()
	files := map[string]string{
		harness.ServerPair: "tls.crt", harness.ClientCAs: "client-ca.pem", harness.IssuerKeys: "jwks.json", harness.PolicyFile: "policy.yaml", harness.Credential: "token", harness.UpstreamCAs: "upstream.pem",
	}
	settings = slices.DeleteFunc(slices.Clone(settings), func(s string) bool { return before[files[s]] == after[files[s]] })
	r.f.After(t, harness.InUse, settings, func() { r.volume.Publish(t, after) })
}

// settle waits until every caller has made calls that began after now.
func (r *rotation) settle(t *testing.T) {
	t.Helper()
	before := make([]int64, len(r.done))
	for i := range r.done {
		before[i] = r.done[i].Load()
	}
	for i := range r.done {
		harness.Eventually(t, fmt.Sprintf("caller %d goes on", i), func() bool { return t.Failed() || r.done[i].Load() >= before[i]+2 })
	}
}

// as is what a client with a certificate of an era needs.
func (r *rotation) as(t *testing.T, e *era, id string) *tls.Config {
	t.Helper()
	config := r.trusted.Clone()
	config.Certificates = e.client.ClientCert(t, id).Certificates
	return config
}

// identify has callers be, from their next connection on, who they are in these eras.
func (r *rotation) identify(t *testing.T, certificate, jwt *era) {
	t.Helper()
	config := r.as(t, certificate, harness.ByCertificate)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0) // so that some connections only resume what was verified before
	r.certified.Store(config)
	bearer := jwt.issuer.Sign(t, harness.ByJWT)
	r.bearer.Store(&bearer)
	r.brought = append(r.brought, bearer)
}

// load makes calls over both surfaces, by either identity, on connections that
// stay and on new ones, until the function that is returned is called. Not one
// may fail.
func (r *rotation) load(t *testing.T) (end func()) {
	t.Helper()
	ended := make(chan struct{})
	var callers sync.WaitGroup
	for i := range r.done {
		byJWT, rest, stays := i&1 != 0, i&2 != 0, i&4 != 0
		team := simulator.Teams()[i%len(simulator.Teams())].ID
		callers.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			var call func(change bool, bearer secret.Text) error
			var with *tls.Config
			disconnect := func() {}
			defer func() { disconnect() }()
			for n := 0; ; n++ {
				config := r.trusted
				if !byJWT {
					config = r.certified.Load()
				}
				// Who has a new certificate connects with it: the old one's connection ends with its CA.
				if config != with || !stays {
					disconnect()
					with = config
					call, disconnect = r.connect(t, config, rest, team)
				}
				var bearer secret.Text
				if byJWT {
					bearer = *r.bearer.Load()
				}
				if err := call(n%10 == 0, bearer); err != nil {
					t.Errorf("call %d of a caller by JWT %v, over REST %v, who stays %v: %v", n, byJWT, rest, stays, err)
					return
				}
				r.done[i].Add(1)
				select {
				case <-tick.C:
				case <-ended:
					return
				}
			}
		})
	}
	end = sync.OnceFunc(func() { close(ended); callers.Wait() })
	t.Cleanup(end)
	return end
}

// connect returns how to read or change a team's token on one connection.
func (r *rotation) connect(t *testing.T, config *tls.Config, rest bool, team string) (
	call func(change bool, bearer secret.Text) error, disconnect func(),
) {
	t.Helper()
	if rest {
		browser := r.f.NewHTTPClient(t, config.Clone()) // net/http adds its own protocols to it
		return func(change bool, bearer secret.Text) error {
			method, want := http.MethodGet, http.StatusOK
			if change {
				method, want = http.MethodPost, http.StatusCreated
			}
			ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
			defer cancel()
			resp, err := browser.Do(r.f.Request(ctx, method, team, bearer))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != want {
				return errors.New(resp.Status)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		}, browser.CloseIdleConnections
	}
	conn := r.f.DialAs(t, config)
	client := teamtokenv1.NewTeamTokenServiceClient(conn)
	return func(change bool, bearer secret.Text) error {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if !bearer.IsZero() {
			ctx = harness.As(ctx, bearer)
		}
		if change {
			_, err := client.GenerateToken(ctx, &teamtokenv1.GenerateTokenRequest{TeamId: team})
			return err
		}
		_, err := client.GetToken(ctx, &teamtokenv1.GetTokenRequest{TeamId: team})
		return err
	}, func() { _ = conn.Close() }
}

// try makes a call on a new connection over each surface.
func (r *rotation) try(t *testing.T, config *tls.Config, bearer secret.Text) (grpc, rest error) {
	t.Helper()
	for _, overREST := range []bool{false, true} {
		call, disconnect := r.connect(t, config, overREST, simulator.SeedTeam)
		err := call(false, bearer)
		disconnect()
		if overREST {
			rest = err
		} else {
			grpc = err
		}
	}
	return grpc, rest
}

// proofs are, for each setting, that its new value is in use and its old one is
// refused: on new connections, by both surfaces.
func (r *rotation) prove(t *testing.T, setting string, old, next *era) {
	t.Helper()
	switch setting {
	case harness.ServerPair:
		for _, address := range []string{r.f.GRPC, strings.TrimPrefix(r.f.REST, "https://")} {
			for e, want := range map[*era]bool{old: false, next: true} {
				config := e.server.Client()
				config.ServerName, config.NextProtos = "localhost", []string{"h2"}
				conn, err := tls.Dial("tcp", address, config)
				if err == nil {
					_ = conn.Close()
				}
				if (err == nil) != want {
					t.Errorf("%s with the certificate of era %s: %v", address, e.name, err)
				}
			}
		}
	case harness.ClientCAs:
		if grpc, rest := r.try(t, r.as(t, next, harness.ByCertificate), secret.Text{}); grpc != nil || rest != nil {
			t.Errorf("a certificate of the new CA: %v, %v", grpc, rest)
		}
		if grpc, rest := r.try(t, r.as(t, old, harness.ByCertificate), secret.Text{}); status.Code(grpc) != codes.Unavailable || rest == nil {
			t.Errorf("a certificate of the old CA: %v, %v", grpc, rest)
		}
	case harness.IssuerKeys:
		if grpc, rest := r.try(t, r.trusted, next.issuer.Sign(t, harness.ByJWT)); grpc != nil || rest != nil {
			t.Errorf("a JWT by the new key: %v, %v", grpc, rest)
		}
		if grpc, rest := r.try(t, r.trusted, old.issuer.Sign(t, harness.ByJWT)); status.Code(grpc) != codes.Unauthenticated || rest == nil || !strings.HasPrefix(rest.Error(), "401") {
			t.Errorf("a JWT by the old key: %v, %v", grpc, rest)
		}
	case harness.PolicyFile:
		holder := r.accepted[harness.ClientCAs][len(r.accepted[harness.ClientCAs])-1]
		if grpc, rest := r.try(t, r.as(t, holder, next.guest()), secret.Text{}); grpc != nil || rest != nil {
			t.Errorf("whom the new policy allows: %v, %v", grpc, rest)
		}
		grpc, rest := r.try(t, r.as(t, holder, old.guest()), secret.Text{})
		if apierror.FromStatus(status.Convert(grpc)).Reason != "CALLER_NOT_ALLOWED" || rest == nil || !strings.HasPrefix(rest.Error(), "403") {
			t.Errorf("whom the old policy allowed: %v, %v", grpc, rest)
		}
	case harness.Credential:
		r.sim.Reset()
		r.settle(t)
		for _, request := range r.sim.Requests() {
			if !request.Bearer.Equal(next.credential) {
				t.Fatal("the old credential goes upstream still")
			}
		}
	case harness.UpstreamCAs: // the old one is seen to be refused once the load has ended
		if r.handshakes.Load() == 0 {
			t.Error("the upstream's new certificate was not shown to anybody")
		}
	}
}

// Everything that is followed is rotated, one after the other and then at once,
// while callers call: as a careful operator does it, who adds the new before he
// uses it, and removes the old after. No call fails.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	for _, kubernetes := range []bool{false, true} {
		name := "by renaming"
		if kubernetes {
			name = "as Kubernetes does"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			testRotation(t, kubernetes)
		})
	}
	t.Run("keys of an issuer that is asked", func(t *testing.T) {
		t.Parallel()
		testIssuerRotation(t)
	})
}

func testRotation(t *testing.T, kubernetes bool) {
	sim := simulator.New(simulator.Options{Rate: -1})
	t.Cleanup(func() { _ = sim.Close() })
	eras := []*era{newEra(t, "1", sim.UserToken()), newEra(t, "2", sim.OrganizationToken()), newEra(t, "3", sim.OwnerToken())}
	r := &rotation{
		sim: sim, volume: harness.Volume{Dir: t.TempDir(), Kubernetes: kubernetes}, accepted: map[string][]*era{},
		trusted: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12},
	}
	for _, e := range eras {
		r.trusted.RootCAs.AddCert(e.server.CA)
	}
	upstream := r.serve(t, eras[0])
	for _, s := range rotated {
		r.accepted[s] = eras[:1]
	}
	r.volume.Publish(t, r.contents())
	s := harness.Settings{Sim: sim, Upstream: upstream.URL, Env: []string{
		"TEAMTOKEN_TLS_CERT_FILE=" + r.volume.File("tls.crt"), "TEAMTOKEN_TLS_KEY_FILE=" + r.volume.File("tls.key"),
		"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + r.volume.File("client-ca.pem"), "TEAMTOKEN_TLS_CLIENT_AUTH=optional",
		"TEAMTOKEN_JWT_ISSUER=" + harness.JWTIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + harness.JWTAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + r.volume.File("jwks.json"),
		"TEAMTOKEN_POLICY_FILE=" + r.volume.File("policy.yaml"),
		"TFE_TOKEN_FILE=" + r.volume.File("token"), "TFE_CA_FILE=" + r.volume.File("upstream.pem"),
		"TEAMTOKEN_LOG_LEVEL=info",
	}}
	r.f = harness.Start(t, s)
	r.f.REST = "https://" + strings.Replace(strings.TrimPrefix(r.f.REST, "https://"), "127.0.0.1", "localhost", 1)
	r.identify(t, eras[0], eras[0])
	for _, team := range simulator.Teams() { // for everybody to read
		call, disconnect := r.connect(t, r.certified.Load(), false, team.ID)
		if err := call(true, secret.Text{}); err != nil {
			t.Fatal(err)
		}
		disconnect()
	}
	end := r.load(t)
	r.settle(t)

	r.garbage(t)
	for _, setting := range rotated {
		r.rotate(t, []string{setting}, eras[0], eras[1])
	}
	r.rotate(t, rotated, eras[1], eras[2])
	end()
	total := int64(0)
	for i := range r.done {
		total += r.done[i].Load()
	}
	t.Logf("%d calls", total)
	for _, jwt := range r.brought {
		if form := harness.Leaked(r.f.Stdout.String()+r.f.Stderr.String()+r.f.Answers.String(), jwt.Reveal()); form != "" {
			t.Errorf("a caller's JWT was let out, %s", form)
		}
	}

	// The upstream with its old certificate again: by a change, since a read is retried.
	r.shown.Store(eras[1])
	upstream.CloseClientConnections()
	call, disconnect := r.connect(t, r.trusted, false, simulator.SeedTeam)
	defer disconnect()
	if err := call(true, *r.bearer.Load()); apierror.FromStatus(status.Convert(err)).Reason != "UPSTREAM_UNREACHABLE" {
		t.Errorf("an upstream whose CA is trusted no more: %v", err)
	}
}

// An issuer that is asked for its keys has others: the new one is believed as soon
// as a JWT is signed by it, and the old one no longer than until the next time that
// the issuer is asked. So is the CA of the issuer followed, and the token that it is
// asked with.
func testIssuerRotation(t *testing.T) {
	sim, url := harness.NewSimulator(t)
	certificates := []*harness.Authority{harness.NewAuthority(t), harness.NewAuthority(t)}
	keys := []*harness.Signer{harness.NewSigner(t, "1"), harness.NewSigner(t, "2"), harness.NewSigner(t, "3")}
	var (
		published atomic.Pointer[string]
		shown     atomic.Pointer[harness.Authority]
		asked     sync.Map // the credentials that the keys were asked for with
	)
	published.Store(new(harness.JWKS(keys[0])))
	shown.Store(certificates[0])
	issuer := httptest.NewUnstartedServer(nil)
	issuer.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Authorization"), true)
		if r.URL.Path == "/keys" {
			_, _ = io.WriteString(w, *published.Load())
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys"})
	})
	issuer.Config.ErrorLog = log.New(io.Discard, "", 0)
	issuer.Config.SetKeepAlivesEnabled(false) // so that each question has its own handshake
	issuer.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{shown.Load().Pair}}, nil
	}}
	issuer.StartTLS()
	t.Cleanup(issuer.Close)

	files := harness.Volume{Dir: t.TempDir()}
	ca := func(of ...*harness.Authority) (all string) {
		for _, a := range of {
			all += string(harness.Must(os.ReadFile(a.CAFile)))
		}
		return all
	}
	files.Publish(t, map[string]string{
		"ca.pem": ca(certificates[0]), "token": "asks-0", "policy.yaml": harness.PolicyFor(issuer.URL + "#" + harness.ByJWT),
	})
	f := harness.Start(t, harness.Settings{Sim: sim, Upstream: url, Env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE=" + files.File("policy.yaml"),
		"TEAMTOKEN_JWT_ISSUER=" + issuer.URL, "TEAMTOKEN_JWT_AUDIENCE=" + harness.JWTAudience,
		"TEAMTOKEN_JWT_ISSUER_CA_FILE=" + files.File("ca.pem"), "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE=" + files.File("token"),
	}})
	var bearer atomic.Pointer[secret.Text] // what callers bring
	use := func(s *harness.Signer) { bearer.Store(new(s.SignAs(t, issuer.URL, harness.ByJWT))) }
	seldom := time.NewTicker(250 * time.Millisecond) // so that the log stays short
	defer seldom.Stop()
	allowed := func(s *harness.Signer) bool {
		<-seldom.C
		_, err := f.Client.GenerateToken(harness.As(t.Context(), s.SignAs(t, issuer.URL, harness.ByJWT)), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
		if err != nil && status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
		return err == nil
	}
	use(keys[0])
	if !allowed(keys[0]) || allowed(keys[1]) {
		t.Fatal("at first there is the first key alone")
	}
	ended := make(chan struct{})
	var callers sync.WaitGroup
	end := sync.OnceFunc(func() { close(ended); callers.Wait() })
	t.Cleanup(end)
	var calls atomic.Int64
	for range 2 {
		callers.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				if _, err := f.Client.GetToken(harness.As(context.Background(), *bearer.Load()), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
					t.Errorf("call %d: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
				select {
				case <-tick.C:
				case <-ended:
					return
				}
			}
		})
	}

	// All that is needed to ask the issuer changes, and then its keys do.
	f.After(t, harness.InUse, []string{"TEAMTOKEN_JWT_ISSUER_CA_FILE", "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE"}, func() {
		files.Publish(t, map[string]string{"ca.pem": ca(certificates[1]), "token": "asks-1"})
	})
	shown.Store(certificates[1])
	published.Store(new(harness.JWKS(keys[0], keys[1])))
	asked.Clear()
	f.After(t, harness.InUse, []string{"TEAMTOKEN_JWT_ISSUER"}, func() {
		harness.Eventually(t, "the new key is believed", func() bool { return allowed(keys[1]) })
	})
	for _, token := range []string{"asks-0", "asks-1"} {
		if _, ok := asked.Load("Bearer " + token); ok != (token == "asks-1") {
			t.Errorf("the issuer was asked with the token %s: %v", token, ok)
		}
	}
	if !allowed(keys[0]) {
		t.Error("the old key is refused while the issuer has it")
	}
	use(keys[1])
	published.Store(new(harness.JWKS(keys[1])))
	harness.Eventually(t, "the old key is refused, once the issuer was asked again", func() bool { return !allowed(keys[2]) && !allowed(keys[0]) })
	if !allowed(keys[1]) {
		t.Error("the new key is refused")
	}

	// What the issuer answers in place of keys changes nothing.
	published.Store(new("not keys"))
	f.After(t, harness.NotUse, []string{"TEAMTOKEN_JWT_ISSUER"}, func() {
		harness.Eventually(t, "the issuer is asked again", func() bool { return !allowed(keys[2]) && f.Reloads(harness.NotUse, "TEAMTOKEN_JWT_ISSUER") > 0 })
	})
	if !allowed(keys[1]) {
		t.Error("the last good key is not kept")
	}
	end()
	t.Logf("%d calls", calls.Load())
	for _, text := range []string{f.Stdout.String(), f.Stderr.String(), f.Answers.String()} {
		if strings.Contains(text, "asks-") {
			t.Error("the token that the issuer is asked with was let out")
		}
	}
}

// serve is the upstream over TLS, with a certificate of the era that is shown.
func (r *rotation) serve(t *testing.T, first *era) *httptest.Server {
	t.Helper()
	r.shown.Store(first)
	upstream := httptest.NewUnstartedServer(r.sim)
	upstream.EnableHTTP2 = true
	upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	upstream.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		r.handshakes.Add(1)
		return &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			Certificates: []tls.Certificate{r.shown.Load().upstream.Pair},
		}, nil
	}}
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	return upstream
}

// rotate takes files from one era to the next.
func (r *rotation) rotate(t *testing.T, settings []string, old, next *era) {
	t.Helper()
	r.accept(t, settings, old, next)
	certificate, jwt := r.accepted[harness.ClientCAs], r.accepted[harness.IssuerKeys]
	resuming := r.certified.Load()
	r.identify(t, certificate[len(certificate)-1], jwt[len(jwt)-1])
	if slices.Contains(settings, harness.UpstreamCAs) {
		r.shown.Store(next)
		r.handshakes.Store(0)
	}
	r.settle(t)
	r.accept(t, settings, next)
	if slices.Contains(settings, harness.Credential) {
		r.settle(t) // what was asked with the old one is answered
		r.revoke(t, old.credential)
	}
	r.settle(t)
	for _, s := range settings {
		r.prove(t, s, old, next)
	}
	if slices.Contains(settings, harness.ClientCAs) {
		if grpc, rest := r.try(t, resuming, secret.Text{}); grpc == nil || rest == nil {
			t.Errorf("a session that a certificate of the old CA began is resumed: %v, %v", grpc, rest)
		}
	}
}

// revoke ends a credential upstream.
func (r *rotation) revoke(t *testing.T, credential secret.Text) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/api/v2/authentication-tokens/"+r.sim.TokenID(credential), nil)
	req.Header.Set("Authorization", "Bearer "+r.sim.OwnerToken().Reveal())
	answer := httptest.NewRecorder()
	if r.sim.ServeHTTP(answer, req); answer.Code != http.StatusNoContent {
		t.Fatalf("the old credential was not revoked: %d", answer.Code)
	}
}

// garbage is what all files hold for a while. What was there before stays in use,
// and whoever looks after the program is told.
func (r *rotation) garbage(t *testing.T) {
	t.Helper()
	files := r.contents()
	for name := range files {
		files[name] = "not [what it\x00should be\n"
	}
	r.f.After(t, harness.NotUse, rotated, func() { r.volume.Publish(t, files) })
	r.settle(t)
	metrics := r.f.Metrics()
	for _, s := range rotated {
		want := fmt.Sprintf(`teamtoken_reloads_total{result="failed",setting=%q}`, s)
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	r.f.After(t, harness.InUse, rotated, func() { r.volume.Publish(t, r.contents()) })
	r.settle(t)
}

// A policy that changed decides the next call of whoever is connected already,
// within the second or so in which it is looked at. One that is none changes
// nothing.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	const alice, bob = "spiffe://teamtoken.test/alice", "spiffe://teamtoken.test/bob"
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	files := harness.Volume{Dir: t.TempDir()}
	publish := func(policy string) { files.Publish(t, map[string]string{"policy.yaml": policy}) }
	publish(harness.PolicyFor(alice))
	f := harness.Start(t, harness.Settings{Sim: sim, Upstream: url, TLS: a, Env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_TLS_CLIENT_CA_FILE=" + a.CAFile,
		"TEAMTOKEN_TLS_CLIENT_AUTH=optional", "TEAMTOKEN_POLICY_FILE=" + files.File("policy.yaml"),
	}})
	may := map[string]func() bool{}
	for _, who := range []string{alice, bob} {
		config := a.ClientCert(t, who)
		client, browser := teamtokenv1.NewTeamTokenServiceClient(f.DialAs(t, config)), f.NewHTTPClient(t, config.Clone())
		may[who] = func() bool {
			sent := len(sim.Requests())
			_, err := client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			resp := harness.Must(browser.Do(f.Request(t.Context(), http.MethodGet, simulator.SeedTeam, secret.Text{})))
			defer resp.Body.Close()
			switch {
			case err == nil && resp.StatusCode == http.StatusOK:
				return true
			case apierror.FromStatus(status.Convert(err)).Reason != "CALLER_NOT_ALLOWED" || harness.ErrorsOf(t, resp).Code != "CALLER_NOT_ALLOWED":
				t.Errorf("%s: %v, %s", who, err, resp.Status)
			case len(sim.Requests()) != sent:
				t.Errorf("what %s may not do went upstream", who)
			}
			return false
		}
	}
	check := func(when string, aliceMay, bobMay bool) {
		t.Helper()
		if may[alice]() != aliceMay || may[bob]() != bobMay {
			t.Errorf("%s: alice may: %v, bob may: %v", when, !aliceMay, !bobMay)
		}
	}
	change := func(message, policy string) {
		t.Helper()
		begun := time.Now()
		f.After(t, message, []string{harness.PolicyFile}, func() { publish(policy) })
		if took := time.Since(begun); took > harness.Caught {
			t.Errorf("noticed after %v", took)
		}
	}
	check("at first", true, false)
	change(harness.InUse, harness.PolicyFor(alice, bob))
	check("a grant is added", true, true)
	change(harness.InUse, harness.PolicyFor(bob))
	check("a grant is revoked", false, true)
	for _, none := range []string{
		"rules: [", "rules: []\n", "grants: []\n", harness.PolicyFor(alice) + "    team: []\n", harness.PolicyFor(alice) + harness.PolicyFor(alice), "\x00",
	} {
		change(harness.NotUse, none)
		check(fmt.Sprintf("%.20q", none), false, true)
	}
	f.After(t, harness.NotUse, []string{harness.PolicyFile}, func() {
		if err := os.Remove(files.File("policy.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	check("the file is gone", false, true)
	change(harness.InUse, harness.PolicyFor(alice))
	check("the file is back", true, false)
}
