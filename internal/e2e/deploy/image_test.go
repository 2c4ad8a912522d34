package deploy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/e2e/harness"
	"github.com/teamtoken/teamtoken/internal/simulator"
)

// makeRelease has make build all that is given away for this machine's platform, in a
// checkout.
func makeRelease(t *testing.T, checkout string) (files map[string][]byte) {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command("make", "-s", "release", "PLATFORMS=linux/"+runtime.GOARCH, "DIST="+dist, "VERSION=v0.0.0-test", "REVISION=0123abc")
	cmd.Dir = checkout
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files = make(map[string][]byte)
	for _, name := range []string{".oci.tar", ".cdx.json", "-linux-" + runtime.GOARCH + ".tar.gz"} {
		files[name] = harness.Must(os.ReadFile(filepath.Join(dist, "teamtoken-v0.0.0-test"+name)))
	}
	return files
}

// unpacked reads an archive.
func unpacked(t *testing.T, archive io.Reader) (names []string, files map[string][]byte, headers map[string]*tar.Header) {
	t.Helper()
	files, headers = map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		files[h.Name], headers[h.Name] = harness.Must(io.ReadAll(r)), h
	}
}

// readOnly takes the right to write from whom a directory and all below it belong to,
// until the test ends: without the rights of root the program runs as the one who
// unpacked it.
func readOnly(t *testing.T, root string) {
	t.Helper()
	set := func(bit fs.FileMode) error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			return os.Chmod(path, 0o555|bit)
		})
	}
	if err := set(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set(0o200) })
}

// The image is the same wherever it is built, holds what it should and no more, and
// what it holds runs: alone, as nobody, on a root that can't be written.
func TestImage(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("an image is Linux")
	}
	release, again := makeRelease(t, "../../.."), makeRelease(t, harness.Checkout(t))
	for name, content := range release {
		if !bytes.Equal(content, again[name]) {
			t.Errorf("another build of the same sources is another teamtoken%s", name)
		}
	}
	archive := release[".oci.tar"]

	_, layout, _ := unpacked(t, bytes.NewReader(archive))
	type descriptor struct{ MediaType, Digest string }
	blob := func(d descriptor) []byte {
		content, ok := layout["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if !ok {
			t.Fatalf("%s is missing", d.Digest)
		}
		return content
	}
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config      descriptor
		Layers      []descriptor
		Annotations map[string]string
	}
	var config struct {
		Architecture, OS string
		Config           struct {
			User            string
			Env, Entrypoint []string
			Labels          map[string]string
		}
	}
	decode := func(content []byte, into any) {
		if err := json.Unmarshal(content, into); err != nil {
			t.Fatal(err)
		}
	}
	decode(layout["index.json"], &index)
	decode(blob(index.Manifests[0]), &index)
	decode(blob(index.Manifests[0]), &manifest)
	decode(blob(manifest.Config), &config)
	for name, want := range map[string]string{"title": "teamtoken", "version": "v0.0.0-test", "revision": "0123abc", "created": "2023-11-14T22:13:20Z"} {
		key := "org.opencontainers.image." + name
		if manifest.Annotations[key] != want || config.Config.Labels[key] != want {
			t.Errorf("%s is %q and %q, want %q", key, manifest.Annotations[key], config.Config.Labels[key], want)
		}
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH || config.Config.User != "65532:65532" {
		t.Errorf("%+v", config)
	}

	root := t.TempDir()
	names, files, headers := unpacked(t, harness.Must(gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))))
	if want := []string{
		"etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt", "teamtoken-server",
	}; !slices.Equal(names, want) {
		t.Errorf("it holds %q", names)
	}
	t.Logf("%d bytes packed; unpacked: %d of the program, %d of CAs", len(blob(manifest.Layers[0])),
		len(files["teamtoken-server"]), len(files["etc/ssl/certs/ca-certificates.crt"]))
	for _, name := range names {
		h := headers[name]
		if h.Uid != 0 || h.Gid != 0 || h.Mode&0o222 != h.Mode&0o200 || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: %+v", name, h)
		}
		path := filepath.Join(root, name)
		var err error
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, h.FileInfo().Mode())
		} else {
			err = os.WriteFile(path, files[name], h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(files["etc/ssl/certs/ca-certificates.crt"]) ||
		bytes.Count(files["etc/ssl/certs/ca-certificates.crt"], []byte("BEGIN CERTIFICATE")) < 100 {
		t.Error("there are hardly any CAs")
	}

	// It has its time zones, with nothing of this machine to help it.
	policy := `rules: [{name: night, callers: ["*"], methods: ["*"], teams: ["*"], condition: 'now.getHours("Europe/Berlin") == 1'}]`
	if err := os.WriteFile(filepath.Join(root, "policy.yaml"), []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	explain := exec.Command(config.Config.Entrypoint[0], "policy", "explain", "policy.yaml", "--caller", "x", "--method", "GenerateToken",
		"--team", simulator.SeedTeam, "--at", "2026-01-01T00:30:00Z")
	explain.Dir, explain.Env = "/", append([]string{}, config.Config.Env...) // not nil, which is this test's own
	explain.SysProcAttr = harness.Jailed(root)
	if out, err := explain.CombinedOutput(); err != nil {
		t.Errorf("at half past one in Berlin: %v\n%s", err, out)
	}
	if err := os.Remove(filepath.Join(root, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	readOnly(t, root)

	sim, url := harness.NewSimulator(t)
	s := harness.WithService(sim, url)
	s.Program, s.Root = config.Config.Entrypoint[0], root
	s.Env = append(s.Env, config.Config.Env...)
	f := harness.Start(t, s)
	probe, err := grpc_health_v1.NewHealthClient(f.Conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || probe.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("the probe: %v, %v", probe, err)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if code, _ := f.Get(t, path); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if _, err := f.Client.GenerateToken(t.Context(), &teamtokenv1.GenerateTokenRequest{TeamId: simulator.SeedTeam}); err != nil {
		t.Error(err)
	}
	if code := f.Stop(t, harness.Patience); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	var after []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, _ error) error {
		if name, _ := filepath.Rel(root, path); name != "." {
			after = append(after, name+map[bool]string{true: "/"}[d.IsDir()])
		}
		return nil
	})
	if fmt.Sprint(after) != fmt.Sprint(names) {
		t.Errorf("it wrote something: %q", after)
	}
}
