package gateway

import "net/http"

// fieldCost is what HTTP/2 counts for each header besides its name and value.
const fieldCost = 32

// headerBytes is the size of a request's headers, as HTTP/2 counts it.
func headerBytes(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host) + 2*fieldCost
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + fieldCost
		}
	}
	return n
}
