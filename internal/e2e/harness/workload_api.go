package harness

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// WorkloadAPI is a SPIFFE Workload API that has one certificate, for ever, and CAs
// that may change.
type WorkloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	Socket  string
	mu      sync.Mutex
	svid    *workload.X509SVIDResponse
	changed chan struct{}
}

// NewWorkloadAPI serves a workload's certificate of a, and a as its trust domain's
// CA, on a socket.
func NewWorkloadAPI(t *testing.T, a *Authority, id string) (socket string) {
	t.Helper()
	return StartWorkloadAPI(t, a, id).Socket
}

// StartWorkloadAPI is NewWorkloadAPI for a test that changes the CAs.
func StartWorkloadAPI(t *testing.T, a *Authority, id string) *WorkloadAPI {
	t.Helper()
	pair := a.ClientCert(t, id).Certificates[0]
	w := &WorkloadAPI{changed: make(chan struct{}), svid: &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: id, X509Svid: pair.Certificate[0], X509SvidKey: Must(x509.MarshalPKCS8PrivateKey(pair.PrivateKey)), Bundle: a.CA.Raw,
	}}}}
	dir := Must(os.MkdirTemp("", "spiffe")) // t.TempDir() is too long a name for a socket
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener := Must(net.Listen("unix", filepath.Join(dir, "agent.sock")))
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	w.Socket = "unix://" + listener.Addr().String()
	return w
}

// Trust has the trust domain's CAs be others.
func (w *WorkloadAPI) Trust(cas ...*Authority) {
	w.mu.Lock()
	defer w.mu.Unlock()
	svid := proto.CloneOf(w.svid)
	svid.GetSvids()[0].Bundle = nil
	for _, ca := range cas {
		svid.GetSvids()[0].Bundle = append(svid.GetSvids()[0].Bundle, ca.CA.Raw...)
	}
	w.svid = svid
	close(w.changed)
	w.changed = make(chan struct{})
}

// FetchX509SVID tells who says that he asks for it, and goes on until he leaves.
func (w *WorkloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	for {
		w.mu.Lock()
		svid, changed := w.svid, w.changed
		w.mu.Unlock()
		if err := stream.Send(svid); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}
