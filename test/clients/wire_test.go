package clients

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teamtoken/teamtoken/internal/simulator"
)

const (
	mediaType = "application/vnd.api+json"
	path      = "/api/v2/teams/" + team + "/authentication-token"
	byID      = "/api/v2/authentication-tokens/" // and an id, which a row has by name: `{id 1}`
	tokens    = "/api/v2/organizations/" + simulator.Organization + "/team-tokens"
)

// wire is what of an answer a client goes by: the status, these headers, and
// the body byte for byte but for ids and secrets, which stand there by name. Of
// an error's body it is what a client shows.
type wire struct {
	Status                 int
	ContentType            string
	APIVersion, AppName    string
	Body, ErrStatus, Title string
}

// document is a token's, in the upstream's order.
func document(token string) string { return `{"data":` + resource("null", token) + `}` }

func named(description, token string) string { return `{"data":` + resource(description, token) + `}` }

// listOf is a list's first and only page, but for the links of another.
func listOf(links, pagination string, resources ...string) string {
	return `{"data":[` + strings.Join(resources, ",") + `],"links":{` + links + `},"meta":{"pagination":{` + pagination + `}}}`
}

func resource(description, token string) string {
	return `{"id":"id 1","type":"authentication-tokens","attributes":{` +
		`"created-at":"2100-01-31T12:00:00.000Z","last-used-at":null,"expired-at":"2102-01-31T12:00:00.000Z",` +
		`"description":` + description + `,"token":` + token + `},"relationships":{` +
		`"team":{"data":{"id":"` + team + `","type":"teams"}},` +
		`"created-by":{"data":{"id":"` + user + `","type":"users"}}}}`
}

