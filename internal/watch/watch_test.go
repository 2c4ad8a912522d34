package watch_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teamtoken/teamtoken/internal/watch"
)

// joined is what two files hold; an empty one cannot be loaded.
func joined(contents [][]byte) (string, error) {
	for _, c := range contents {
		if len(c) == 0 {
			return "", errors.New("empty")
		}
	}
	return string(contents[0]) + string(contents[1]), nil
}

func TestValueFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a, "1")
	write(b, "2")
	var told []string
	ended, end := context.WithCancel(t.Context())
	end() // so that it looks only when it is told to
	v, err := watch.Files(ended, []string{a, b}, joined, func(err error) {
		if err == nil {
			told = append(told, "ok")
			return
		}
		told = append(told, err.Error())
	})
	if err != nil || v.Get() != "12" {
		t.Fatalf("%v, %v", v, err)
	}
	for _, step := range []struct {
		name    string
		do      func()
		changed bool
		want    string
		told    string // the last that was told, with how often anything was
	}{
		{"nothing", func() {}, false, "12", ""},
		{"one file changes", func() { write(a, "3") }, true, "32", "ok"},
		{"half written", func() { write(b, "") }, false, "32", "ok|empty"},
		{"still half written", func() {}, false, "32", "ok|empty"},
		{"written", func() { write(b, "4") }, true, "34", "ok|empty|ok"},
		{"same length, same second", func() { write(b, "5") }, true, "35", "ok|empty|ok|ok"},
		{"replaced by a link", func() {
			write(filepath.Join(dir, "other"), "6")
			if os.Remove(b) != nil || os.Symlink(filepath.Join(dir, "other"), b) != nil {
				t.Fatal("no link")
			}
		}, true, "36", "ok|empty|ok|ok|ok"},
	} {
		step.do()
		if changed := v.Refresh(); changed != step.changed || v.Get() != step.want || strings.Join(told, "|") != step.told {
			t.Errorf("%s: changed %v, value %q, told %q", step.name, changed, v.Get(), told)
		}
	}

	_ = os.Remove(b)
	first, again := v.Refresh(), v.Refresh()
	if first || again || v.Get() != "36" || len(told) != 6 || !strings.Contains(told[5], b) {
		t.Errorf("a file that vanishes is told of once, by name, and the value stays: %q", told)
	}
	write(b, "6")
	if !v.Refresh() || v.Get() != "36" {
		t.Error("a file that comes back is in use again")
	}
}

// Kubernetes keeps a mounted secret in a directory that `..data` links to, and
// swaps that link: neither the file's own link nor its time of change tells.
func TestValueFollowsKubernetesByItself(t *testing.T) {
	dir := t.TempDir()
	mount := func(name, content string) {
		t.Helper()
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, name), 0o700),
			os.WriteFile(filepath.Join(dir, name, "token"), []byte(content), 0o600),
			os.Symlink(name, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", "one")
	if err := os.Symlink("..data/token", filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // which also sees that nothing outlives ctx
		ctx, end := context.WithCancel(t.Context())
		told := 0
		v, err := watch.Files(ctx, []string{filepath.Join(dir, "token")}, func(c [][]byte) (string, error) {
			if string(c[0]) == "bad" {
				return "", errors.New("bad")
			}
			return string(c[0]), nil
		}, func(error) { told++ })
		if err != nil {
			t.Fatal(err)
		}
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() } // by the test's own clock
		for _, step := range []struct {
			name, content, want string
			told                int
		}{
			{"swapped", "two", "two", 1},
			{"swapped for what cannot be loaded", "bad", "two", 2},
			{"swapped back", "two", "two", 3},
		} {
			mount(".."+strings.ReplaceAll(step.name, " ", "-"), step.content)
			pass(time.Second)
			if v.Get() != step.want || told != step.told {
				t.Errorf("%s: %q, told %d times", step.name, v.Get(), told)
			}
			if pass(time.Minute); told != step.told {
				t.Errorf("%s: told %d times for one change", step.name, told)
			}
		}
		end()
		synctest.Wait()
		mount("..last", "three")
		if pass(time.Minute); v.Get() != "two" {
			t.Errorf("%q, after the end", v.Get())
		}
	})
}

func TestFilesThatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{missing, large} {
		_, err := watch.Files(t.Context(), []string{path}, func([][]byte) (int, error) { return 0, nil }, func(error) {})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("the error must name %s: %v", path, err)
		}
	}
}
