// Command image writes the OCI image of the server: an archive of an image layout,
// for any number of platforms, made without a container engine.
//
// An image holds the program and the CAs that Mozilla trusts, and nothing else: no shell, no package, no user database. All of it is taken from what
// go.mod and the Go toolchain pin, and from the program that is given; its times are
// the one that is given; so two builds of one commit are equal, bit for bit.
//
// The SBOM is put beside the archive and not into it: a second manifest in a layout
// has tools that copy images ask which one is meant.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where things are in the image. Go looks for CAs at this path by itself.
const (
	program = "/teamtoken-server"
	roots   = "/etc/ssl/certs/ca-certificates.crt"
	user    = "65532:65532" // nobody in particular, and by number, so that Kubernetes can tell that it is not root
)

// Media types of the OCI image specification, version 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func main() {
	var i image
	out := flag.String("out", "", "the `FILE` to write")
	flag.StringVar(&i.version, "version", "devel", "what the image is called")
	flag.StringVar(&i.revision, "revision", "", "the commit that it is made of")
	epoch := flag.Int64("time", 0, "when it was made, in `SECONDS` since 1970")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "image -out FILE [flags] OS/ARCH=PROGRAM…")
		flag.PrintDefaults()
	}
	flag.Parse()
	i.created = time.Unix(*epoch, 0).UTC()
	if err := i.write(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// image is what is to be made, and its parts by their digests.
type image struct {
	version, revision string
	created           time.Time
	blobs             map[string][]byte
}

// descriptor points to a part.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations"`
}

type config struct {
	Created time.Time `json:"created"`
	platform
	Config struct {
		User         string
		ExposedPorts map[string]struct{}
		Env          []string `json:",omitempty"`
		Entrypoint   []string
		Labels       map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// write makes an image of each OS/ARCH=PROGRAM, and one archive of all.
func (i *image) write(out string, programs []string) error {
	if out == "" || len(programs) == 0 {
		return fmt.Errorf("say -out FILE and OS/ARCH=PROGRAM")
	}
	i.blobs = make(map[string][]byte)
	all := index{SchemaVersion: 2, MediaType: typeIndex, Annotations: i.labels()}
	for _, arg := range programs {
		where, file, ok := strings.Cut(arg, "=")
		system, architecture, known := strings.Cut(where, "/")
		if !ok || !known {
			return fmt.Errorf("%q is not OS/ARCH=PROGRAM", arg)
		}
		d, err := i.platform(platform{architecture, system}, file)
		if err != nil {
			return err
		}
		all.Manifests = append(all.Manifests, d)
	}
	whole, err := i.json(typeIndex, all)
	if err != nil {
		return err
	}
	whole.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": i.version,
		// Docker, containerd and podman name what they load by this one; podman would
		// else take the version for a name.
		"io.containerd.image.name": "localhost/teamtoken:" + i.version,
	}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{whole}})
	if err != nil {
		return err
	}
	layout := map[string]entry{
		"/oci-layout": {content: []byte(`{"imageLayoutVersion":"1.0.0"}`), mode: 0o644},
		"/index.json": {content: top, mode: 0o644},
	}
	for digest, content := range i.blobs {
		layout["/blobs/sha256/"+digest] = entry{content: content, mode: 0o644}
	}
	archive, err := i.tar(layout)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil { //nolint:gosec // it is to be read by all
		return err
	}
	if err := os.WriteFile(out, archive, 0o644); err != nil { //nolint:gosec // as above
		return err
	}
	fmt.Printf("%s: %s, %s\n", out, whole.Digest, size(len(archive)))
	return nil
}

// platform makes the image of one platform.
func (i *image) platform(p platform, file string) (descriptor, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return descriptor{}, err
	}
	content := map[string]entry{program: {content: binary, mode: 0o755}, roots: {content: authorities(), mode: 0o644}}
	layer, err := i.tar(content)
	if err != nil {
		return descriptor{}, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return descriptor{}, err
	}
	if _, err := w.Write(layer); err != nil {
		return descriptor{}, err
	}
	if err := w.Close(); err != nil {
		return descriptor{}, err
	}

	c := config{Created: i.created, platform: p, History: []history{{i.created, "teamtoken/tools/image"}}}
	c.Config.User, c.Config.Entrypoint = user, []string{program}
	c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}, "9464/tcp": {}}
	c.Config.Labels = i.labels()
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{"sha256:" + sum(layer)}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Annotations: i.labels()}
	if m.Config, err = i.json(typeConfig, c); err != nil {
		return descriptor{}, err
	}
	m.Layers = []descriptor{i.blob(typeLayer, packed.Bytes())}
	d, err := i.json(typeManifest, m)
	if err != nil {
		return descriptor{}, err
	}
	d.Platform = &p
	fmt.Printf("%s/%s: %s, unpacked %s, packed %s\n", p.OS, p.Architecture, d.Digest, size(len(layer)), size(packed.Len()))
	for _, name := range sorted(content) {
		fmt.Printf("  %9s  %s\n", size(len(content[name].content)), name)
	}
	return d, nil
}

// labels are the annotations that the OCI specification names.
func (i *image) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       "teamtoken",
		"org.opencontainers.image.description": "A gRPC service in front of the Team Token API of HCP Terraform and Terraform Enterprise",
		"org.opencontainers.image.version":     i.version,
		"org.opencontainers.image.created":     i.created.Format(time.RFC3339),
		"org.opencontainers.image.source":      "https://github.com/teamtoken/teamtoken",
	}
	if i.revision != "" {
		l["org.opencontainers.image.revision"] = i.revision
	}
	return l
}

// authorities are the CAs that are trusted for everything. Some are trusted by
// Mozilla for certain names or times alone, which a file of PEM can't say: those are
// left out.
func authorities() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // to memory
		}
	}
	return b.Bytes()
}

func (i *image) json(mediaType string, v any) (descriptor, error) {
	content, err := json.Marshal(v)
	return i.blob(mediaType, content), err
}

func (i *image) blob(mediaType string, content []byte) descriptor {
	digest := sum(content)
	i.blobs[digest] = content
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(content)}
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}

type entry struct {
	content []byte
	mode    int64
}

// tar is an archive of files and the directories above them, all of root's.
func (i *image) tar(files map[string]entry) ([]byte, error) {
	all := make(map[string]*tar.Header)
	for name, f := range files {
		all[name] = &tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: f.mode, Size: int64(len(f.content))}
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			all[dir] = &tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range sorted(all) {
		h := all[name]
		h.ModTime, h.Format = i.created, tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader(files[name].content)); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func size(n int) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
