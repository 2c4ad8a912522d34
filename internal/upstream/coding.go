package upstream

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
)

// codings are the content codings of an answer, the outermost last.
func codings(h http.Header) (names []string) {
	for _, line := range h["Content-Encoding"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" && name != "identity" {
				names = append(names, name)
			}
		}
	}
	return names
}

// plainText reports whether an answer is not compressed.
func plainText(h http.Header) bool { return len(h["Content-Encoding"]) == 0 || len(codings(h)) == 0 }

// plain is a whole document without its content coding. The client asks for none, but a
// proxy may compress all the same, and the secret of a new token comes only once.
func plain(h http.Header, sent []byte, limit int64) ([]byte, error) {
	if plainText(h) || len(sent) == 0 {
		return sent, nil
	}
	names := codings(h)
	if len(names) > 1 || names[0] != "gzip" && names[0] != "x-gzip" {
		return nil, errCoding
	}
	if !bytes.HasPrefix(sent, []byte{0x1f, 0x8b}) {
		return sent, nil // somebody has decompressed it, and left the header
	}
	var body bytes.Buffer
	from := bytes.NewReader(sent)
	r, err := gzip.NewReader(from)
	if err != nil {
		return nil, errCoding
	}
	for err == nil { // member after member; what follows the last one is not of the document
		r.Multistream(false)
		if _, err := body.ReadFrom(io.LimitReader(r, limit+1-int64(body.Len()))); err != nil {
			return nil, errCoding
		}
		if int64(body.Len()) > limit {
			return nil, errTooLong
		}
		err = r.Reset(from)
	}
	return body.Bytes(), nil
}
