package surface_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// reader types what the documentation shows, with curl, with a grpcurl of ours
// and with the program as bin/teamtoken-server, and reads what comes back.
type reader struct {
	dir   string
	env   []string
	ports *strings.Replacer // those of the documentation, into those of the program
}

// grpcurl is built beside the program, once.
var grpcurl = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-modfile=../../../tools/grpcurl/go.mod", "-o", filepath.Join(filepath.Dir(harness.Binary), "grpcurl"),
		"github.com/fullstorydev/grpcurl/cmd/grpcurl")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
})

// newReader returns a reader of f. Its curl shows the head of each answer, and
// no progress.
func newReader(t *testing.T, f *harness.Server) *reader {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the documentation's commands need curl, which .ci/run installs")
	}
	if err := grpcurl(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"teamtoken-server": harness.Binary, "teamtoken": harness.CommandLine()} {
		if err := os.Symlink(program, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("silent\ninclude\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := func(address string) string { return address[strings.LastIndex(address, ":"):] }
	return &reader{
		dir: dir,
		env: append(os.Environ(), "PATH="+filepath.Dir(harness.Binary)+":"+os.Getenv("PATH"), "CURL_HOME="+dir, "TOKEN=whatever", "TEAMTOKEN_ADDRESS=localhost"+port(f.GRPC),
			"TEAMTOKEN_GRPC_ADDRESS=127.0.0.1:0", "TEAMTOKEN_HTTP_ADDRESS=127.0.0.1:0", "TEAMTOKEN_ADMIN_ADDRESS=127.0.0.1:0"),
		ports: strings.NewReplacer("localhost:9090", "localhost"+port(f.GRPC), "localhost:8080", "localhost"+port(f.REST)),
	}
}

// types runs a command as it stands, but for the ports, and returns what it
// prints. The variables of env are set for it besides.
func (r *reader) types(t *testing.T, command string, env ...string) string {
	t.Helper()
	sh := exec.CommandContext(t.Context(), "sh", "-c", r.ports.Replace(command))
	sh.Dir, sh.Env = r.dir, append(r.env, env...)
	out, _ := sh.CombinedOutput() // a command may be meant to fail: what it prints tells
	return string(out)
}

// Every command of the page is typed in its order, and answers what the page
// shows below it: the same members, and where there is no `…` and no sample of a
// time, the same values.
func TestAPIPage(t *testing.T) {
	t.Parallel()
	f := harness.Start(t, harness.Settings{Args: []string{"--simulator"}})
	r := newReader(t, f)
	page := apiPage(t)
	shown := regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```(json|http)\n(.*?)```").FindAllStringSubmatch(page, -1)
	if commands := strings.Count(page, "```sh\n"); commands == 0 || len(shown) != commands {
		t.Fatalf("%d commands, and answers to %d", commands, len(shown))
	}
	called := map[string]int{} // how often each RPC is shown over gRPC
	var secrets []string
	for _, s := range shown {
		command, language, answer := s[1], s[2], r.ports.Replace(s[3])
		var env []string
		if strings.Contains(command, "$TOKEN_ID") {
			env = []string{"TOKEN_ID=" + lastToExpire(t, f)}
		}
		printed := r.types(t, command, env...)
		if language == "http" {
			want, got := httpAnswer(t, answer), httpAnswer(t, printed)
			if want.Status != got.Status {
				t.Errorf("%s\nanswers %s, not %s", command, got.Status, want.Status)
			}
			for name := range want.Header {
				if !alike(want.Header.Get(name), got.Header.Get(name)) {
					t.Errorf("%s\nanswers with %s %q, not %q", command, name, got.Header.Get(name), want.Header.Get(name))
				}
			}
			answer, printed = string(harness.Must(io.ReadAll(want.Body))), string(harness.Must(io.ReadAll(got.Body)))
		}
		if diff := cmp.Diff(jsonOf(t, command, answer), jsonOf(t, command, printed), cmp.Comparer(alike)); diff != "" {
			t.Errorf("%s\nanswers other than the page shows (-page +answer):\n%s", command, diff)
		}
		if rpc := regexp.MustCompile(`TeamTokenService/(\w+)`).FindStringSubmatch(command); rpc != nil {
			called[rpc[1]]++
		}
		secrets = append(secrets, regexp.MustCompile(`[^"]+\.atlasv1\.[^"]+`).FindString(printed))
	}
	// The last two are one call, made twice under one request id.
	if n := len(secrets); secrets[n-1] == "" || secrets[n-1] != secrets[n-2] {
		t.Error("the same request id gave another token over the other surface")
	}
	methods := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().ByName("TeamTokenService").Methods()
	for i := range methods.Len() {
		if name := string(methods.Get(i).Name()); called[name] == 0 || !strings.Contains(page, "\n## "+name+"\n") {
			t.Errorf("%s is not shown", name)
		}
	}
}

// The page's table of errors is internal/apierror's, and the contract's, and its
// outcomes are those of the cases in parity.yaml.
func TestAPIPageErrors(t *testing.T) {
	t.Parallel()
	page := apiPage(t)
	type row struct{ code, http, outcome string }
	told := map[string]row{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([A-Z_]+) \\| ([0-9]+) \\| `?(\\w+)`?[^|]* \\| [A-Z].*\\. \\|$").
		FindAllStringSubmatch(page, -1) {
		if _, twice := told[m[1]]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		told[m[1]] = row{m[2], m[3], m[4]}
	}
	contract := map[string]string{} // the code that each reason's comment begins with
	proto := string(harness.Must(os.ReadFile("../../../proto/teamtoken/v1/error_reason.proto")))
	comments := regexp.MustCompile(`\n\n  // ([A-Z_]+)\. (?:.*\n  //)*.*\n  ERROR_REASON_(\w+) =`)
	for _, m := range comments.FindAllStringSubmatch(proto, -1) {
		contract[m[2]] = m[1]
	}
	outcomes := map[string]map[string]bool{} // of calls that change something
	for _, c := range parityCases(t) {
		if c.Want.Reason == "" {
			continue
		}
		if outcomes[c.Want.Reason] == nil {
			outcomes[c.Want.Reason] = map[string]bool{}
		}
		if c.Want.Outcome != "" {
			outcomes[c.Want.Reason][c.Want.Outcome] = true
		}
	}
	for number := range teamtokenv1.ErrorReason_name {
		r := teamtokenv1.ErrorReason(number)
		name := apierror.Name(r)
		if number == 0 {
			continue
		}
		is := told[name]
		delete(told, name)
		var code codes.Code
		if code.UnmarshalJSON([]byte(strconv.Quote(is.code))) != nil || code != (&apierror.Error{Reason: r}).GRPCStatus().Code() {
			t.Errorf("%s: code %q is not internal/apierror's", name, is.code)
		}
		if is.code != contract[name] {
			t.Errorf("%s: code %q, and %q in error_reason.proto", name, is.code, contract[name])
		}
		if status, _ := apierror.HTTPStatus(name); is.http != strconv.Itoa(status) {
			t.Errorf("%s: HTTP status %q, want %d", name, is.http, status)
		}
		want := map[string]bool{is.outcome: true}
		delete(want, "none")
		if seen, ok := outcomes[name]; ok && !maps.Equal(want, seen) {
			t.Errorf("%s: outcome %q, and %v in parity.yaml", name, is.outcome, seen)
		}
	}
	for name := range told {
		t.Errorf("%s is no reason", name)
	}
	for number, name := range teamtokenv1.Outcome_name {
		name = strings.ToLower(strings.TrimPrefix(name, "OUTCOME_"))
		if number != 0 && !strings.Contains(page, "\n| `"+name+"` | ") {
			t.Errorf("outcome %s is not explained", name)
		}
	}
}

// The Go code of the page is what the tests of lists use, word for word.
func TestAPIPageExample(t *testing.T) {
	t.Parallel()
	source := string(harness.Must(os.ReadFile("list_helpers_test.go")))
	_, example, found := strings.Cut(source, "\n// allTokens")
	if want := "```go\n// allTokens" + example + "```\n"; !found || !strings.Contains(apiPage(t), want) {
		t.Error("docs/api.md does not show allTokens as it stands in list_helpers_test.go")
	}
}

func apiPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// lastToExpire is the id of a token that exists.
func lastToExpire(t *testing.T, f *harness.Server) string {
	t.Helper()
	resp, err := f.Client.ListTokens(t.Context(), &teamtokenv1.ListTokensRequest{
		Organization: simulator.Organization, Sort: "-expired-at", PageSize: 1,
	})
	if err != nil || len(resp.GetTeamTokens()) != 1 {
		t.Fatalf("no token: %v", err)
	}
	return resp.GetTeamTokens()[0].GetId()
}

// httpAnswer reads an answer as curl shows it.
func httpAnswer(t *testing.T, s string) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s+"\n\n")), nil)
	if err != nil {
		t.Fatalf("not an HTTP answer: %v\n%s", err, s)
	}
	return resp
}

// jsonOf is the JSON that a command prints, or nil where it prints nothing.
func jsonOf(t *testing.T, command, s string) (v any) {
	t.Helper()
	if strings.TrimSpace(s) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Errorf("%s\nis not JSON: %v\n%s", command, err, s)
	}
	return v
}

// alike compares a string of the page with one of an answer, in either order:
// an `…` stands for anything but nothing, and a sample of a time for any time.
func alike(a, b string) bool { return matches(a, b) || matches(b, a) }

func matches(pattern, s string) bool {
	if strings.HasSuffix(pattern, "T21:30:00.123Z") {
		_, err := time.Parse(time.RFC3339, s)
		return err == nil && strings.HasSuffix(s, "Z")
	}
	parts := strings.Split(pattern, "…")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".+") + "$").MatchString(s)
}
