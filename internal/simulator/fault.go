package simulator

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Fault is something that goes wrong with a request. Three independent
// questions make one: which requests it hits, whether and when such a request
// is carried out, and what the client sees. The zero Fault hits the next API
// call and changes nothing.
//
//	Fault{Status: 503}                              refuse
//	Fault{Status: 503, Apply: ApplyFirst}           carry out, and pretend otherwise
//	Fault{Drop: DropRST, Apply: ApplyFirst}         carry out, and lose the answer
//	Fault{Hold: c}                                  carry out now, answer late
//	Fault{Hold: c, Apply: ApplyLate}                carry out and answer late
//	Fault{Hold: c, Apply: ApplyLate, Drop: DropFIN} cut off at once, carry out late
//	Fault{Hold: c, Apply: ApplyLate, Status: 504}   give up at once, carry out late
//	Fault{Truncate: new(10)}                        carry out, and lose all but 10 bytes
type Fault struct {
	// Method is the method that it hits; empty for any.
	Method string `yaml:"method"`

	// Path is a pattern of path.Match for the last segments of the path that it
	// hits: "teams/*/authentication-token". Empty is any API call but the ping.
	Path string `yaml:"path"`

	// Times is how many requests it hits: zero means one, a negative number all
	// until Reset.
	Times int `yaml:"times"`

	// Apply is when the request is carried out. If it is empty, what is shown
	// decides: first for the real answer, never where Status or Drop stands in.
	Apply Apply `yaml:"apply"`

	// Delay and Hold make the client wait, the one for a time, the other until
	// the channel is closed (a context's Done, for instance), and both for both.
	// The wait goes on when the client leaves. It ends when the simulator
	// closes, and then nothing follows it: no change and no answer.
	Delay time.Duration   `yaml:"delay"`
	Hold  <-chan struct{} `yaml:"-" json:"-"`

	// Drop closes the connection without an answer.
	Drop Drop `yaml:"drop"`

	// Status is answered instead of the real answer, with the headers and body
	// that the vendor, or for a 5xx a load balancer, gives with it. A 429 names a
	// wait of one second.
	Status int `yaml:"status"`

	// Header replaces single headers of the answer; an empty value removes one.
	Header map[string]string `yaml:"header"`

	// Body replaces the answer's body.
	Body *string `yaml:"body"`

	// Truncate closes the connection after that many bytes of a longer body. The
	// Content-Length is still that of the whole.
	Truncate *int `yaml:"truncate"`
}

// Apply is when a request under a Fault is carried out, authentication and rate
// limit included.
type Apply string

// When a request may be carried out.
const (
	ApplyFirst Apply = "first" // before any wait
	ApplyNever Apply = "never" // needs Status or Drop

	// After the wait. If Status or Drop stands in for the real answer, the client
	// gets it without waiting, and the change comes behind its back.
	ApplyLate Apply = "late"
)

// Drop is how a connection is closed.
type Drop string

// A client reads the end of the stream after a FIN, "connection reset by peer"
// after a RST. Over TLS both are the end of the stream.
const (
	DropFIN Drop = "fin"
	DropRST Drop = "rst"
)

// Injected follows a Fault that was injected.
type Injected struct {
	fault      Fault
	left       int // hits that it still has in it; guarded by Simulator.mu
	unfinished atomic.Int64
	reached    func()
	hit, done  chan struct{}
}

// Hit is closed once the fault has hit its first request. If that is to be
// carried out first, it has been.
func (f *Injected) Hit() <-chan struct{} { return f.hit }

// Done is closed once the fault has hit all its Times and the last of these
// requests is over, its late change included. It is never closed if Times is
// negative.
func (f *Injected) Done() <-chan struct{} { return f.done }

