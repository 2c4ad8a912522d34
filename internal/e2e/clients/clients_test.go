package clients_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// stage is what a client in another language is given to play with: the program with
// mutual TLS and in the clear, an upstream, and what can go wrong, on demand.
type stage struct {
	env   []string
	clear string // where the service is in the clear
}

// setStage starts all that, and describes it in variables, which every client's
// scenario reads.
func setStage(t *testing.T) stage {
	t.Helper()
	sim, upstream := harness.Listen(t, simulator.Options{Rate: -1, Teams: 45})
	ca := harness.NewAuthority(t)
	s := harness.WithPolicy(t, sim, upstream, harness.PolicyFor("friend"), "TEAMTOKEN_TLS_CLIENT_CA_FILE="+ca.CAFile)
	s.TLS, s.Trusts = ca, ca.ClientCert(t, "friend")
	secured := harness.Start(t, s)
	clear := harness.Start(t, harness.WithService(sim, upstream))
	lossy := newLossy(t, clear.GRPC)
	friend, friendKey := ca.Issue(t, harness.DNSName("friend"))
	stranger, strangerKey := ca.Issue(t, harness.DNSName("stranger"))

	control := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/lose": // the next answer that comes through the lossy address
			lossy.loseNext()
		case "/slow": // the next change, at the upstream
			sim.Inject(simulator.Fault{Method: http.MethodPost, Delay: 3 * time.Second, Apply: simulator.ApplyLate})
		case "/unknown":
			sim.Inject(simulator.Fault{Method: http.MethodPost, Apply: simulator.ApplyNever, Drop: simulator.DropFIN})
		}
	}))
	t.Cleanup(control.Close)
	local := func(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }
	return stage{clear: clear.GRPC, env: []string{
		"SECURED=" + local(secured.GRPC), "CLEAR=" + clear.GRPC, "LOSSY=" + lossy.address, "REASONS=" + serveReasons(t),
		"CA=" + ca.CAFile, "CERT=" + friend, "KEY=" + friendKey, "STRANGER_CERT=" + stranger, "STRANGER_KEY=" + strangerKey,
		"UPSTREAM=" + upstream, "CONTROL=" + control.URL, "GOLDEN=" + goldenMessages(t),
		"TEAM=" + simulator.SeedTeam, "TEAMS=" + strings.Join(teams(45), ","), "ORGANIZATION=" + simulator.Organization,
		"REASON_NAMES=" + strings.Join(reasonNames(), ","),
	}}
}

func teams(n int) (ids []string) {
	for i := range n {
		ids = append(ids, simulator.AnotherTeam(i))
	}
	return ids
}

// lossy passes connections on, and cuts one when an answer comes that is to be lost.
type lossy struct {
	address string
	mu      sync.Mutex
	lose    bool
}

func newLossy(t *testing.T, to string) *lossy {
	t.Helper()
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	l := &lossy{address: listener.Addr().String()}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
			go l.answers(client, server)
		}
	}()
	return l
}

func (l *lossy) loseNext() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = true
}

