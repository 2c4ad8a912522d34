package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What grpc-go refuses is read in what it sends, however that is cut into writes, and
// no good answer is taken for a refusal.
func TestRefusalsOfTheTransport(t *testing.T) {
	var sent, block bytes.Buffer
	framer, encoder := http2.NewFramer(&sent, nil), hpack.NewEncoder(&block)
	headers := func(stream uint32, end bool, fields ...string) {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	}
	good := func(stream uint32) {
		headers(stream, false, ":status", "200", "content-type", "application/grpc")
		_ = framer.WriteData(stream, false, bytes.Repeat([]byte{0x8c}, 300))
		headers(stream, true, "grpc-status", "0", "grpc-message", "", "x-request-id", fmt.Sprint(stream))
	}
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 250})
	_ = framer.WriteSettingsAck()
	good(1)
	headers(3, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "16")
	headers(5, true, ":status", "415", "content-type", "application/grpc") // told
	_ = framer.WriteRSTStream(5, http2.ErrCodeNo)
	good(7)
	headers(9, true, ":status", "400", "content-type", "application/grpc")  // told
	headers(11, true, ":status", "400", "content-type", "application/grpc") // told
	headers(23, true, ":status", "415", "content-type", "application/grpc") // told, of the table
	headers(25, true, ":status", "405", "content-type", "application/grpc") // told
	headers(27, true, ":status", "405", "content-type", "application/grpc") // told, of the table
	encoder.SetMaxDynamicTableSize(512)
	encoder.SetMaxDynamicTableSize(2048)
	headers(13, true, ":status", "405") // told, after changes of the table's size
	good(15)
	encoder.SetMaxDynamicTableSize(4096)
	good(17)
	_ = framer.WriteRSTStream(19, http2.ErrCodeCancel)
	_ = framer.WriteRSTStream(21, http2.ErrCodeFrameSize) // told
	_ = framer.WritePing(true, [8]byte{0x88})
	_ = framer.WriteGoAway(21, http2.ErrCodeNo, nil)
	_ = framer.WriteGoAway(21, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")) // told
	want := []string{httpRefused, httpRefused, httpRefused, httpRefused, httpRefused, httpRefused, httpRefused, streamReset, goneAway}
	for size := 1; size <= sent.Len(); size++ {
		if size == 64 {
			size = sent.Len()
		}
		var got []string
		to := &kept{}
		w := newFramed(to, &connection{Conn: to, of: &connections{pool: newPool(nil), limit: 1}}, func(message string, _ ...slog.Attr) { got = append(got, message) })
		for id := uint32(1); id < 30; id += 2 {
			w.opens(id)
		}
		for rest := sent.Bytes(); len(rest) > 0; {
			n, err := w.Write(rest[:min(size, len(rest))])
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in writes of %d bytes (-want +got):\n%s", size, diff)
		}
		if !bytes.Equal(to.b.Bytes(), sent.Bytes()) {
			t.Fatal("other bytes went out")
		}
	}
}

// kept is a connection that keeps what is written.
type kept struct {
	net.Conn

	b bytes.Buffer
}

func (k *kept) Write(b []byte) (int, error) { return k.b.Write(b) }
func (k *kept) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