// Inject queues a fault. A request is hit by the first fault of the queue that
// matches it, and by no other. Inject panics if the fault contradicts itself:
// then the test is wrong.
func (s *Simulator) Inject(f Fault) *Injected {
	if err := f.check(); err != nil {
		panic(err)
	}
	if f.Times == 0 {
		f.Times = 1
	}
	if f.Apply == "" {
		f.Apply = ApplyFirst
		if f.standsIn() {
			f.Apply = ApplyNever
		}
	}
	injected := &Injected{fault: f, left: f.Times, hit: make(chan struct{}), done: make(chan struct{})}
	injected.unfinished.Store(int64(f.Times))
	injected.reached = sync.OnceFunc(func() { close(injected.hit) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, injected)
	return injected
}

func (f Fault) check() error {
	var err error
	if _, bad := path.Match(f.Path, ""); bad != nil {
		err = fmt.Errorf("path %q: %w", f.Path, bad)
	}
	switch f.Apply {
	case "", ApplyFirst, ApplyLate:
	case ApplyNever:
		if !f.standsIn() {
			err = errors.New("a request that is never carried out has no answer: give a status, or drop it")
		}
	default:
		err = fmt.Errorf("unknown apply %q", f.Apply)
	}
	switch f.Drop {
	case "", DropFIN, DropRST:
	default:
		err = fmt.Errorf("unknown drop %q", f.Drop)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 999) {
		err = fmt.Errorf("status %d ends no answer", f.Status)
	}
	if f.Truncate != nil && *f.Truncate < 0 {
		err = fmt.Errorf("truncate %d", *f.Truncate)
	}
	if err != nil {
		return fmt.Errorf("simulator: fault: %w", err)
	}
	return nil
}

// standsIn reports whether the real answer is not shown.
func (f Fault) standsIn() bool { return f.Status != 0 || f.Drop != "" }

func (f Fault) matches(r *http.Request) bool {
	if f.Method != "" && f.Method != r.Method {
		return false
	}
	if f.Path == "" {
		return strings.HasPrefix(r.URL.Path, api+"/") && r.URL.Path != api+"/ping"
	}
	pattern, rest, more := strings.TrimPrefix(f.Path, "/"), r.URL.Path, true
	for more {
		if ok, _ := path.Match(pattern, rest); ok {
			return true
		}
		_, rest, more = strings.Cut(rest, "/")
	}
	return false
}

// play does with a request what the fault demands.
func (s *Simulator) play(in *Injected, carryOut func() answer, w http.ResponseWriter) {
	f := in.fault
	finish := func() {
		if in.unfinished.Add(-1) == 0 {
			close(in.done)
		}
	}
	var real answer
	if f.Apply == ApplyFirst {
		real = carryOut()
	}
	in.reached()

	if f.Apply == ApplyLate && f.standsIn() {
		// On its own, for the connection is not free for the client's next
		// request before the handler has returned.
		s.running.Go(func() {
			defer finish()
			if s.wait(f) {
				carryOut()
			}
		})
		f.show(answer{}, w)
		return
	}

	defer finish()
	if !s.wait(f) {
		panic(http.ErrAbortHandler)
	}
	if f.Apply == ApplyLate {
		real = carryOut()
	}
	f.show(real, w)
}

// wait returns false if the simulator closed meanwhile.
func (s *Simulator) wait(f Fault) bool {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-s.closing:
			return false
		}
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-s.closing:
			return false
		}
	}
	return true
}

// show lets the client see the real answer as far as the fault allows.
func (f Fault) show(a answer, w http.ResponseWriter) {
	if f.Drop != "" {
		drop(w, f.Drop)
		return
	}
	if f.Status != 0 {
		a = refusal(f.Status)
		brand(a.header)
		if f.Status == http.StatusTooManyRequests {
			(&limit{rate: vendorRate}).head(a.header, 0, time.Second)
		}
	}
	for name, value := range f.Header {
		name = http.CanonicalHeaderKey(name)
		a.header[name] = []string{value}
		if value == "" {
			a.header[name] = nil // keeps net/http from making one up
		}
	}
	if f.Body != nil {
		a.body = []byte(*f.Body)
	}
	n := len(a.body)
	if f.Truncate != nil {
		n = *f.Truncate
	}
	a.sendUpTo(w, n)
}

func drop(w http.ResponseWriter, how Drop) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: the end of the stream has to do
	}
	if tcp, ok := conn.(*net.TCPConn); ok && how == DropRST {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
