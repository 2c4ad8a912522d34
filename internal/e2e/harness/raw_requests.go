package harness

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

// What most raw requests are about.
const (
	Team         = simulator.SeedTeam
	TokenPath    = "/api/v2/teams/" + Team + "/authentication-token"
	JSONAPI      = "application/vnd.api+json"
	InvalidField = "INVALID_FIELD"
	Generate     = "/teamtoken.v1.TeamTokenService/GenerateToken"
	Get          = "/teamtoken.v1.TeamTokenService/GetToken"
	Del          = "/teamtoken.v1.TeamTokenService/DeleteToken"
	Named        = "/teamtoken.v1.TeamTokenService/CreateNamedToken"
	GetByID      = "/teamtoken.v1.TeamTokenService/GetTokenByID"
	DelByID      = "/teamtoken.v1.TeamTokenService/DeleteTokenByID"
	List         = "/teamtoken.v1.TeamTokenService/ListTokens"
)

// RawRequest gets a Host and the length of its body where its headers name none.
type RawRequest struct {
	Method, Target string
	Headers        []string
	Body           string
	Cut            bool // the connection ends where the bytes do
}

func (r RawRequest) bytes() []byte {
	has := func(prefix string) bool {
		return slices.ContainsFunc(r.Headers, func(h string) bool { return strings.HasPrefix(h, prefix) })
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", r.Method, r.Target)
	if !has("Host") {
		b.WriteString("Host: teamtoken.test\r\n")
	}
	for _, h := range r.Headers {
		b.WriteString(h + "\r\n")
	}
	if r.Body != "" && !has("Content-Length") && !has("Transfer-Encoding") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n" + r.Body)
	return b.Bytes()
}

// SendREST writes the request to a connection of its own.
func (f *Server) SendREST(t *testing.T, r RawRequest) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.REST, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(Patience))
	wrote := make(chan struct{})
	go func() { // the answer may come before all is written
		defer close(wrote)
		_, _ = conn.Write(r.bytes())
		if r.Cut {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	defer func() { _ = conn.Close(); <-wrote }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.Method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && resp.ContentLength >= 0 {
		t.Fatalf("half an answer: %v", err)
	}
	if resp.StatusCode >= 400 {
		fmt.Fprintf(&f.Answers, "%v %v %s\n", resp.Status, resp.Header, body)
	}
	return resp, body
}

// Frame is a message as it stands in the body of a call.
func Frame(message []byte) []byte {
	n := len(message)
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// SendGRPC sends the body of a call. It takes what stands in the trailer, or in
// the header of an answer that is nothing else.
func (f *Server) SendGRPC(t *testing.T, client *http.Client, method string, headers [][2]string, body []byte) *status.Status {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.GRPC+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for _, h := range headers {
		if h[0] == "Content-Type" {
			req.Header.Del(h[0])
		}
		req.Header[h[0]] = append(req.Header[h[0]], h[1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.ReadAll(resp.Body) // the status says what came of it
	h := resp.Trailer
	if h.Get("Grpc-Status") == "" {
		h = resp.Header
	}
	if code, err := strconv.Atoi(h.Get("Grpc-Status")); err != nil {
		t.Fatalf("no gRPC status: %v %v %v", resp.Status, resp.Header, resp.Trailer)
	} else if h.Get("Grpc-Status-Details-Bin") == "" {
		return status.New(codes.Code(code), h.Get("Grpc-Message"))
	}
	var p spb.Status
	details, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(h.Get("Grpc-Status-Details-Bin"), "="))
	if err != nil || proto.Unmarshal(details, &p) != nil {
		t.Fatalf("the details of the status are malformed: %v", h)
	}
	fmt.Fprintf(&f.Answers, "%v\n", status.FromProto(&p).Err())
	return status.FromProto(&p)
}

// HTTP2 is a client that speaks HTTP/2 in the clear, as gRPC does.
func HTTP2(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: Patience}
}

// Text is a string field of a message.
func Text(number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

// Unauthenticated is the reason of a caller whom nothing makes certain.
const Unauthenticated = "CALLER_UNAUTHENTICATED"
