package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// sink is where lines end up. One goroutine at a time uses it.
type sink interface {
	// write writes all lines of text, or returns how many of them, from the first, are
	// known to be written, and why the others are not.
	write(text []byte, lines []lineInfo) (written int, err error)
	// interrupt ends a write that hangs, and reports whether it can.
	interrupt() bool
	close() error
}

func open(o Options) (sink, error) {
	switch o.Destination {
	case OTLP:
		if o.Sync {
			return nil, errors.New("otlp has no disk to hold a line")
		}
		return openCollector()
	case Stdout:
		s := &stream{w: o.Stdout, sync: o.Sync}
		if err := s.synced(); err != nil {
			return nil, fmt.Errorf("standard output has no disk to hold a line: %w", err)
		}
		return s, nil
	}
	return openFile(o.Destination, o.Sync)
}

// openFile opens a file to append to.
func openFile(path string, sync bool) (*stream, error) {
	// Without O_NONBLOCK, a named pipe that nobody reads would hold up the start.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	s := &stream{w: f, file: f, sync: sync, torn: endsMidLine(f)}
	if err := s.synced(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s has no disk to hold a line: %w", path, err)
	}
	if sync {
		if err := syncDirectory(path); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return s, nil
}

// endsMidLine reports whether f ends within a line: a power cut may leave it so. One that
// can't be read is taken to, since an empty line does no harm.
func endsMidLine(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	r, err := os.Open(f.Name())
	if err != nil {
		return true
	}
	defer r.Close()
	var last [1]byte
	_, err = r.ReadAt(last[:], info.Size()-1)
	return err != nil || last[0] != '\n'
}

// syncDirectory has the disk hold that the file is there at all.
func syncDirectory(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// stream is a sink that takes bytes.
type stream struct {
	w    io.Writer
	file *os.File // to close; nil if it is somebody else's
	sync bool
	torn bool // it ends within a line
}

func (s *stream) write(text []byte, lines []lineInfo) (written int, err error) {
	size := 0
	if s.torn { // so that only the torn line is lost to whoever reads
		text = append([]byte{'\n'}, text...)
		size++
	}
	n, err := s.w.Write(text)
	if n > 0 {
		s.torn = text[n-1] != '\n'
	}
	for _, line := range lines {
		if size += line.size; size > n {
			break
		}
		written++
	}
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = s.synced()
	}
	if err != nil {
		return written, fmt.Errorf("audit: %w", err)
	}
	return written, nil
}

var errNoSync = errors.New("it is no file")

// synced has the disk hold what was written, if that is wanted.
func (s *stream) synced() error {
	if !s.sync {
		return nil
	}
	f, ok := s.w.(interface{ Sync() error })
	if !ok {
		return errNoSync
	}
	return f.Sync()
}

func (s *stream) interrupt() bool {
	f, ok := s.w.(interface{ SetWriteDeadline(time.Time) error })
	return ok && f.SetWriteDeadline(time.Unix(1, 0)) == nil
}

func (s *stream) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
