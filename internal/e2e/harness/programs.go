package harness

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root is the repository, seen from each package of tests.
const root = "../../.."

// Shell runs a command, which may take long, and fails the test if it fails.
func Shell(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Checkout is another copy of the sources, with other modes and times.
func Checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("git", "clone", "-q", "--no-checkout", root, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	list := strings.Split(strings.TrimSuffix(string(Must(exec.Command("git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z").Output())), "\x00"), "\x00")
	for _, name := range list {
		info, err := os.Stat(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) { // deleted and not yet committed
			continue
		}
		content := Must(os.ReadFile(filepath.Join(root, name)))
		file := filepath.Join(dir, name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, info.Mode()&0o700)); err != nil {
			t.Fatal(err)
		}
	}
	Shell(t, dir, nil, "git", "add", "-A") // so that it can be seen what changes from here on
	return dir
}

// Changed are the files of a checkout that are others than they were, and new ones.
func Changed(t *testing.T, checkout string) string {
	t.Helper()
	return Shell(t, checkout, nil, "git", "diff", "--name-only") + Shell(t, checkout, nil, "git", "ls-files", "-o", "--exclude-standard")
}

// Tests are the names of all tests and fuzz targets in this repository, as what documents
// and tables say of them is checked against.
func Tests(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			if err == nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
				return fs.SkipDir
			}
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				names[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
