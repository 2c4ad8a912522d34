package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a server that runs until its context ends.
type process struct {
	pid   int
	ended chan struct{} // closed when it has
	// Where it serves. The bare one has two gateways: the one behind REST calls the
	// handler directly, the one behind Dialled over a loopback connection.
	GRPC, REST, Dialled, Admin string
}

const startTimeout = 20 * time.Second

// start runs a program whose standard error is JSON lines, one of which has the
// message `serving` and tells where. What follows is read to its end and thrown
// away, as a collector of logs would read it.
func start(ctx context.Context, program string, args, env []string) (*process, error) {
	cmd := exec.CommandContext(ctx, program, args...)               //nolint:gosec // whoever starts the bench says what to measure
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...) // no GOGC, no proxies: as shipped
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	slow := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() })
	defer slow.Stop()
	lines := bufio.NewReader(stderr)
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, fmt.Errorf("%s does not serve:\n%s", program, said.String())
		}
		said.WriteString(line)
		serving := struct {
			Msg string
			process
		}{}
		if json.Unmarshal([]byte(line), &serving) == nil && serving.Msg == "serving" {
			p := serving.process
			p.pid, p.ended = cmd.Process.Pid, make(chan struct{})
			go func() {
				defer close(p.ended)
				_, _ = io.Copy(io.Discard, lines)
				_ = cmd.Wait()
			}()
			return &p, nil
		}
	}
}

// cpu is the CPU time that the process has used so far, in user and in system
// mode. The clock of its threads has nanoseconds, that of /proc/PID/stat 10 ms.
// The Go runtime keeps its threads, so that none is lost from the sum.
func (p *process) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("process %d: no /proc/PID/task/*/schedstat", p.pid)
	}
	var sum time.Duration
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		ran, _, _ := strings.Cut(string(b), " ")
		nanoseconds, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(nanoseconds)
	}
	return sum, nil
}

const metricMallocs = "go_memory_allocations_total"

// mallocs is how many objects the process has allocated so far, as its metrics
// say.
func (p *process) mallocs(ctx context.Context) (float64, error) {
	body, err := p.admin(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, metricMallocs+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", p.Admin, metricMallocs)
}

// admin is what a GET from the admin listener answers.
func (p *process) admin(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(resp.Body)
}
