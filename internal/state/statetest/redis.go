// Package statetest runs a real Redis for tests.
package statetest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Redis is a redis-server on loopback that writes every change to disk before it
// answers. It can be killed, hung and started again, on the same port.
type Redis struct {
	host    string
	Port    int
	TLSPort int // with the line "tls-port auto"
	t       testing.TB
	args    []string
	cmd     *exec.Cmd
}

// Start runs a Redis until the test ends, with these lines in its configuration.
func Start(t testing.TB, lines ...string) *Redis {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("TEAMTOKEN_TEST_REQUIRE"), ","), "redis-server") {
			t.Fatal("redis-server is required here, and not found: apt-get install redis-server")
		}
		t.Skip("needs redis-server: apt-get install redis-server")
	}
	r := &Redis{t: t, host: "127.0.0.1", Port: FreePort(t)}
	for _, line := range lines { // which come last, and so win
		_, _ = fmt.Sscanf(line, "bind %s", &r.host)
		_, _ = fmt.Sscanf(line, "port %d", &r.Port)
	}
	dir := t.TempDir()
	lines = append([]string{
		"port " + strconv.Itoa(r.Port), "bind 127.0.0.1", "dir " + dir, `save ""`, "daemonize no",
		"appendonly yes", "appendfsync always", "auto-aof-rewrite-min-size 1mb", "logfile " + filepath.Join(dir, "log"),
	}, lines...)
	if i := slices.Index(lines, "tls-port auto"); i >= 0 {
		r.TLSPort = FreePort(t)
		lines[i] = "tls-port " + strconv.Itoa(r.TLSPort)
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.args = []string{path, conf}
	if strings.Contains(strings.Join(lines, "\n"), "\nsentinel ") {
		r.args = append(r.args, "--sentinel")
	}
	r.Run()
	t.Cleanup(r.Kill)
	return r
}

// URL is where it is.
func (r *Redis) URL() string { return "redis://" + r.Address() }

// TLSAddress is where it is for TLS.
func (r *Redis) TLSAddress() string { return fmt.Sprintf("%s:%d", r.host, r.TLSPort) }

// Address is where it is, without the scheme.
func (r *Redis) Address() string { return fmt.Sprintf("%s:%d", r.host, r.Port) }

// Run starts it, after a Kill, with what was on its disk, and waits until it answers.
func (r *Redis) Run() {
	r.t.Helper()
	r.cmd = exec.Command(r.args[0], r.args[1:]...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if r.answers() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatal("redis-server does not answer")
}

func (r *Redis) answers() bool {
	conn, err := net.DialTimeout("tcp", r.Address(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	b := make([]byte, 64)
	n, err := conn.Read(b)
	return err == nil && (strings.HasPrefix(string(b[:n]), "+PONG") || strings.HasPrefix(string(b[:n]), "-NOAUTH"))
}

// Kill ends it at once.
func (r *Redis) Kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// Hang stops it without closing anything, until Resume.
func (r *Redis) Hang() { _ = r.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (r *Redis) Resume() { _ = r.cmd.Process.Signal(syscall.SIGCONT) }

// given are the ports that FreePort has given in this process.
var given sync.Map

// FreePort is a port that nobody has just now, below those that connections are
// given by themselves. It gives no port twice.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 12000 + int(time.Now().UnixNano()/1000+int64(os.Getpid())*7919)%19000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			if _, again := given.LoadOrStore(port, true); !again {
				return port
			}
		}
	}
	t.Fatal("no free port")
	return 0
}
