package limits_test

import (
	"crypto/tls"
	"encoding/xml"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// TestH2Spec has h2spec look at both listeners, and at a bare grpc-go and a bare
// net/http beside them: what those do right, ours must. Neither does all right,
// and some cases go by time, with the bare ones too: so one counts as worse when
// ours had it wrong, and the bare one right, in each of five runs. On a busy
// machine that still happens by chance, so that it is no part of an ordinary run.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	if !harness.Long {
		t.Skip("goes by time: make test-long runs it")
	}
	spec := filepath.Join(filepath.Dir(harness.Binary), "h2spec")
	if out, err := exec.Command("go", "build", "-modfile=../../../tools/h2spec/go.mod", "-o", spec,
		"github.com/summerwind/h2spec/cmd/h2spec").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sim, url := harness.NewSimulator(t)
	a := harness.NewAuthority(t)
	plain, encrypted := harness.Start(t, harness.WithService(sim, url)), harness.WithService(sim, url)
	encrypted.TLS = a
	overTLS := harness.Start(t, encrypted)

	bareGRPC := grpc.NewServer(grpc.MaxConcurrentStreams(250)) // without a limit, its cases are skipped
	grpc_health_v1.RegisterHealthServer(bareGRPC, health.NewServer())
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = bareGRPC.Serve(listener) }()
	t.Cleanup(bareGRPC.Stop)
	bareHTTP := httptest.NewUnstartedServer(http.NotFoundHandler())
	bareHTTP.EnableHTTP2, bareHTTP.TLS = true, &tls.Config{Certificates: []tls.Certificate{a.Pair}}
	bareHTTP.Config.ErrorLog = log.New(io.Discard, "", 0)
	bareHTTP.StartTLS()
	t.Cleanup(bareHTTP.Close)

	for _, pair := range []struct{ name, bare, ours, flags string }{
		{"gRPC", listener.Addr().String(), plain.GRPC, ""},
		{"REST", bareHTTP.Listener.Addr().String(), strings.TrimPrefix(overTLS.REST, "https://"), "-t -k"},
	} {
		t.Run(pair.name, func(t *testing.T) {
			t.Parallel()
			var worse map[string]string
			var sections []string // all, in the first run
			for run := range 5 {
				var bare, ours map[string]string
				var both sync.WaitGroup
				both.Go(func() { bare = h2spec(t, spec, pair.bare, pair.flags, sections) })
				both.Go(func() { ours = h2spec(t, spec, pair.ours, pair.flags, sections) })
				both.Wait()
				if run == 0 {
					if len(bare) < 100 || len(ours) != len(bare) {
						t.Fatalf("%d cases of the bare server, %d of ours", len(bare), len(ours))
					}
					t.Logf("right are %d of %d, and of the bare server's %d", right(ours), len(ours), right(bare))
					worse = ours
				}
				maps.DeleteFunc(worse, func(name, _ string) bool { return ours[name] == "" || bare[name] != "" })
				if len(worse) == 0 {
					return
				}
				sections = nil
				for name := range worse {
					section, _, _ := strings.Cut(name, ": ")
					sections = append(sections, section)
				}
				slices.Sort(sections)
				sections = slices.Compact(sections)
			}
			for name, failure := range worse {
				t.Errorf("%s: %s", name, failure)
			}
		})
	}
}

func right(cases map[string]string) (n int) {
	for _, failure := range cases {
		if failure == "" {
			n++
		}
	}
	return n
}

// h2spec returns what is wrong in each case of some sections, nothing if it is right.
func h2spec(t *testing.T, spec, address, flags string, sections []string) map[string]string {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.xml")
	host, port, _ := net.SplitHostPort(address)
	args := append([]string{"-h", host, "-p", port, "-o", "1", "-j", report}, strings.Fields(flags)...)
	args = append(args, sections...)
	out, _ := exec.CommandContext(t.Context(), spec, args...).CombinedOutput() // it exits with 1 if any case is wrong
	var suites struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string  `xml:"classname,attr"`
				Error   *string `xml:"error"`
				Failure *string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	content, err := os.ReadFile(report)
	if err != nil || xml.Unmarshal(content, &suites) != nil {
		t.Errorf("%v\n%s", err, out)
		return nil
	}
	found := map[string]string{}
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			failure := ""
			for _, f := range []*string{c.Error, c.Failure} {
				if f != nil {
					failure = "wrong: " + *f
				}
			}
			found[suite.Package+": "+c.Name] = failure
		}
	}
	return found
}
