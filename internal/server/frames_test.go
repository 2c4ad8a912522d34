package server

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// memoryConn reads what a peer has sent and keeps what is written.
type memoryConn struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// What a peer sends is read as it was sent, but for trailers of a request, which are
// a malformed header block of their stream; and the streams that are open are
// known. However the bytes come.
func TestFrames(t *testing.T) {
	var sent, block bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&sent, nil)
	encoder := hpack.NewEncoder(&block)
	headers := func(stream uint32, name string, parts int) {
		block.Reset()
		for _, f := range [][2]string{{":method", "POST"}, {":path", "/"}, {":scheme", "http"}, {name, "a value to remember"}}[pick(name == "x-trailer", 3, 0):] {
			_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		chunks := slices.Collect(slices.Chunk(block.Bytes(), (block.Len()+parts-1)/parts))
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: chunks[0], EndHeaders: len(chunks) == 1, PadLength: 3})
		for i, c := range chunks[1:] {
			_ = fr.WriteContinuation(stream, i == len(chunks)-2, c)
		}
	}
	_ = fr.WriteSettings()
	headers(1, "x-first", 1)
	_ = fr.WriteData(1, false, []byte("message"))
	headers(3, "x-first", 2)
	headers(1, "x-trailer", 1)
	headers(5, "x-trailed", 1)
	headers(3, "x-trailer", 3)
	headers(11, "x-first", 1)
	_ = fr.WriteRSTStream(11, http2.ErrCodeCancel)
	headers(11, "x-trailer", 1)
	headers(13, "x-trailer", 1) // what is no request is not ours to judge
	want := []string{"SETTINGS 0", "HEADERS 1", "DATA 1", "HEADERS 3", "malformed 1", "HEADERS 5", "malformed 3", "HEADERS 11", "RST_STREAM 11", "malformed 11", "HEADERS 13"}

	for name, reader := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "by halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(nil)
			conn := &memoryConn{in: reader(bytes.NewReader(sent.Bytes()))}
			c := &connection{Conn: conn, of: &connections{pool: p, limit: 1}}
			f := newFramed(conn, c, func(string, ...slog.Attr) {})
			preface := make([]byte, len(http2.ClientPreface))
			if _, err := io.ReadFull(f, preface); err != nil || string(preface) != http2.ClientPreface {
				t.Fatalf("the preface is %q, %v", preface, err)
			}
			r := http2.NewFramer(nil, f)
			r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			var got []string
			for {
				frame, err := r.ReadFrame()
				if bad, ok := err.(http2.StreamError); ok {
					got = append(got, "malformed "+string(rune('0'+bad.StreamID%10)))
					if bad.StreamID > 10 {
						got[len(got)-1] = "malformed 11"
					}
					continue
				}
				if err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					break
				}
				h := frame.Header()
				kind := h.Type.String()
				got = append(got, kind+" "+map[bool]string{true: "1", false: ""}[h.StreamID > 10]+string(rune('0'+h.StreamID%10)))
			}
			if !slices.Equal(got, want) {
				t.Errorf("read were  %q\nwant      %q", got, want)
			}
			if n := len(c.streams); n != 4 || c.held != 4*streamCost+c.read {
				t.Errorf("%d streams are open and hold %d", n, c.held)
			}
			w := http2.NewFramer(f, nil)
			_ = w.WriteData(1, false, []byte("x"))
			_ = w.WriteData(1, true, bytes.Repeat([]byte("x"), 100))
			_ = w.WriteRSTStream(1, http2.ErrCodeNo)
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, EndStream: true})
			_ = w.WriteRSTStream(5, http2.ErrCodeNo)
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 13, EndHeaders: true})
			if n := len(c.streams); n != 1 {
				t.Errorf("%d streams are open at last", n)
			}
		})
	}
}

func pick(first bool, a, b int) int {
	if first {
		return a
	}
	return b
}
