package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// volume is a directory of files that are replaced while they are read.
type volume struct {
	dir        string
	kubernetes bool // by one swap of a symbolic link, for all files at once
	generation int
}

// file is where one of the files is.
func (v *volume) file(name string) string { return filepath.Join(v.dir, name) }

// publish replaces all files. A reader sees of each the old or the new content,
// and never a part of it.
func (v *volume) publish(t *testing.T, files map[string]string) {
	t.Helper()
	v.generation++
	if !v.kubernetes {
		for name, content := range files {
			next := v.file("." + name)
			if err := errors.Join(os.WriteFile(next, []byte(content), 0o600), os.Rename(next, v.file(name))); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	data := fmt.Sprintf("..generation-%d", v.generation)
	if err := os.Mkdir(v.file(data), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(v.dir, data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(v.file(name)); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join("..data", name), v.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	link(t, data, v.file("..data"))
	if err := os.RemoveAll(v.file(fmt.Sprintf("..generation-%d", v.generation-1))); err != nil {
		t.Fatal(err)
	}
}

// reloads counts how often the program's log says this of a setting's file.
func (f *facade) reloads(message, setting string) (n int) {
	for line := range strings.Lines(f.stderr.String()) {
		var l struct{ Msg, Setting string }
		if !strings.Contains(line, message) { // there may be very many
			continue
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == message && l.Setting == setting {
			n++
		}
	}
	return n
}

const (
	inUse  = "a changed file is in use"
	notUse = "a changed file cannot be used, the last good one stays in use"
)

// after does something to files, and waits until the program's log says this of
// each of the settings anew.
func (f *facade) after(t *testing.T, message string, settings []string, do func()) {
	t.Helper()
	before := make(map[string]int)
	for _, s := range settings {
		before[s] = f.reloads(message, s)
	}
	do()
	for _, s := range settings {
		eventually(t, s+": "+message, func() bool { return f.reloads(message, s) > before[s] })
	}
}

// The files that are rotated, and the settings by which the program's log calls
// them.
const (
	serverPair  = "TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE"
	clientCAs   = "TEAMTOKEN_TLS_CLIENT_CA_FILE"
	issuerKeys  = "TEAMTOKEN_JWT_KEYS_FILE"
	policyFile  = "TEAMTOKEN_POLICY_FILE"
	credential  = "TFE_TOKEN_FILE"
	upstreamCAs = "TFE_CA_FILE"
)

var rotated = []string{serverPair, clientCAs, issuerKeys, policyFile, credential, upstreamCAs}

// era is one value of everything that is rotated.
type era struct {
	name       string
	server     *authority // of the listeners' certificate
	client     *authority // of callers' certificates
	upstream   *authority // of the upstream's certificate
	issuer     *signer    // of callers' JWTs
	credential secret.Text
}

// guest is a caller by certificate whom the policy allows in this era alone.
func (e *era) guest() string { return "spiffe://teamtoken.test/guest-" + e.name }

func newEra(t *testing.T, name string, credential secret.Text) *era {
	t.Helper()
	return &era{name, newAuthority(t), newAuthority(t), newAuthority(t), newSigner(t, name), credential}
}

// The callers who make the load, and who are allowed in all eras.
const (
	byCertificate = "spiffe://teamtoken.test/load"
	byJWT         = "load"
	jwtIssuer     = "https://issuer.teamtoken.test"
	jwtAudience   = "teamtoken"
)

// rotation is a program, what its files hold, what its upstream and its callers
// use, and the load.
type rotation struct {
	f          *facade
	sim        *simulator.Simulator
	volume     volume
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
	read := func(file string) string { return string(must(os.ReadFile(file))) }
	var keys []*signer
	for _, e := range r.accepted[issuerKeys] {
		keys = append(keys, e.issuer)
	}
	callers := []string{byCertificate, jwtIssuer + "#" + byJWT}
	for _, e := range r.accepted[policyFile] {
		callers = append(callers, e.guest())
	}
	return map[string]string{
		"tls.crt":       read(newest(serverPair).server.certFile),
		"tls.key":       read(newest(serverPair).server.keyFile),
		"client-ca.pem": bundle(clientCAs, func(e *era) string { return read(e.client.caFile) }),
		"jwks.json":     jwks(keys...),
		"policy.yaml":   policyFor(callers...),
		"token":         newest(credential).credential.Reveal() + "\n",
		"upstream.pem":  bundle(upstreamCAs, func(e *era) string { return read(e.upstream.caFile) }),
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
		serverPair: "tls.crt", clientCAs: "client-ca.pem", issuerKeys: "jwks.json", policyFile: "policy.yaml", credential: "token", upstreamCAs: "upstream.pem",
	}
	settings = slices.DeleteFunc(slices.Clone(settings), func(s string) bool { return before[files[s]] == after[files[s]] })
	r.f.after(t, inUse, settings, func() { r.volume.publish(t, after) })
}

// settle waits until every caller has made calls that began after now.
func (r *rotation) settle(t *testing.T) {
	t.Helper()
	before := make([]int64, len(r.done))
	for i := range r.done {
		before[i] = r.done[i].Load()
	}
	for i := range r.done {
		eventually(t, fmt.Sprintf("caller %d goes on", i), func() bool { return t.Failed() || r.done[i].Load() >= before[i]+2 })
	}
}

// as is what a client with a certificate of an era needs.
func (r *rotation) as(t *testing.T, e *era, id string) *tls.Config {
	t.Helper()
	config := r.trusted.Clone()
	config.Certificates = e.client.holder(t, id).Certificates
	return config
}

// identify has callers be, from their next connection on, who they are in these eras.
func (r *rotation) identify(t *testing.T, certificate, jwt *era) {
	t.Helper()
	config := r.as(t, certificate, byCertificate)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0) // so that some connections only resume what was verified before
	r.certified.Store(config)
	bearer := jwt.issuer.sign(t, byJWT)
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
		browser := r.f.browser(t, config.Clone()) // net/http adds its own protocols to it
		return func(change bool, bearer secret.Text) error {
			method, want := http.MethodGet, http.StatusOK
			if change {
				method, want = http.MethodPost, http.StatusCreated
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			resp, err := browser.Do(r.f.request(ctx, method, team, bearer))
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
	conn := r.f.dialAs(t, config)
	client := teamtokenv1.NewTeamTokenServiceClient(conn)
	return func(change bool, bearer secret.Text) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if !bearer.IsZero() {
			ctx = as(ctx, bearer)
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
	case serverPair:
		for _, address := range []string{r.f.grpc, strings.TrimPrefix(r.f.rest, "https://")} {
			for e, want := range map[*era]bool{old: false, next: true} {
				config := e.server.client()
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
	case clientCAs:
		if grpc, rest := r.try(t, r.as(t, next, byCertificate), secret.Text{}); grpc != nil || rest != nil {
			t.Errorf("a certificate of the new CA: %v, %v", grpc, rest)
		}
		if grpc, rest := r.try(t, r.as(t, old, byCertificate), secret.Text{}); status.Code(grpc) != codes.Unavailable || rest == nil {
			t.Errorf("a certificate of the old CA: %v, %v", grpc, rest)
		}
	case issuerKeys:
		if grpc, rest := r.try(t, r.trusted, next.issuer.sign(t, byJWT)); grpc != nil || rest != nil {
			t.Errorf("a JWT by the new key: %v, %v", grpc, rest)
		}
		if grpc, rest := r.try(t, r.trusted, old.issuer.sign(t, byJWT)); status.Code(grpc) != codes.Unauthenticated || rest == nil || !strings.HasPrefix(rest.Error(), "401") {
			t.Errorf("a JWT by the old key: %v, %v", grpc, rest)
		}
	case policyFile:
		holder := r.accepted[clientCAs][len(r.accepted[clientCAs])-1]
		if grpc, rest := r.try(t, r.as(t, holder, next.guest()), secret.Text{}); grpc != nil || rest != nil {
			t.Errorf("whom the new policy allows: %v, %v", grpc, rest)
		}
		grpc, rest := r.try(t, r.as(t, holder, old.guest()), secret.Text{})
		if apierror.FromStatus(status.Convert(grpc)).Reason != "CALLER_NOT_ALLOWED" || rest == nil || !strings.HasPrefix(rest.Error(), "403") {
			t.Errorf("whom the old policy allowed: %v, %v", grpc, rest)
		}
	case credential:
		r.sim.Reset()
		r.settle(t)
		for _, request := range r.sim.Requests() {
			if !request.Bearer.Equal(next.credential) {
				t.Fatal("the old credential goes upstream still")
			}
		}
	case upstreamCAs: // the old one is seen to be refused once the load has ended
		if r.handshakes.Load() == 0 {
			t.Error("the upstream's new certificate was not shown to anybody")
		}
	}
}

// Everything that is followed is rotated, one after the other and then at once,
// while callers call: as a careful operator does it, who adds the new before he
// uses it, and removes the old after. No call fails.
func TestRotationUnderLoad(t *testing.T) {
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
		sim: sim, volume: volume{dir: t.TempDir(), kubernetes: kubernetes}, accepted: map[string][]*era{},
		trusted: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12},
	}
	for _, e := range eras {
		r.trusted.RootCAs.AddCert(e.server.ca)
	}
	upstream := r.serve(t, eras[0])
	for _, s := range rotated {
		r.accepted[s] = eras[:1]
	}
	r.volume.publish(t, r.contents())
	s := settings{sim: sim, upstream: upstream.URL, env: []string{
		"TEAMTOKEN_TLS_CERT_FILE=" + r.volume.file("tls.crt"), "TEAMTOKEN_TLS_KEY_FILE=" + r.volume.file("tls.key"),
		"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + r.volume.file("client-ca.pem"), "TEAMTOKEN_TLS_CLIENT_AUTH=optional",
		"TEAMTOKEN_JWT_ISSUER=" + jwtIssuer, "TEAMTOKEN_JWT_AUDIENCE=" + jwtAudience, "TEAMTOKEN_JWT_KEYS_FILE=" + r.volume.file("jwks.json"),
		"TEAMTOKEN_POLICY_FILE=" + r.volume.file("policy.yaml"),
		"TFE_TOKEN_FILE=" + r.volume.file("token"), "TFE_CA_FILE=" + r.volume.file("upstream.pem"),
		"TEAMTOKEN_LOG_LEVEL=info",
	}}
	r.f = start(t, s)
	r.f.rest = "https://" + strings.Replace(strings.TrimPrefix(r.f.rest, "https://"), "127.0.0.1", "localhost", 1)
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
		if form := leaked(r.f.stdout.String()+r.f.stderr.String()+r.f.answers.String(), jwt.Reveal()); form != "" {
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
	sim, url := newSimulator(t)
	certificates := []*authority{newAuthority(t), newAuthority(t)}
	keys := []*signer{newSigner(t, "1"), newSigner(t, "2"), newSigner(t, "3")}
	var (
		published atomic.Pointer[string]
		shown     atomic.Pointer[authority]
		asked     sync.Map // the credentials that the keys were asked for with
	)
	published.Store(new(jwks(keys[0])))
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
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{shown.Load().pair}}, nil
	}}
	issuer.StartTLS()
	t.Cleanup(issuer.Close)

	files := volume{dir: t.TempDir()}
	ca := func(of ...*authority) (all string) {
		for _, a := range of {
			all += string(must(os.ReadFile(a.caFile)))
		}
		return all
	}
	files.publish(t, map[string]string{
		"ca.pem": ca(certificates[0]), "token": "asks-0", "policy.yaml": policyFor(issuer.URL + "#" + byJWT),
	})
	f := start(t, settings{sim: sim, upstream: url, env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_POLICY_FILE=" + files.file("policy.yaml"),
		"TEAMTOKEN_JWT_ISSUER=" + issuer.URL, "TEAMTOKEN_JWT_AUDIENCE=" + jwtAudience,
		"TEAMTOKEN_JWT_ISSUER_CA_FILE=" + files.file("ca.pem"), "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE=" + files.file("token"),
	}})
	var bearer atomic.Pointer[secret.Text] // what callers bring
	use := func(s *signer) { bearer.Store(new(s.signAs(t, issuer.URL, byJWT))) }
	seldom := time.NewTicker(250 * time.Millisecond) // so that the log stays short
	defer seldom.Stop()
	allowed := func(s *signer) bool {
		<-seldom.C
		_, err := f.client.GenerateToken(as(t.Context(), s.signAs(t, issuer.URL, byJWT)), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
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
				if _, err := f.client.GetToken(as(context.Background(), *bearer.Load()), &teamtokenv1.GetTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
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
	f.after(t, inUse, []string{"TEAMTOKEN_JWT_ISSUER_CA_FILE", "TEAMTOKEN_JWT_ISSUER_TOKEN_FILE"}, func() {
		files.publish(t, map[string]string{"ca.pem": ca(certificates[1]), "token": "asks-1"})
	})
	shown.Store(certificates[1])
	published.Store(new(jwks(keys[0], keys[1])))
	asked.Clear()
	f.after(t, inUse, []string{"TEAMTOKEN_JWT_ISSUER"}, func() {
		eventually(t, "the new key is believed", func() bool { return allowed(keys[1]) })
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
	published.Store(new(jwks(keys[1])))
	eventually(t, "the old key is refused, once the issuer was asked again", func() bool { return !allowed(keys[2]) && !allowed(keys[0]) })
	if !allowed(keys[1]) {
		t.Error("the new key is refused")
	}

	// What the issuer answers in place of keys changes nothing.
	published.Store(new("not keys"))
	f.after(t, notUse, []string{"TEAMTOKEN_JWT_ISSUER"}, func() {
		eventually(t, "the issuer is asked again", func() bool { return !allowed(keys[2]) && f.reloads(notUse, "TEAMTOKEN_JWT_ISSUER") > 0 })
	})
	if !allowed(keys[1]) {
		t.Error("the last good key is not kept")
	}
	end()
	t.Logf("%d calls", calls.Load())
	for _, text := range []string{f.stdout.String(), f.stderr.String(), f.answers.String()} {
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
			Certificates: []tls.Certificate{r.shown.Load().upstream.pair},
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
	certificate, jwt := r.accepted[clientCAs], r.accepted[issuerKeys]
	resuming := r.certified.Load()
	r.identify(t, certificate[len(certificate)-1], jwt[len(jwt)-1])
	if slices.Contains(settings, upstreamCAs) {
		r.shown.Store(next)
		r.handshakes.Store(0)
	}
	r.settle(t)
	r.accept(t, settings, next)
	if slices.Contains(settings, credential) {
		r.settle(t) // what was asked with the old one is answered
		r.revoke(t, old.credential)
	}
	r.settle(t)
	for _, s := range settings {
		r.prove(t, s, old, next)
	}
	if slices.Contains(settings, clientCAs) {
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
	r.f.after(t, notUse, rotated, func() { r.volume.publish(t, files) })
	r.settle(t)
	metrics := r.f.metrics()
	for _, s := range rotated {
		want := fmt.Sprintf(`teamtoken_reloads_total{result="failed",setting=%q}`, s)
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	r.f.after(t, inUse, rotated, func() { r.volume.publish(t, r.contents()) })
	r.settle(t)
}

// signer is an issuer's key.
type signer struct{ key jose.JSONWebKey }

func newSigner(t *testing.T, id string) *signer {
	t.Helper()
	return &signer{jose.JSONWebKey{Key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}
}

// sign makes a JWT of a subject.
func (s *signer) sign(t *testing.T, subject string) secret.Text {
	t.Helper()
	return s.signAs(t, jwtIssuer, subject)
}

func (s *signer) signAs(t *testing.T, issuer, subject string) secret.Text {
	t.Helper()
	claims := map[string]any{
		"iss": issuer, "sub": subject, "aud": jwtAudience, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
	}
	by := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, (&jose.SignerOptions{}).WithType("JWT")))
	return secret.New(must(must(by.Sign(must(json.Marshal(claims)))).CompactSerialize()))
}

// jwks is the public half of keys, as issuers give it.
func jwks(keys ...*signer) string {
	var set jose.JSONWebKeySet
	for _, s := range keys {
		set.Keys = append(set.Keys, s.key.Public())
	}
	return string(must(json.Marshal(set)))
}

// policyFor allows these callers everything.
func policyFor(callers ...string) string {
	return fmt.Sprintf("rules:\n  - name: all\n    callers: %s\n    methods: [\"*\"]\n    teams: [\"*\"]\n    organizations: [\"*\"]\n",
		must(json.Marshal(callers)))
}

// A policy that changed decides the next call of whoever is connected already,
// within the second or so in which it is looked at. One that is none changes
// nothing.
func TestPolicyReload(t *testing.T) {
	const alice, bob = "spiffe://teamtoken.test/alice", "spiffe://teamtoken.test/bob"
	sim, url := newSimulator(t)
	a := newAuthority(t)
	files := volume{dir: t.TempDir()}
	publish := func(policy string) { files.publish(t, map[string]string{"policy.yaml": policy}) }
	publish(policyFor(alice))
	f := start(t, settings{sim: sim, upstream: url, tls: a, env: []string{
		"TFE_TOKEN=" + sim.UserToken().Reveal(), "TEAMTOKEN_TLS_CLIENT_CA_FILE=" + a.caFile,
		"TEAMTOKEN_TLS_CLIENT_AUTH=optional", "TEAMTOKEN_POLICY_FILE=" + files.file("policy.yaml"),
	}})
	may := map[string]func() bool{}
	for _, who := range []string{alice, bob} {
		config := a.holder(t, who)
		client, browser := teamtokenv1.NewTeamTokenServiceClient(f.dialAs(t, config)), f.browser(t, config.Clone())
		may[who] = func() bool {
			sent := len(sim.Requests())
			_, err := client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam})
			resp := must(browser.Do(f.request(t.Context(), http.MethodGet, simulator.SeedTeam, secret.Text{})))
			defer resp.Body.Close()
			switch {
			case err == nil && resp.StatusCode == http.StatusOK:
				return true
			case apierror.FromStatus(status.Convert(err)).Reason != "CALLER_NOT_ALLOWED" || errorsOf(t, resp).Code != "CALLER_NOT_ALLOWED":
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
		f.after(t, message, []string{policyFile}, func() { publish(policy) })
		if took := time.Since(begun); took > caught {
			t.Errorf("noticed after %v", took)
		}
	}
	check("at first", true, false)
	change(inUse, policyFor(alice, bob))
	check("a grant is added", true, true)
	change(inUse, policyFor(bob))
	check("a grant is revoked", false, true)
	for _, none := range []string{
		"rules: [", "rules: []\n", "grants: []\n", policyFor(alice) + "    team: []\n", policyFor(alice) + policyFor(alice), "\x00",
	} {
		change(notUse, none)
		check(fmt.Sprintf("%.20q", none), false, true)
	}
	f.after(t, notUse, []string{policyFile}, func() {
		if err := os.Remove(files.file("policy.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	check("the file is gone", false, true)
	change(inUse, policyFor(alice))
	check("the file is back", true, false)
}
