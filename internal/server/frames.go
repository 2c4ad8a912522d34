package server

import (
	"bufio"
	"encoding/binary"
	"net"
)

// HTTP/2's own numbers, RFC 9113, section 4.1 and 6.
const (
	frameHeader  = 9
	frameData    = 0
	frameHeaders = 1
	frameReset   = 3
	frameMore    = 9 // CONTINUATION
	endStream    = 1
	endHeaders   = 4
	prefaceSize  = 24
)

// framed is a gRPC connection whose HTTP/2 frames are looked at on their way, in
// the clear: to count the streams that are open, which grpc-go tells nobody, and
// to keep trailers of a request from ending the connection.
//
// gRPC has no trailers of requests, and grpc-go closes the connection of a peer
// that sends some. A sidecar forwards those of its clients, and its connection is
// everybody's. So the end of such a header block is made malformed, which resets
// the one stream: the block is still read as a whole, since the table by which
// HTTP/2 compresses headers is the connection's.
//
// Reading goes by frames through the buffer here, in place of grpc-go's own.
type framed struct {
	net.Conn
	c *connection
	r *bufio.Reader

	// Of the reading side.
	greeting int     // bytes of the preface that are still to come
	header   [9]byte // of the present frame
	begin    []byte  // what of header is not read yet
	left     int     // what of its payload is not
	more     []byte  // what is read after it
	spoil    bool    // the present header block is one of trailers
	last     uint32  // the highest stream
	since    uint32  // of the streams from this one to last, all were opened
	begun    bool    // a frame was read

	// Of the writing side.
	out scanner
}

func newFramed(conn net.Conn, c *connection) *framed {
	return &framed{Conn: conn, c: c, r: bufio.NewReaderSize(conn, readBuffer), greeting: prefaceSize}
}

func (f *framed) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case f.greeting > 0:
			n, err := f.r.Read(p[:min(len(p), f.greeting)])
			f.greeting -= n
			return n, err
		case len(f.begin) > 0:
			n := copy(p, f.begin)
			f.begin = f.begin[n:]
			return n, nil
		case f.left > 0:
			n, err := f.r.Read(p[:min(len(p), f.left)])
			f.left -= n
			return n, err
		case len(f.more) > 0:
			n := copy(p, f.more)
			f.more = f.more[n:]
			return n, nil
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// spoiled is the end of a header block: a continuation that ends it, with a
// literal field whose name is in capitals, which is malformed.
func spoiled(stream uint32) []byte {
	b := []byte{0, 0, 4, frameMore, endHeaders, 0, 0, 0, 0, 0, 1, 'A', 0}
	binary.BigEndian.PutUint32(b[5:], stream)
	return b
}

// next reads the header of a frame.
func (f *framed) next() error {
	b, err := f.r.Peek(frameHeader)
	if err != nil {
		return err
	}
	copy(f.header[:], b)
	_, _ = f.r.Discard(frameHeader)
	f.begin = f.header[:]
	kind, flags, stream, size := frame(f.header)
	f.left = size
	switch kind {
	case frameHeaders:
		f.spoil = f.opened(stream)
		if !f.spoil {
			f.opens(stream)
		}
	case frameReset:
		f.c.streamEnds(stream)
	}
	if !f.begun {
		f.begun = true
		f.c.shaken() // by the settings, with which every client begins
	}
	if f.spoil && flags&endHeaders != 0 && (kind == frameHeaders || kind == frameMore) {
		f.header[4] &^= endHeaders
		f.more, f.spoil = spoiled(stream), false
	}
	return nil
}

func frame(h [9]byte) (kind, flags byte, stream uint32, size int) {
	return h[3], h[4], binary.BigEndian.Uint32(h[5:]) & (1<<31 - 1), int(h[0])<<16 | int(h[1])<<8 | int(h[2])
}

// opened reports whether a stream was opened before. One that was skipped was
// not, and to open that is an error of the connection.
func (f *framed) opened(stream uint32) bool {
	return stream%2 == 1 && stream <= f.last && stream >= f.since
}

func (f *framed) opens(stream uint32) {
	if stream%2 == 0 || stream <= f.last {
		return // an error, which grpc-go answers
	}
	if stream != f.last+2 {
		f.since = stream
	}
	f.last = stream
	f.c.streamBegins(stream)
}

func (f *framed) Write(p []byte) (int, error) {
	n, err := f.Conn.Write(p)
	f.out.scan(p[:n], func(h [9]byte) {
		switch kind, flags, stream, _ := frame(h); {
		case kind == frameReset, (kind == frameData || kind == frameHeaders) && flags&endStream != 0:
			f.c.streamEnds(stream)
		}
	})
	return n, err
}

// scanner finds the headers of frames in what comes in pieces.
type scanner struct {
	header [9]byte
	have   int // of the header
	left   int // of the payload
}

func (s *scanner) scan(b []byte, found func(header [9]byte)) {
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			s.left -= n
			b = b[n:]
			continue
		}
		n := copy(s.header[s.have:], b)
		s.have += n
		b = b[n:]
		if s.have == frameHeader {
			s.have = 0
			_, _, _, s.left = frame(s.header)
			found(s.header)
		}
	}
}