// answers passes on what the server says, until an answer is to be lost: from then on
// nothing, and the connection is cut when there was so much that an answer was in it.
// Nobody may see a part of it: a call whose headers came is never sent again.
func (l *lossy) answers(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	buffer, lost := make([]byte, 64<<10), 0
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.lose {
			lost += n
		}
		l.lose = l.lose && lost <= 100
		l.mu.Unlock()
		switch {
		case lost > 100:
			return
		case lost > 0:
			continue
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func reasonNames() (names []string) {
	for n := range teamtokenv1.ErrorReason_name {
		if n != 0 {
			names = append(names, apierror.Name(teamtokenv1.ErrorReason(n)))
		}
	}
	return names
}

// failing answers each call with the reason that its request_id names, and the outcome
// that its team's does: no real server gives every one of them.
type failing struct {
	teamtokenv1.UnimplementedTeamTokenServiceServer
}

func (failing) GenerateToken(_ context.Context, r *teamtokenv1.GenerateTokenRequest) (*teamtokenv1.GenerateTokenResponse, error) {
	return nil, (&apierror.Error{
		Reason:     teamtokenv1.ErrorReason(teamtokenv1.ErrorReason_value["ERROR_REASON_"+r.GetRequestId()]),
		Outcome:    apierror.Outcome(r.GetTeamId()),
		RetryAfter: 1500 * time.Millisecond,
		Violations: []apierror.Violation{{Field: "team_id", Description: "is not a team's"}},
	}).GRPCStatus().Err()
}

func serveReasons(t *testing.T) string {
	t.Helper()
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	server := grpc.NewServer()
	teamtokenv1.RegisterTeamTokenServiceServer(server, failing{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// goldenMessages is a file of messages as Go writes them, in binary and in JSON, with
// all that can be awkward: what is unset and what is empty, times before 1970 and with
// nanoseconds, text that is not ASCII, an enum's value that nobody knows.
func goldenMessages(t *testing.T) string {
	t.Helper()
	empty, text := "", "für <CI> ☃ \u2028"
	type golden struct {
		Type, Binary string
		JSON         json.RawMessage
	}
	var all []golden
	for _, m := range []proto.Message{
		&teamtokenv1.TeamToken{}, &teamtokenv1.TeamToken{Id: "at-1", Description: &empty},
		&teamtokenv1.TeamToken{
			Id: "at-2", TeamId: simulator.SeedTeam, Description: &text, CreatedAt: timestamppb.New(time.Unix(1700000000, 123456789)),
			ExpiredAt: timestamppb.New(time.Unix(-1, 0)), CreatedBy: &teamtokenv1.Creator{Id: "user-1", Kind: teamtokenv1.Creator_KIND_USER},
		},
		&teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam, RequestId: "r", ExpectedTokenId: "at-1", ExpiredAt: timestamppb.New(time.Unix(1<<33, 0))},
		&teamtokenv1.CreateNamedTokenRequest{TeamId: simulator.SeedTeam, Description: &empty},
		&teamtokenv1.ListTokensResponse{TeamTokens: []*teamtokenv1.TeamToken{{Id: "at-1"}, {Id: "at-2"}}, NextPageToken: "p", TotalSize: 45},
	} {
		all = append(all, golden{
			string(m.ProtoReflect().Descriptor().Name()), base64.StdEncoding.EncodeToString(harness.Must(proto.MarshalOptions{Deterministic: true}.Marshal(m))),
			harness.Must(protojson.Marshal(m)),
		})
	}
	file := filepath.Join(t.TempDir(), "golden.json")
	if err := os.WriteFile(file, harness.Must(json.Marshal(all)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// quickStart is the program of a client's README, which asks the real service in place
// of the one that the README names.
func quickStart(t *testing.T, readme, language, named, instead string) string {
	t.Helper()
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(string(harness.Must(os.ReadFile(readme))))
	if block == nil || !strings.Contains(block[1], named) {
		t.Fatalf("%s has no program with %s", readme, named)
	}
	return strings.ReplaceAll(block[1], named, instead)
}

// shown is what the programs of the READMEs print: a token's id, and no secret.
var shown = regexp.MustCompile(`^at-[A-Za-z0-9]{16} \[secret\]\n$`)

// The Python client, built into a wheel and installed where nothing else is, does what
// a caller needs, blocking and with asyncio; its types are right; and what is generated
// of it is what would be generated now.
func TestPythonClient(t *testing.T) {
	t.Parallel()
	python := harness.Tool(t, "python3", "TEAMTOKEN_PYTHON", "apt-get install python3 python3-venv")
	source := harness.Must(filepath.Abs("../../../clients/python"))
	workshop, empty := filepath.Join(t.TempDir(), "workshop"), filepath.Join(t.TempDir(), "empty")
	harness.Shell(t, "", nil, python, "-m", "venv", workshop)
	harness.Shell(t, "", nil, filepath.Join(workshop, "bin", "pip"), "install", "-q", "--disable-pip-version-check", "-r", filepath.Join(source, "workshop.txt"))
	dist := t.TempDir()
	harness.Shell(t, source, nil, filepath.Join(workshop, "bin", "python"), "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, ".")
	wheels := harness.Must(filepath.Glob(filepath.Join(dist, "*.whl")))
	if len(wheels) != 1 {
		t.Fatalf("%d wheels were built", len(wheels))
	}
	harness.Shell(t, "", nil, python, "-m", "venv", empty)
	harness.Shell(t, "", nil, filepath.Join(empty, "bin", "pip"), "install", "-q", "--disable-pip-version-check", wheels[0])
	stage := setStage(t)
	for _, script := range []string{"scenario.py", "scenario_aio.py"} {
		t.Run(script, func(t *testing.T) {
			t.Log(harness.Shell(t, t.TempDir(), stage.env, filepath.Join(empty, "bin", "python"), filepath.Join(source, "tests", script)))
		})
	}
	t.Run("README", func(t *testing.T) {
		program := quickStart(t, filepath.Join(source, "README.md"), "python", `Client("teamtoken.internal:9090")`, `Client("`+stage.clear+`", insecure=True)`)
		if out := harness.Shell(t, t.TempDir(), nil, filepath.Join(empty, "bin", "python"), "-c", program); !shown.MatchString(out) {
			t.Errorf("it printed %q", out)
		}
	})
	t.Run("types", func(t *testing.T) {
		harness.Shell(t, source, nil, filepath.Join(workshop, "bin", "mypy"), "--strict", "src/teamtoken", "tests")
	})
	t.Run("generated", func(t *testing.T) {
		copied := harness.Checkout(t)
		path := "PATH=" + filepath.Join(workshop, "bin") + ":" + os.Getenv("PATH")
		harness.Shell(t, copied, []string{path}, "go", "tool", "-modfile=tools/buf/go.mod", "buf", "generate", "--template", "clients/python/buf.gen.yaml")
		if files := harness.Changed(t, copied); files != "" {
			t.Errorf("generating anew changes:\n%s", files)
		}
	})
}

// The TypeScript client, packed and installed where nothing else is, does what a caller
// needs; and what is generated of it is what would be generated now.
func TestTypeScriptClient(t *testing.T) {
	t.Parallel()
	npm := harness.Tool(t, "npm", "TEAMTOKEN_NPM", "apt-get install npm, with Node 20 or later")
	copied := harness.Checkout(t)
	source := filepath.Join(copied, "clients", "typescript")
	harness.Shell(t, source, nil, npm, "ci", "--no-audit", "--no-fund")
	harness.Shell(t, copied, nil, "go", "tool", "-modfile=tools/buf/go.mod", "buf", "generate", "--template", "clients/typescript/buf.gen.yaml")
	if files := harness.Changed(t, copied); files != "" {
		t.Errorf("generating anew changes:\n%s", files)
	}
	harness.Shell(t, source, nil, npm, "run", "build")
	harness.Shell(t, source, nil, npm, "pack")
	packed := harness.Must(filepath.Glob(filepath.Join(source, "*.tgz")))
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "package.json"), []byte(`{"private": true, "type": "module"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Shell(t, empty, nil, npm, "install", "--no-audit", "--no-fund", packed[0])
	scenario := harness.Must(os.ReadFile(filepath.Join(source, "test", "scenario.mjs")))
	if err := os.WriteFile(filepath.Join(empty, "scenario.mjs"), scenario, 0o600); err != nil {
		t.Fatal(err)
	}
	stage := setStage(t)
	t.Log(harness.Shell(t, empty, stage.env, "node", "scenario.mjs"))
	program := quickStart(t, filepath.Join(source, "README.md"), "ts", `Client("teamtoken.internal:9090")`, `Client("`+stage.clear+`", { insecure: true })`)
	if err := os.WriteFile(filepath.Join(empty, "readme.mjs"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := harness.Shell(t, empty, nil, "node", "readme.mjs"); !shown.MatchString(out) {
		t.Errorf("the README's program printed %q", out)
	}
}

// The Java client, as its jar and what that depends on, does what a caller needs. Its
// messages are generated by its build.
func TestJavaClient(t *testing.T) {
	t.Parallel()
	mvn := harness.Tool(t, "mvn", "TEAMTOKEN_MVN", "apt-get install maven default-jdk-headless, with Java 17 or later")
	copied := harness.Checkout(t)
	source := filepath.Join(copied, "clients", "java")
	libraries := t.TempDir()
	harness.Shell(t, source, nil, mvn, "-q", "-B", "package", "dependency:copy-dependencies", "-DoutputDirectory="+libraries)
	jars := harness.Must(filepath.Glob(filepath.Join(source, "target", "teamtoken-*.jar")))
	if len(jars) != 1 {
		t.Fatalf("%d jars were built", len(jars))
	}
	stage, classpath := setStage(t), jars[0]+":"+filepath.Join(libraries, "*")
	t.Log(harness.Shell(t, t.TempDir(), stage.env, "java", "-cp", classpath, filepath.Join(source, "test", "Scenario.java")))
	program := quickStart(t, filepath.Join(source, "README.md"), "java", `builder("teamtoken.internal:9090")`, `builder("`+stage.clear+`").insecure()`)
	file := filepath.Join(t.TempDir(), "Readme.java")
	text := "import com.github.teamtoken.*;\nclass Readme { public static void main(String[] args) {\n" + program + "} }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := harness.Shell(t, t.TempDir(), nil, "java", "-cp", classpath, file); !shown.MatchString(out) {
		t.Errorf("the README's program printed %q", out)
	}
}

// The recipes for languages without a package are typed as they stand, those for which
// there are the tools.
func TestRecipes(t *testing.T) {
	t.Parallel()
	sim, upstream := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, upstream))
	copied := harness.Checkout(t)
	text := string(harness.Must(os.ReadFile(filepath.Join(copied, "clients", "recipes", "README.md"))))
	sections := regexp.MustCompile("(?s)\n## (\\S+)\n(.*?)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	dirs := map[string]struct{ dir, tool string }{
		"Ruby": {"ruby", "grpc_tools_ruby_protoc"}, "C++": {"cpp", "grpc_cpp_plugin"}, "Rust": {"rust", "cargo"}, "C#": {"csharp", "dotnet"},
	}
	if len(sections) != len(dirs) {
		t.Fatalf("%d recipes", len(sections))
	}
	built := filepath.Join(harness.Must(os.UserCacheDir()), "teamtoken-recipes") // what cargo builds of others' takes minutes, once
	bin := t.TempDir()
	buf := fmt.Sprintf("#!/bin/sh\nexec go tool -modfile='%s' buf \"$@\"\n", filepath.Join(copied, "tools", "buf", "go.mod"))
	if err := os.WriteFile(filepath.Join(bin, "buf"), []byte(buf), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, section := range sections {
		t.Run(section[1], func(t *testing.T) {
			of, ok := dirs[section[1]]
			if !ok {
				t.Fatal("a language that nobody expects")
			}
			harness.Tool(t, of.tool, "TEAMTOKEN_"+strings.ToUpper(of.dir), "see clients/recipes")
			dir := filepath.Join(copied, "clients", "recipes", of.dir)
			if err := os.MkdirAll(filepath.Join(dir, "gen"), 0o700); err != nil {
				t.Fatal(err)
			}
			commands := strings.ReplaceAll(section[3], "localhost:9090", f.GRPC)
			out := harness.Shell(t, dir, []string{"TEAM=" + simulator.AnotherTeam(1), "CARGO_TARGET_DIR=" + built, "PATH=" + bin + ":" + os.Getenv("PATH")}, "sh", "-ec", commands)
			if !regexp.MustCompile(`(?m)^made at-\w+, and again the same: true$`).MatchString(out) ||
				!strings.Contains(out, "then: TEAM_NOT_FOUND_OR_FORBIDDEN not_applied") {
				t.Errorf("it printed:\n%s", out)
			}
		})
	}
}
