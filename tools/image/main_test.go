package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Every part of the layout is what its descriptor says, and none is there that nobody
// points to: whoever pulls an image checks that, and refuses what is not so. Here the
// programs are a few bytes; that a real one runs is for the end-to-end tests.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "new", "image.tar")
	i := image{version: "v1.2.3", revision: "0123abc", created: time.Unix(1700000000, 0).UTC()}
	if err := i.write(out, []string{"linux/amd64=" + file(t, dir, "a", "for amd64"), "linux/arm64=" + file(t, dir, "b", "for arm64")}); err != nil {
		t.Fatal(err)
	}
	layout := untar(t, read(t, out))
	var kind map[string]string
	if decode(t, layout["oci-layout"], &kind); !reflect.DeepEqual(kind, map[string]string{"imageLayoutVersion": "1.0.0"}) {
		t.Errorf("oci-layout is %v", kind)
	}
	used := map[string]bool{"oci-layout": true, "index.json": true, "blobs/": true, "blobs/sha256/": true}
	part := func(d v1.Descriptor, mediaType types.MediaType) []byte {
		t.Helper()
		name := "blobs/sha256/" + d.Digest.Hex
		used[name] = true
		if d.MediaType != mediaType || d.Size != int64(len(layout[name])) || d.Digest.String() != "sha256:"+sum(layout[name]) {
			t.Fatalf("%+v is %d bytes of %s, want %s", d, len(layout[name]), sum(layout[name]), mediaType)
		}
		return layout[name]
	}

	var top, all v1.IndexManifest
	decode(t, layout["index.json"], &top)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "localhost/teamtoken:v1.2.3" {
		t.Fatalf("the layout has %+v", top.Manifests)
	}
	decode(t, part(top.Manifests[0], types.OCIImageIndex), &all)
	labels := map[string]string{
		"org.opencontainers.image.title":       "teamtoken",
		"org.opencontainers.image.description": "A gRPC service in front of the Team Token API of HCP Terraform and Terraform Enterprise",
		"org.opencontainers.image.version":     "v1.2.3",
		"org.opencontainers.image.revision":    "0123abc",
		"org.opencontainers.image.created":     "2023-11-14T22:13:20Z",
		"org.opencontainers.image.source":      "https://github.com/teamtoken/teamtoken",
	}
	platforms := []v1.Platform{{Architecture: "amd64", OS: "linux"}, {Architecture: "arm64", OS: "linux"}}
	if len(all.Manifests) != len(platforms) {
		t.Fatalf("the index has %+v", all.Manifests)
	}
	for n, want := range platforms {
		var m v1.Manifest
		var c v1.ConfigFile
		decode(t, part(all.Manifests[n], types.OCIManifestSchema1), &m)
		decode(t, part(m.Config, types.OCIConfigJSON), &c)
		if !all.Manifests[n].Platform.Equals(want) || !c.Platform().Equals(want) || !c.Created.Equal(i.created) {
			t.Errorf("%+v and %+v, want %+v", all.Manifests[n].Platform, c, want)
		}
		if !reflect.DeepEqual(m.Annotations, labels) || !reflect.DeepEqual(c.Config.Labels, labels) {
			t.Errorf("annotations %v, labels %v", m.Annotations, c.Config.Labels)
		}
		ports := map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}, "9464/tcp": {}}
		if c.Config.User != "65532:65532" || !reflect.DeepEqual(c.Config.Entrypoint, []string{"/teamtoken-server"}) ||
			c.Config.Env != nil || !reflect.DeepEqual(c.Config.ExposedPorts, ports) {
			t.Errorf("%+v", c.Config)
		}
		if len(m.Layers) != 1 || len(c.RootFS.DiffIDs) != 1 {
			t.Fatalf("%d layers, %d of them in the config", len(m.Layers), len(c.RootFS.DiffIDs))
		}
		packed, err := gzip.NewReader(bytes.NewReader(part(m.Layers[0], types.OCILayer)))
		if err != nil {
			t.Fatal(err)
		}
		if !packed.ModTime.IsZero() || packed.Name != "" {
			t.Errorf("gzip's header says %+v", packed.Header)
		}
		layer, err := io.ReadAll(packed)
		if err != nil || c.RootFS.DiffIDs[0].String() != "sha256:"+sum(layer) {
			t.Errorf("the layer is %s and not %s: %v", sum(layer), c.RootFS.DiffIDs[0], err)
		}
		if got, want := string(untar(t, layer)["teamtoken-server"]), "for "+want.Architecture; got != want {
			t.Errorf("the program is %q, want %q", got, want)
		}
	}
	for name := range layout {
		if !used[name] {
			t.Errorf("nothing points to %s", name)
		}
	}
}

// Every CA of the file can be read as Go reads it, and is one that Mozilla trusts
// without limits: a limit can't be said in the file.
func TestAuthorities(t *testing.T) {
	want := make(map[string]bool)
	for root := range bundle.Roots() {
		want[string(root.Certificate)] = root.Constraint == nil
	}
	n := 0
	for block, rest := pem.Decode(authorities()); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !cert.IsCA || !want[string(block.Bytes)] {
			t.Errorf("%s is no CA, or one with limits", cert.Subject)
		}
		n++
	}
	if n < 100 {
		t.Errorf("only %d CAs", n)
	}
}

// What can't be made leaves no file that looks as if it had been.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	program := file(t, dir, "program", "program")
	for name, programs := range map[string][]string{
		"no program":          nil,
		"no platform":         {program},
		"half a platform":     {"linux=" + program},
		"a program not there": {"linux/amd64=" + filepath.Join(dir, "none")},
	} {
		out := filepath.Join(dir, "image.tar")
		var i image
		if err := i.write(out, programs); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: there is a file: %v", name, err)
		}
	}
}

func sum(content []byte) string {
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

func file(t *testing.T, dir, name, content string) string {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode(t *testing.T, content []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%v: %s", err, content)
	}
}

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
