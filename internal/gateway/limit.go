package gateway

import (
	"net/http"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// headerBytes is the size of a request's header list, its target and host included.
func headerBytes(r *http.Request) int {
	return len(r.RequestURI) + len(r.Host) + 2*caller.HeaderCost + caller.HeaderListSize(r.Header)
}