// What the vendor's clients and the samples of its documentation send gets from
// the program what it gets from upstream, and so does a body in any other form
// that means the same.
func TestWire(t *testing.T) {
	var (
		listed  = func(body string) wire { return wire{Status: 200, ContentType: mediaType, Body: body} }
		namedCI = wire{Status: 201, ContentType: mediaType, Body: named(`"ci"`, `"secret 1"`)}
		created = wire{Status: 201, ContentType: mediaType, Body: document(`"secret 1"`)}
		shown   = wire{Status: 200, ContentType: mediaType, Body: document("null")}
		deleted = wire{Status: 204}
		none    = wire{Status: 404, ContentType: mediaType, ErrStatus: "404", Title: "not found"}
		pinged  = wire{Status: 204, APIVersion: "2.6", AppName: "HCP Terraform"}
	)
	const (
		contentType = "Content-Type: " + mediaType
		accept      = "Accept: " + mediaType
		gzip        = "Accept-Encoding: gzip"
		chunked     = "Transfer-Encoding: chunked"
		v1          = "User-Agent: go-tfe"
	)
	const (
		// What go-tfe sends of a list's options, in the order of the alphabet; v2's
		// alone has the filter.
		filter = "filter%5Bexpiry_status%5D=active%2Cno_expiration&"
		paged  = "page%5Bnumber%5D=2&page%5Bsize%5D=5&q=plat+form&sort=-created-by"

		// The links of the list's page that these ask for, and of the whole list.
		// An escape in the query stands in a link as it was sent.
		link  = `http://server` + tokens + `?`
		first = "page%5Bnumber%5D=1&page%5Bsize%5D=5&q=plat+form&sort=-created-by"
		empty = `"current-page":2,"page-size":5,"prev-page":1,"next-page":null,"total-pages":1,"total-count":0`
		whole = `page%5Bnumber%5D=1&page%5Bsize%5D=20`
		one   = `"current-page":1,"page-size":20,"prev-page":null,"next-page":null,"total-pages":1,"total-count":1`
	)
	pageTwo := func(filter string) wire {
		return listed(listOf(`"self":"`+link+filter+paged+`","first":"`+link+filter+first+`","prev":"`+link+filter+first+
			`","next":null,"last":"`+link+filter+first+`"`, empty))
	}
	onlyPage := listed(listOf(`"self":"`+link+whole+`","first":"`+link+whole+`","prev":null,"next":null,"last":"`+
		link+whole+`"`, one, resource("null", "null")))
	for _, row := range []struct {
		name  string
		given int      // how many tokens the team was given before
		head  []string // the request line, without the version, and the headers
		body  string   // as it stands on the wire
		want  wire
	}{
		{
			"go-tfe v1 pings", 0,
			[]string{"GET /api/v2/ping", v1, accept, gzip},
			"", pinged,
		},
		{
			"go-tfe v1 generates: type is empty", 0,
			[]string{"POST " + path, v1, "Content-Length: 21", accept, contentType, gzip},
			`{"data":{"type":""}}` + "\n", created,
		},
		{
			"go-tfe v1 reads", 1,
			[]string{"GET " + path, v1, accept, gzip},
			"", shown,
		},
		{
			"go-tfe v1 deletes: a Content-Type and no body", 1,
			[]string{"DELETE " + path, v1, accept, contentType, gzip},
			"", deleted,
		},
		{
			"go-tfe v1 reads what is not there", 0,
			[]string{"GET " + path, v1, accept, gzip},
			"", none,
		},
		{
			"go-tfe v1 deletes what is not there", 0,
			[]string{"DELETE " + path, v1, accept, contentType, gzip},
			"", none,
		},

		{
			"go-tfe v2 generates: a chunked body", 0,
			[]string{"POST " + path, chunked, contentType},
			"29\r\n" + `{"data":{"type":"authentication-tokens"}}` + "\r\n0\r\n\r\n", created,
		},
		{
			"chunked, in two chunks", 0,
			[]string{"POST " + path, chunked, contentType},
			"9\r\n" + `{"data":{` + "\r\n20\r\n" + `"type":"authentication-tokens"}}` + "\r\n0\r\n\r\n", created,
		},
		{
			"chunked, and empty", 0,
			[]string{"POST " + path, chunked, contentType},
			"0\r\n\r\n", created,
		},
		{
			"go-tfe v2 deletes: no Content-Type", 1,
			[]string{"DELETE " + path},
			"", deleted,
		},

		{
			"the documentation's type", 0,
			[]string{"POST " + path, contentType, "Content-Length: 40"},
			`{"data":{"type":"authentication-token"}}`, created,
		},
		{
			"the documentation's curl: a Content-Type and no body", 0,
			[]string{"POST " + path, "User-Agent: curl/7.88.1", "Accept: */*", contentType},
			"", created,
		},
		{
			"a body of length 0, and a Content-Type", 0,
			[]string{"POST " + path, contentType, "Content-Length: 0"},
			"", created,
		},
		{
			"a body of length 0, and no Content-Type", 0,
			[]string{"POST " + path, "Content-Length: 0"},
			"", created,
		},
		{
			"neither a body nor its length nor a Content-Type", 0,
			[]string{"POST " + path},
			"", created,
		},
		// Endpoint 4. The Terraform provider uses go-tfe v1 for it.
		{
			"go-tfe v1 creates a named token: type is empty", 0,
			[]string{"POST " + path + "s", v1, "Content-Length: 55", accept, contentType, gzip},
			`{"data":{"type":"","attributes":{"description":"ci"}}}` + "\n", namedCI,
		},
		{
			"go-tfe v1 creates a named token: the description is empty", 0,
			[]string{"POST " + path + "s", v1, "Content-Length: 53", accept, contentType, gzip},
			`{"data":{"type":"","attributes":{"description":""}}}` + "\n",
			wire{Status: 201, ContentType: mediaType, Body: named(`""`, `"secret 1"`)},
		},
		{
			"as go-tfe v2 creates a named token: a chunked body", 0, // its form, with attributes; none was recorded
			[]string{"POST " + path + "s", chunked, contentType},
			"4b\r\n" + `{"data":{"attributes":{"description":"ci"},"type":"authentication-tokens"}}` + "\r\n0\r\n\r\n", namedCI,
		},
		{
			"a named token, chunked in two within its description", 0,
			[]string{"POST " + path + "s", chunked, contentType},
			"27\r\n" + `{"data":{"attributes":{"description":"c` + "\r\n24\r\n" + `i"},"type":"authentication-tokens"}}` + "\r\n0\r\n\r\n", namedCI,
		},

		// Endpoints 5 and 6
		{
			"go-tfe v1 reads by id", 1,
			[]string{"GET " + byID + "{id 1}", v1, accept, gzip},
			"", shown,
		},
		{
			"go-tfe v1 reads by id what is not there", 0,
			[]string{"GET " + byID + "at-0000000000000000", v1, accept, gzip},
			"", none,
		},
		{
			"go-tfe v1 deletes by id: a Content-Type and no body", 1,
			[]string{"DELETE " + byID + "{id 1}", v1, accept, contentType, gzip},
			"", deleted,
		},
		{
			"go-tfe v1 deletes by id what is not there", 0,
			[]string{"DELETE " + byID + "at-0000000000000000", v1, accept, contentType, gzip},
			"", none,
		},
		{
			"go-tfe v2 deletes by id: no Content-Type", 1,
			[]string{"DELETE " + byID + "{id 1}"},
			"", deleted,
		},

		// Endpoint 7
		{
			"go-tfe v1 lists", 1,
			[]string{"GET " + tokens, v1, accept, gzip},
			"", onlyPage,
		},
		{
			"go-tfe v1 lists: an encoded query", 1,
			[]string{"GET " + tokens + "?" + paged, v1, accept, gzip},
			"", pageTwo(""),
		},
		{
			"go-tfe v2 lists: a filter besides", 1,
			[]string{"GET " + tokens + "?" + filter + paged},
			"", pageTwo(filter),
		},
		{
			"a list's query, not encoded", 1,
			[]string{"GET " + tokens + "?page[number]=2&page[size]=5&q=plat%20form&sort=-created-by"},
			"", pageTwo(""),
		},
		{
			"a list of an organization that is not there", 0,
			[]string{"GET /api/v2/organizations/elsewhere/team-tokens", v1, accept, gzip},
			"", none,
		},

		{
			"the documentation's curl deletes", 1,
			[]string{"DELETE " + path, "User-Agent: curl/7.88.1", "Accept: */*", contentType},
			"", deleted,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEach(t, surfaces, func(t *testing.T, s server) {
				for range row.given {
					if got := s.exchange(t, []string{"POST " + path}, ""); got.Status != http.StatusCreated {
						t.Fatalf("a token could not be made: status %d", got.Status)
					}
				}
				if diff := cmp.Diff(row.want, s.exchange(t, row.head, row.body)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// exchange sends a request as it stands here, and reads the answer to its end.
func (s server) exchange(t *testing.T, head []string, body string) wire {
	t.Helper()
	host := strings.TrimPrefix(s.url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	request := head[0]
	if minted := s.sim.Minted(); len(minted) > 0 {
		request = strings.ReplaceAll(request, "{id 1}", minted[0].ID)
	}
	lines := []string{request + " HTTP/1.1", "Host: " + host, "Authorization: Bearer " + s.token, "Connection: close"}
	lines = append(lines, head[1:]...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(head[0], " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answered, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	// go-tfe v1 ends the process that uses it on any other.
	if reset := resp.Header.Get("X-RateLimit-Reset"); reset != "" {
		if _, err := strconv.ParseFloat(reset, 64); err != nil {
			t.Errorf("X-RateLimit-Reset is not a number: %q", reset)
		}
	}
	got := wire{Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type")}
	switch {
	case strings.HasSuffix(head[0], "/ping"):
		got.APIVersion, got.AppName = resp.Header.Get("TFP-API-Version"), resp.Header.Get("TFP-AppName")
	case resp.StatusCode >= http.StatusBadRequest:
		// A status that is a number loses the clients the details.
		var failed struct {
			Errors []struct{ Status, Title string }
		}
		if err := json.Unmarshal(answered, &failed); err != nil || len(failed.Errors) != 1 {
			t.Fatalf("%d errors with a text for a status: %v", len(failed.Errors), err)
		}
		got.ErrStatus, got.Title = failed.Errors[0].Status, failed.Errors[0].Title
		return got
	}
	got.Body = s.byName(string(answered))
	return got
}

// byName is a body with ids, secrets and the server by name. JSON has two ways to
// write the & of a link, which mean the same.
func (s server) byName(body string) string {
	names := []string{s.url, "http://server", `\u0026`, "&"}
	for _, m := range s.sim.Minted() {
		names = append(names, m.ID, s.idOf(m.ID), m.Secret.Reveal(), s.secretOf(m.Secret.Reveal()))
	}
	return strings.NewReplacer(names...).Replace(body)
}
