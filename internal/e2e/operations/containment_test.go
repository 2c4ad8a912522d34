package operations_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// nobody is a user who may do nothing here.
const nobody = 65534

// runBy has the programs that this test starts run by a shell script, which ends
// with `exec "$@"` or the like: the process is then the program itself.
func runBy(t *testing.T, script string) {
	t.Helper()
	program := harness.Binary
	t.Cleanup(func() { harness.Binary = program })
	harness.Binary = filepath.Join(t.TempDir(), "run")
	whole := fmt.Sprintf("#!/bin/sh\nset -- '%s' \"$@\"\n%s\n", program, script)
	if err := os.WriteFile(harness.Binary, []byte(whole), 0o700); err != nil {
		t.Fatal(err)
	}
}

// owner is the user that a process belongs to, as /proc has it: root, whoever
// runs it, if its memory is kept from others.
func owner(t *testing.T, pid int) int {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/environ", pid), &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// asNobody is a command that an ordinary user runs: nobody if the tests are root's.
func asNobody(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// The program's memory, which holds secrets, is neither dumped nor read by
// another process of its user. Of an ordinary program it could be.
func TestMemoryIsContained(t *testing.T) {
	ordinary := asNobody("sleep", "3600")
	if err := ordinary.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ordinary.Process.Kill(); _ = ordinary.Wait() })
	environment := func(pid int) error {
		return asNobody("cat", fmt.Sprintf("/proc/%d/environ", pid)).Run()
	}
	harness.Eventually(t, "an ordinary program runs", func() bool {
		return owner(t, ordinary.Process.Pid) != 0 && environment(ordinary.Process.Pid) == nil
	})

	if os.Getuid() == 0 {
		dir := t.TempDir() // which nobody may enter
		for _, path := range []string{dir, filepath.Dir(dir)} {
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		program := filepath.Join(dir, "teamtoken-server")
		if err := os.Link(harness.Binary, program); err != nil {
			t.Fatal(err)
		}
		runBy(t, fmt.Sprintf("shift\nexec setpriv --reuid=%[1]d --regid=%[1]d --clear-groups '%[2]s' \"$@\"", nobody, program))
	}
	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Env = append(s.Env, "PATH="+os.Getenv("PATH"))
	f := harness.Start(t, s)
	pid := f.Cmd.Process.Pid

	if uid := owner(t, pid); uid != 0 {
		t.Errorf("/proc/PID belongs to user %d, as if the program could be dumped", uid)
	}
	if environment(pid) == nil {
		t.Error("its environment, which holds TFE_TOKEN, can be read by another process of its user")
	}
	if soft, hard := coreLimits(t, pid); soft != "0" || hard != "0" {
		t.Errorf("the limit of core dumps is %s, and at most %s", soft, hard)
	}
	if _, hard := coreLimits(t, os.Getpid()); hard == "0" {
		t.Log("core dumps are off here for every program: that this one has none shows nothing")
	}
	line := string(harness.Must(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))))
	if line == "" {
		t.Error("the command line cannot be seen, so nothing is known of it")
	}
	harness.NoSecretIn(t, s, line)
	if strings.Contains(f.Stderr.String(), "memory is not kept") {
		t.Error("it says that it is not contained")
	}
}

// coreLimits are how large a core dump of a process may be, in bytes.
func coreLimits(t *testing.T, pid int) (soft, hard string) {
	t.Helper()
	limits := string(harness.Must(os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")))
	_, rest, _ := strings.Cut(limits, "Max core file size")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		t.Fatalf("no limit of core dumps:\n%s", limits)
	}
	return fields[0], fields[1]
}

// A secret on the command line, where every user of the machine could read it,
// is refused, and not shown again.
func TestNoSecretOnTheCommandLine(t *testing.T) {
	secret := simulator.New(simulator.Options{}).UserToken().Reveal()
	for _, args := range [][]string{{"--tfe-token=" + secret}, {"--tfe-token", secret}} {
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, harness.Binary, args...)
		cmd.Env = []string{"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true"}
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("exit: %v, want 2", err)
		}
		if form := harness.Leaked(said.String(), secret); form != "" {
			t.Errorf("it shows the secret, %s", form)
		}
	}
}

