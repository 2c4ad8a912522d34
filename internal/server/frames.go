package server

import (
	"bufio"
	"encoding/binary"
	"net"

	"golang.org/x/net/http2"
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
)

// framed is a gRPC connection whose HTTP/2 frames are looked at on their way, in
// the clear: to count the streams that are open and to tell what was refused, which
// grpc-go tells nobody, and to keep trailers of a request from ending the connection.
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
	c      *connection
	r      *bufio.Reader
	unseen unseen

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
	listed   bool    // the present frame ends a header list

	// Of the writing side.
	out scanner
}

func newFramed(conn net.Conn, c *connection, u unseen) *framed {
	return &framed{Conn: conn, c: c, r: bufio.NewReaderSize(conn, readBuffer), unseen: u, greeting: len(http2.ClientPreface)}
}

func (f *framed) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case f.greeting > 0:
			n, err := f.r.Read(p[:min(len(p), f.greeting)])
			if expected := http2.ClientPreface[len(http2.ClientPreface)-f.greeting:]; string(p[:n]) != expected[:n] {
				f.unseen(notHTTP2, from(f.RemoteAddr()))
			}
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
	if f.listed { // who reads on has done with the header list
		f.listed = false
		f.c.headersEnd()
	}
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
	if kind == frameHeaders || kind == frameMore {
		f.c.headersBegin(size)
		f.listed = flags&endHeaders != 0
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
	f.out.scan(p[:n], f.sent)
	return n, err
}

// sent is told of each frame that grpc-go sends.
func (f *framed) sent(header [frameHeader]byte, payload []byte) {
	kind, flags, stream, _ := frame(header)
	first := kind == frameHeaders // of the stream's header blocks
	switch {
	case kind == frameReset || (kind == frameData || kind == frameHeaders) && flags&endStream != 0:
		if s := f.c.streamEnds(stream); s != nil && kind == frameHeaders {
			first = !s.headed
			s.refuse()
		}
	case kind == frameHeaders:
		f.c.streamAnswers(stream)
	}
	if message := refusal(http2.FrameType(kind), payload, first); message != "" {
		f.unseen(message, from(f.RemoteAddr()))
	}
}

// maxLook is how many bytes of a payload are looked at.
const maxLook = 8

// scanner finds frames in what comes in pieces.
type scanner struct {
	buffer [frameHeader + maxLook]byte
	have   int // of the header and of what is looked at of the payload
	left   int // of the rest of the payload
}

// scan calls found for each frame of which the header and the first maxLook bytes of
// the payload, or all of a shorter one, have come.
func (s *scanner) scan(b []byte, found func(header [frameHeader]byte, payload []byte)) {
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			s.left -= n
			b = b[n:]
			continue
		}
		need, size := frameHeader, 0
		if s.have >= frameHeader {
			_, _, _, size = frame([frameHeader]byte(s.buffer[:]))
			need += min(size, maxLook)
		}
		n := copy(s.buffer[s.have:need], b)
		s.have += n
		b = b[n:]
		if s.have == frameHeader {
			if _, _, _, size = frame([frameHeader]byte(s.buffer[:])); size > 0 {
				continue
			}
		}
		if s.have == need {
			s.have, s.left = 0, max(size-maxLook, 0)
			found([frameHeader]byte(s.buffer[:]), s.buffer[frameHeader:need])
		}
	}
}
