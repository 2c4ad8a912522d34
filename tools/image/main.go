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
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where things are in the image. Go looks for CAs at this path by itself.
const (
	program = "/teamtoken-server"
	roots   = "/etc/ssl/certs/ca-certificates.crt"
	user    = "65532:65532" // nobody in particular, and by number, so that Kubernetes can tell that it is not root
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

// image is what is to be made.
type image struct {
	version, revision string
	created           time.Time
}

// write makes an image of each OS/ARCH=PROGRAM, and one archive of all.
func (i *image) write(out string, programs []string) error {
	if out == "" || len(programs) == 0 {
		return errors.New("say -out FILE and OS/ARCH=PROGRAM")
	}
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range programs {
		where, file, ok := strings.Cut(arg, "=")
		p, err := v1.ParsePlatform(where)
		if !ok || err != nil || p.Architecture == "" {
			return fmt.Errorf("%q is not OS/ARCH=PROGRAM", arg)
		}
		img, err := i.platform(p, file)
		if err != nil {
			return err
		}
		all = mutate.AppendManifests(all, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	archive, err := i.archive(mutate.Annotations(all, i.labels()).(v1.ImageIndex))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil { //nolint:gosec // it is to be read by all
		return err
	}
	if err := os.WriteFile(out, archive, 0o644); err != nil { //nolint:gosec // as above
		return err
	}
	fmt.Printf("%s: %s\n", out, size(len(archive)))
	return nil
}

// platform makes the image of one platform.
func (i *image) platform(p *v1.Platform, file string) (v1.Image, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(root) }()
	err = errors.Join(os.MkdirAll(root+path.Dir(roots), 0o700),
		os.WriteFile(root+program, binary, 0o700), os.WriteFile(root+roots, authorities(), 0o600)) //nolint:gosec // it is to be run
	if err != nil {
		return nil, err
	}
	content, err := i.tar(os.DirFS(root))
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression))
	if err != nil {
		return nil, err
	}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{
		Created: v1.Time{Time: i.created}, OS: p.OS, Architecture: p.Architecture, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User: user, Entrypoint: []string{program}, Labels: i.labels(),
			ExposedPorts: map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}, "9464/tcp": {}},
		},
	})
	if err != nil {
		return nil, err
	}
	img, err = mutate.Append(mutate.ConfigMediaType(img, types.OCIConfigJSON), mutate.Addendum{
		Layer: layer, History: v1.History{Created: v1.Time{Time: i.created}, CreatedBy: "teamtoken/tools/image"},
	})
	if err != nil {
		return nil, err
	}
	packed, err := layer.Size()
	fmt.Printf("%s: the program %s, unpacked %s, packed %s\n", p, size(len(binary)), size(len(content)), size(int(packed)))
	return mutate.Annotations(img, i.labels()).(v1.Image), err
}

// archive is an image layout with one index in it.
func (i *image) archive(all v1.ImageIndex) ([]byte, error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := written.AppendIndex(all, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": i.version,
		// Docker, containerd and podman name what they load by this one; podman would
		// else take the version for a name.
		"io.containerd.image.name": "localhost/teamtoken:" + i.version,
	})); err != nil {
		return nil, err
	}
	return i.tar(os.DirFS(dir))
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

// tar is an archive of files and the directories above them, in the order of their
// names, all of root's. All may read them, and run what can be run.
func (i *image) tar(files fs.FS) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: i.created, Format: tar.FormatPAX}
		if d.IsDir() {
			return w.WriteHeader(h)
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, name, 0o644, int64(len(content))
		if info.Mode()&0o100 != 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	return b.Bytes(), errors.Join(err, w.Close())
}

func size(n int) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