// The operator is told of files with secrets that others may read, and of no
// others: not of another's, which is read by the rights of its group, as Kubernetes
// mounts it.
func TestSecretFilesThatOthersCanRead(t *testing.T) {
	const warning = "can be read by others:"
	for _, c := range []struct {
		mode  os.FileMode
		owner int
		want  bool
	}{
		{0o600, os.Getuid(), false},
		{0o400, os.Getuid(), false},
		{0o640, os.Getuid(), true},
		{0o604, os.Getuid(), true},
		{0o644, os.Getuid(), true},
		{0o440, nobody, false},
		{0o460, nobody, true},
		{0o444, nobody, true},
	} {
		t.Run(fmt.Sprint(c.mode, c.owner), func(t *testing.T) {
			if c.owner != os.Getuid() && os.Getuid() != 0 {
				t.Skip("needs root, to give files away")
			}
			sim, url := harness.NewSimulator(t)
			a := harness.NewAuthority(t)
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte(sim.UserToken().Reveal()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{token, a.KeyFile} {
				if err := errors.Join(os.Chmod(file, c.mode), os.Chown(file, c.owner, -1)); err != nil {
					t.Fatal(err)
				}
			}
			for _, public := range []string{a.CertFile, a.CAFile} {
				if err := os.Chmod(public, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			f := harness.Start(t, harness.Settings{Sim: sim, Upstream: url, TLS: a, Env: []string{
				"TFE_TOKEN_FILE=" + token, "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true",
				"TEAMTOKEN_TLS_CLIENT_CA_FILE=" + a.CAFile, "TEAMTOKEN_TLS_CLIENT_AUTH=optional",
			}})
			var warned []string
			for line := range strings.Lines(f.Stderr.String()) {
				if strings.Contains(line, warning) {
					warned = append(warned, line)
				}
			}
			if !c.want {
				if len(warned) != 0 {
					t.Errorf("warned of nothing: %s", warned)
				}
				return
			}
			if len(warned) != 2 || !strings.Contains(warned[0]+warned[1], "TFE_TOKEN_FILE") ||
				!strings.Contains(warned[0]+warned[1], "TEAMTOKEN_TLS_KEY_FILE") {
				t.Errorf("the warnings are: %s", warned)
			}
		})
	}
}

// What tells more of the program than callers need can be had, and be done without.
func TestPprofAndReflection(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	for _, c := range []struct {
		name              string
		env               []string
		pprof, reflection bool
	}{
		{"by default", nil, false, true},
		{"the other way round", []string{"TEAMTOKEN_PPROF=true", "TEAMTOKEN_REFLECTION=false"}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := harness.WithService(sim, url)
			s.Env = append(s.Env, c.env...)
			f := harness.Start(t, s)
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol"} {
				if code, _ := f.Get(t, path); (code == http.StatusOK) != c.pprof || code != http.StatusOK && code != http.StatusNotFound {
					t.Errorf("%s: %d", path, code)
				}
				resp := harness.Must(f.HTTP.Get(f.REST + path))
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound {
					t.Errorf("%s where callers come: %s", path, resp.Status)
				}
			}
			stream, err := grpc_reflection_v1.NewServerReflectionClient(f.Conn).ServerReflectionInfo(t.Context())
			if err == nil {
				_ = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{ // Recv tells why it failed
					MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
				})
				_, err = stream.Recv()
			}
			want := codes.OK
			if !c.reflection {
				want = codes.Unimplemented
			}
			if status.Code(err) != want {
				t.Errorf("reflection: %v, want %v", err, want)
			}
		})
	}
}

// No cache on the way keeps an answer, whatever it is.
func TestNoAnswerIsStored(t *testing.T) {
	t.Parallel()
	sim, url := harness.NewSimulator(t)
	service, callers := harness.Start(t, harness.WithService(sim, url)), harness.Start(t, harness.WithCallers(sim, url))
	const path = "/api/v2/teams/" + simulator.SeedTeam + "/authentication-token"
	for _, c := range []struct {
		f            *harness.Server
		method, path string
		kind, body   string
		status       int
	}{
		{service, "POST", path, "", "", http.StatusCreated},
		{service, "POST", path + "s", harness.JSONAPI, `{"data":{"attributes":{"description":"stored"}}}`, http.StatusCreated},
		{service, "GET", path, "", "", http.StatusOK},
		{service, "HEAD", path, "", "", http.StatusOK},
		{service, "GET", "/api/v2/organizations/" + simulator.Organization + "/team-tokens", "", "", http.StatusOK},
		{service, "GET", "/api/v2/ping", "", "", http.StatusNoContent},
		{service, "GET", "/.well-known/terraform.json", "", "", http.StatusOK},
		{service, "DELETE", path, "", "", http.StatusNoContent},
		{service, "DELETE", path, "", "", http.StatusNotFound},
		{service, "GET", "/", "", "", http.StatusNotFound},
		{service, "PUT", path, "", "", http.StatusMethodNotAllowed},
		{service, "GET", "/api/v2/teams/x/authentication-token", "", "", http.StatusBadRequest},
		{service, "GET", "/api/v2/%61", "", "", http.StatusBadRequest},
		{service, "POST", path, "text/plain", "x", http.StatusUnsupportedMediaType},
		{service, "POST", path, harness.JSONAPI, strings.Repeat(" ", 64<<10+1), http.StatusRequestEntityTooLarge},
		{callers, "GET", path, "", "", http.StatusUnauthorized},
	} {
		req := harness.Must(http.NewRequestWithContext(t.Context(), c.method, c.f.REST+c.path, strings.NewReader(c.body)))
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		resp := harness.Must(c.f.HTTP.Do(req))
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.status)
		}
		if got := resp.Header.Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" {
			t.Errorf("%s %s, %s: Cache-Control %q", c.method, c.path, resp.Status, got)
		}
	}
}
