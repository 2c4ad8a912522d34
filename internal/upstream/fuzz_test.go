package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A team id that is taken stands in the path as it is, and leads nowhere else.
func FuzzTeamPath(f *testing.F) {
	for _, s := range []string{
		"team-BUHBEM97xboT8TVz", "team-../../organization", "team-BUHBEM97xboT8TV\x00", "team-%2e%2e%2f%2e%2e%2f..",
		"team-BUHBEM97xboT8TVzz", "TEAM-BUHBEM97xboT8TVz", "", "team-ＢUHBEM97xboT8T", "at-BUHBEM97xboT8TVz",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseTeamID(s)
		if err != nil {
			if id != (TeamID{}) {
				t.Fatalf("%q is no team id, and yet gives %q", s, id)
			}
			return
		}
		path := teamPath(id)
		u, err := url.Parse("https://host" + path)
		if err != nil || u.Path != path || u.EscapedPath() != path || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q is not a path as it stands: %v", path, err)
		}
		segments := strings.Split(path, "/")
		if len(segments) != 6 || segments[4] != s || len(s) != 21 {
			t.Fatalf("%q leads elsewhere than to the team", path)
		}
	})
}

// Whatever the upstream answers is decoded or refused, and a secret that is
// given out can stand in a header.
func FuzzTokenDocument(f *testing.F) {
	for _, s := range []string{
		`{"data":{"id":"at-1","type":"authentication-tokens","attributes":{"created-at":"2017-11-29T19:18:09.976Z",` +
			`"last-used-at":null,"expired-at":"2026-04-06T12:00:00.000Z","description":null,"token":"a.atlasv1.b"},` +
			`"relationships":{"team":{"data":{"id":"team-BUHBEM97xboT8TVz","type":"teams"}},"created-by":{"data":{"id":"user-1","type":"users"}}}}}`,
		`{"data":{"id":"4111797","attributes":{"token":""}}}`, `{"data":null}`, `{"data":[]}`, `[]`, ``, `{`, `{"data":{"id":1}}`,
		`{"data":{"id":"at-1","attributes":{"token":"a\nb","created-at":"0001-01-01T00:00:00Z"}}}`,
		`{"data":{"id":"../x","attributes":{"token":"t"}}}`, `{"data":{"id":"at-1","relationships":{"team":{"data":null}}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, text, err := decodeNewToken(body)
		if err != nil {
			if !text.IsZero() || token != (Token{}) {
				t.Fatal("a document that is refused gives nothing")
			}
			return
		}
		if _, err := ParseTokenID(token.ID); err != nil {
			t.Fatalf("id %q", token.ID)
		}
		if strings.ContainsFunc(text.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatal("the secret cannot stand in a header")
		}
		for _, at := range []time.Time{token.CreatedAt, token.LastUsedAt, token.ExpiredAt} {
			if !at.IsZero() && (at.Year() < 1 || at.Year() > 9999 || at.Location() != time.UTC) {
				t.Fatalf("time %v", at)
			}
		}
	})
}

// Whatever a 429 says, the wait is one that can be waited and told.
func FuzzRateLimitHeaders(f *testing.F) {
	for _, s := range []string{"0.4", "1", "-1", "NaN", "Inf", "1e300", "", "soon", "Mon, 23 Nov 2026 20:00:00 GMT", "0x1p4", "00"} {
		f.Add(s, s)
	}
	now := time.Date(2026, 11, 23, 19, 59, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, reset, retryAfter string) {
		h := http.Header{}
		h.Set("X-RateLimit-Reset", reset)
		h.Set("Retry-After", retryAfter)
		if wait := retryAfterOf(h, now); wait < time.Millisecond || wait > time.Hour {
			t.Fatalf("wait %v", wait)
		}
	})
}

func TestWaitOfA429(t *testing.T) {
	now := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, reset, retryAfter string
		want                    time.Duration
	}{
		{"the reset, fractional", "0.4", "", 400 * time.Millisecond},
		{"the reset goes before Retry-After", "2", "7", 2 * time.Second},
		{"Retry-After in seconds", "", "7", 7 * time.Second},
		{"Retry-After as a date", "", "Mon, 23 Nov 2026 20:00:09 GMT", 9 * time.Second},
		{"a date that has passed", "", "Mon, 23 Nov 2026 19:00:00 GMT", time.Millisecond},
		{"neither", "", "", time.Second},
		{"a reset that is no number", "soon", "3", 3 * time.Second},
		{"a negative reset", "-3", "", time.Second},
		{"not a number", "NaN", "", time.Second},
		{"far too long", "1e300", "", time.Hour},
		{"infinite", "Inf", "", time.Hour},
		{"now", "0", "", time.Millisecond},
	} {
		h := http.Header{}
		if c.reset != "" {
			h.Set("X-RateLimit-Reset", c.reset)
		}
		if c.retryAfter != "" {
			h.Set("Retry-After", c.retryAfter)
		}
		if got := retryAfterOf(h, now); got != c.want {
			t.Errorf("%s: wait %v, want %v", c.name, got, c.want)
		}
	}
}
