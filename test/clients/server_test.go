// Package clients tests that the vendor's clients get from the program's REST
// surface what they get from upstream: each test runs against the simulator
// itself, and against the built program with the simulator behind it, and
// demands one and the same answer.
//
// It is a module of its own, so that nothing which builds the program depends on
// the vendor's client.
package clients

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

const (
	// patience bounds every wait for something that is sure to come.
	patience = 30 * time.Second

	team = simulator.SeedTeam
	user = "user-62goNpx1ThQf689e" // who made a token that was made with the user's credential
)

// clock is when everything happens upstream: it stands still, so that answers can
// be compared whole. It is far ahead since the program, which goes by the true
// time, lets nobody ask for an expiry in the past.
var clock = time.Date(2100, time.January, 31, 12, 0, 0, 0, time.UTC)

// inTwoYears is when a token expires for which no expiry was asked.
var inTwoYears = clock.Add(2 * 365 * 24 * time.Hour)

// binary is the program under test, built with the race detector if the tests are.
var binary string

// raced is how this test was built: the race detector needs a C compiler, and
// not every machine has one.
func raced() string {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value
		}
	}
	return "false"
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "teamtoken-clients")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "teamtoken")
	build := exec.Command("go", "build", "-race="+raced(), "-o", binary, "./cmd/server")
	build.Dir, build.Stderr = "../..", os.Stderr
	code := 1
	if build.Run() == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is what serves the API, and what a client needs to know of it.
type server struct {
	url   string
	token string // the credential that a client presents

	sim      *simulator.Simulator // the truth
	upstream string               // the simulator's own address
}

// surface is a way to reach upstream. It is given the simulator and a credential
// for it, and returns what a client is to use.
type surface struct {
	name string
	open func(*testing.T, server) server
}

var (
	direct = surface{"upstream", func(_ *testing.T, s server) server {
		s.url = s.upstream
		return s
	}}
	withService = surface{"service credentials", func(t *testing.T, s server) server {
		s.url = start(t, "TFE_ADDRESS="+s.upstream, "TFE_TOKEN="+s.token, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true")
		s.token = "anything" // nobody looks at it
		return s
	}}
	withCallers = surface{"caller credentials", func(t *testing.T, s server) server {
		s.url = start(t, "TFE_ADDRESS="+s.upstream, "TEAMTOKEN_CREDENTIALS=caller")
		return s
	}}

	surfaces = []surface{direct, withService, withCallers}
	// Those where it matters which credential the client presents.
	credentialed = []surface{direct, withCallers}
)

// onEach runs a test on each surface, each time with a new upstream that has not
// made any token yet.
func onEach(t *testing.T, surfaces []surface, test func(t *testing.T, s server)) {
	for _, surface := range surfaces {
		t.Run(surface.name, func(t *testing.T) {
			sim := simulator.New(simulator.Options{Rate: -1, Now: func() time.Time { return clock }})
			t.Cleanup(func() { _ = sim.Close() })
			upstream, err := sim.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			test(t, surface.open(t, server{token: sim.UserToken().Reveal(), sim: sim, upstream: upstream}))
		})
	}
}

// start runs the program until the test ends, and returns where it serves REST.
func start(t *testing.T, env ...string) (url string) {
	t.Helper()
	program := exec.CommandContext(t.Context(), binary)
	program.Cancel = func() error { return program.Process.Signal(syscall.SIGTERM) }
	program.WaitDelay = patience
	program.Env = append(env, "GORACE=atexit_sleep_ms=0", // by default, the race detector makes every exit take a second
		"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0")
	stderr, err := program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	read := make(chan struct{}) // closed once the program's whole log is
	t.Cleanup(func() {
		<-read
		_ = program.Wait()
		if code := program.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the program exited with %d", code)
		}
		if t.Failed() {
			t.Logf("the program wrote:\n%s", log.String())
		}
	})

	serving := make(chan string, 1)
	go func() {
		defer close(read)
		lines := bufio.NewScanner(io.TeeReader(stderr, &log))
		for lines.Scan() {
			var line struct{ Msg, REST string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- line.REST
			}
		}
	}()
	select {
	case url = <-serving:
	case <-read:
		t.Fatal("the program ended")
	case <-time.After(patience):
		t.Fatalf("the program does not serve within %v", patience)
	}
	return url
}

// idOf and secretOf give what is random in an answer the name that it has in the
// tables: `id 2` is the id of the second token that upstream made.
func (s server) idOf(id string) string {
	switch id {
	case "":
		return ""
	case s.sim.TokenID(s.sim.UserToken()):
		return "the user's"
	case s.sim.TokenID(s.sim.OrganizationToken()):
		return "the organization's"
	}
	return s.ordinal("id", id, func(m simulator.Minted) bool { return m.ID == id })
}

func (s server) secretOf(token string) string {
	return s.ordinal("secret", token, func(m simulator.Minted) bool { return m.Secret.Equal(secret.New(token)) })
}

func (s server) ordinal(what, value string, is func(simulator.Minted) bool) string {
	if value == "" {
		return ""
	}
	for i, m := range s.sim.Minted() {
		if is(m) {
			return what + " " + strconv.Itoa(i+1)
		}
	}
	return what + " that upstream never made"
}
