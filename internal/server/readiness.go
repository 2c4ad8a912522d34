package server

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Readiness is the causes for which a server is not ready. It is ready while there is
// none, and until it stops: who calls it all the same is still answered. It is safe for
// concurrent use.
type Readiness struct {
	service string
	health  *health.Server

	mu     sync.Mutex
	causes map[string]bool
}

// NewReadiness returns the readiness of a server of a gRPC service, which is ready.
func NewReadiness(service string) *Readiness {
	r := &Readiness{service: service, health: health.NewServer(), causes: make(map[string]bool)}
	r.health.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
	return r
}

// Set takes a cause away, or adds it.
func (r *Readiness) Set(cause string, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ready {
		delete(r.causes, cause)
	} else {
		r.causes[cause] = true
	}
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if len(r.causes) > 0 {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	r.health.SetServingStatus("", status)
	r.health.SetServingStatus(r.service, status)
}

// listCauses are the causes, sorted.
func (r *Readiness) listCauses() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.causes))
}
