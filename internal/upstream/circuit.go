package upstream

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// The circuit opens when the upstream could not be reached so often in a row, and
// then lets one request through from time to time, to see whether it can.
const (
	circuitFailures = 5
	circuitProbe    = time.Second
)

var (
	errOpen         = errors.New("the upstream could not be reached lately, so it was not tried")
	errInconclusive = errors.New("nothing was learnt about the upstream")
	errPanic        = errors.New("the request panicked")
)

// newCircuit spares callers the wait for a connection that is not to be had. Only
// that opens it: an answer that is lost or an error is news of a request, and
// whether the next one fares better is for the upstream to say.
func newCircuit() *gobreaker.TwoStepCircuitBreaker[answer] {
	return gobreaker.NewTwoStepCircuitBreaker[answer](gobreaker.Settings{
		Timeout:     circuitProbe,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= circuitFailures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errInconclusive) },
	})
}
