// Package simulator is an upstream to run and to test against: the vendor's
// Team Token API in one process, in memory, on a loopback address.
//
// It promises that a client which gets on with it gets on with the vendor. All
// seven endpoints, their documents, errors and headers are as documented. Where
// the documentation is silent, the simulator is strict, so that a client's slip
// is seen. It never logs.
//
// It also promises the truth: Requests is what a client really sent, Minted and
// Changes are what its calls really did, and a Fault decides what the client gets to see
// of either.
//
// It leaves out what no client of team tokens can notice: teams and
// organizations are fixed, permissions are all or nothing, nothing outlives the
// process.
package simulator

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// Options of a Simulator. The zero value is the vendor's behaviour.
type Options struct {
	// Now is the clock for every date, expiry and rate limit; nil means
	// time.Now. Behind a clock that stands still a rate limit never resets.
	Now func() time.Time

	// Rate is how many requests one user may make in a second. Zero means the
	// vendor's 30, a negative one no limit.
	Rate int

	// Teams is how many teams there are besides those of Teams: AnotherTeam's.
	Teams int

	// DefaultTTL is the life of a token for which no expiry was asked. Zero
	// means two years, a negative one for ever.
	DefaultTTL time.Duration

	// MaxTTL is the longest life that the organization allows; zero means any.
	// Asking for more is refused, not asking gives no more than this.
	MaxTTL time.Duration
}

const (
	vendorRate = 30
	twoYears   = 2 * 365 * 24 * time.Hour

	// A request with a larger body is cut off. A thousand times what any
	// endpoint has use for.
	maxBody = 1 << 20

	// A Simulator that runs for days must not keep every request: when it
	// holds this many it forgets the older half.
	maxRequests = 1 << 16
)

// A Simulator is an upstream. It is safe for concurrent use.
type Simulator struct {
	options Options
	closing chan struct{} // closed by Close; ends every wait

	// Requests and late changes under way, and servers. It grows under mu and
	// only while not closed, or from within one of its own.
	running sync.WaitGroup

	mu           sync.Mutex // guards what follows
	closed       bool
	servers      []*http.Server
	organization *organization
	limit        *limit
	requests     []Request
	faults       []*Injected
}

// New returns a Simulator without any team token, ready to serve as an
// http.Handler.
func New(options Options) *Simulator {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Rate == 0 {
		options.Rate = vendorRate
	}
	if options.DefaultTTL == 0 {
		options.DefaultTTL = twoYears
	}
	return &Simulator{
		options:      options,
		closing:      make(chan struct{}),
		organization: newOrganization(options.Now(), options.Teams),
		limit:        &limit{rate: options.Rate, windows: map[string]window{}},
	}
}

// Listen serves plain HTTP on address, "127.0.0.1:0" for instance, until Close,
// and returns the address as a URL without a path. An address that can be
// reached from elsewhere is refused.
func (s *Simulator) Listen(address string) (url string, err error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", fmt.Errorf("simulator: %w", err)
	}
	if !resolved.IP.IsLoopback() {
		return "", fmt.Errorf("simulator: %q is not a loopback address", address)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", fmt.Errorf("simulator: %w", http.ErrServerClosed)
	}
	listener, err := net.ListenTCP("tcp", resolved)
	if err != nil {
		return "", fmt.Errorf("simulator: %w", err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	s.servers = append(s.servers, server)
	s.running.Go(func() { _ = server.Serve(listener) })
	return "http://" + listener.Addr().String(), nil
}

// Close stops listening, cuts off every client and abandons every held request
// and late change. Nothing happens any more once it has returned; Requests and
// Minted still answer.
func (s *Simulator) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	servers := s.servers
	s.mu.Unlock()
	var err error
	for _, server := range servers {
		err = errors.Join(err, server.Close())
	}
	s.running.Wait()
	return err
}

// OwnerToken is the token of the organization's owners' team. Like the other
// two credentials it may do everything, is random, exists from the start, never
// expires, and is not among Minted nor in any list.
func (s *Simulator) OwnerToken() secret.Text { return s.organization.owners.secret }

// UserToken is the token of a user who is an owner.
func (s *Simulator) UserToken() secret.Text { return s.organization.user.secret }

// OrganizationToken is the organization's own token.
func (s *Simulator) OrganizationToken() secret.Text { return s.organization.self.secret }

// TokenID returns the id of the existing token, or credential, that has this
// secret, and "" if there is none.
func (s *Simulator) TokenID(text secret.Text) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.organization.bySecret[digest(text)]; t != nil {
		return t.id
	}
	return ""
}

// A Request as it arrived.
type Request struct {
	Method string
	Path   string      // the raw request URI: path and query as they were sent
	Header http.Header // as sent, but of Authorization only the scheme
	Bearer secret.Text // the credential, if it was sent as a bearer's
	Body   []byte
}

// Requests returns what arrived since the last Reset, in order. A request is
// there before it is carried out or faulted, but only once its whole body has
// arrived. Of very many only the newest are kept, 32768 at least.
func (s *Simulator) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// A Minted token is the truth about a token that a request made.
type Minted struct {
	ID          string
	Team        string // the team's id
	Secret      secret.Text
	Live        bool // it authenticates: neither revoked nor expired
	CreatedAt   time.Time
	Description *string // nil on a legacy token
}

// Minted returns every token that was ever made, oldest first, whether or not
// anybody got to see it.
func (s *Simulator) Minted() []Minted {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	minted := make([]Minted, 0, len(s.organization.minted))
	for _, t := range s.organization.minted {
		minted = append(minted, Minted{t.id, t.team.ID, t.secret, t.live(now), t.createdAt, t.description})
	}
	return minted
}

// Changes returns all that was ever done to the teams' tokens, in the order in
// which it was, whether or not anybody got to see it.
func (s *Simulator) Changes() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.organization.changes)
}

// Reset forgets requests, and faults that have not hit yet. Tokens stay.
func (s *Simulator) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.faults = nil, nil
}

// ServeHTTP answers as upstream, or as the first queued fault demands.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the client left, or would never have ended
	}
	fault, open := s.arrive(r, body)
	if !open {
		panic(http.ErrAbortHandler)
	}
	defer s.running.Done()
	carryOut := func() answer { return s.carryOut(r, body) }
	if fault == nil {
		carryOut().send(w)
		return
	}
	s.play(fault, carryOut, w)
}

// arrive records a request and takes the fault that is to hit it, if any. If
// the simulator is open, the caller has to tell running when it is done.
func (s *Simulator) arrive(r *http.Request, body []byte) (fault *Injected, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.running.Add(1)
	if len(s.requests) == maxRequests {
		s.requests = slices.Clone(s.requests[maxRequests/2:])
	}
	header := r.Header.Clone()
	for i, value := range header["Authorization"] {
		header["Authorization"][i] = secret.Redacted
		if scheme, _, ok := strings.Cut(value, " "); ok {
			header["Authorization"][i] = scheme + " " + secret.Redacted
		}
	}
	s.requests = append(s.requests, Request{r.Method, r.RequestURI, header, bearer(r), body})
	for i, f := range s.faults {
		if !f.fault.matches(r) {
			continue
		}
		if f.left--; f.left == 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return f, true
	}
	return nil, true
}

// bearer returns the credential that a request brings; zero if none.
func bearer(r *http.Request) secret.Text {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return secret.Text{}
	}
	return secret.New(text)
}
