package config

import (
	"math"
	"regexp"
	"strings"
)

// Memory is what State is where replicas share nothing.
const Memory = "memory"

// SharedState reports whether replicas share their state, and URL where it is.
func (c *Config) SharedState() bool { return !c.State.IsZero() && c.State.Reveal() != Memory }

var (
	prefix       = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)
	organization = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)
)

// checkState checks how replicas share what they have to agree on.
func (c *Config) checkState(r *refusals) {
	shared := c.SharedState()
	url := c.State.Reveal()
	r.when(shared && !strings.HasPrefix(url, "redis://") && !strings.HasPrefix(url, "rediss://"),
		"TEAMTOKEN_STATE must be memory, redis://HOST:PORT or rediss://HOST:PORT") // its value may hold a password
	r.when(shared && c.StateKeyFile == "",
		"TEAMTOKEN_STATE is Redis, which is given nothing that is not sealed: set TEAMTOKEN_STATE_KEY_FILE (--state-key-file),"+
			" made by `teamtoken-server state-key new FILE`")
	for name, value := range map[string]string{
		"TEAMTOKEN_STATE_KEY_FILE (--state-key-file)": c.StateKeyFile, "TEAMTOKEN_STATE_CA_FILE (--state-ca-file)": c.StateCAFile,
		"TEAMTOKEN_STATE_PASSWORD_FILE (--state-password-file)": c.StatePasswordFile,
		"TEAMTOKEN_STATE_TLS_CERT_FILE (--state-tls-cert-file)": c.StateTLSCertFile, "TEAMTOKEN_STATE_TLS_KEY_FILE (--state-tls-key-file)": c.StateTLSKeyFile,
	} {
		r.when(!shared && value != "", "%s is for Redis, and TEAMTOKEN_STATE is memory: leave one out", name)
	}
	tls := strings.HasPrefix(url, "rediss://")
	r.when((c.StateTLSCertFile == "") != (c.StateTLSKeyFile == ""),
		"TEAMTOKEN_STATE_TLS_CERT_FILE (--state-tls-cert-file) and TEAMTOKEN_STATE_TLS_KEY_FILE (--state-tls-key-file) go together: set both or none")
	r.when(shared && !tls && (c.StateCAFile != "" || c.StateTLSCertFile != ""),
		"TEAMTOKEN_STATE_CA_FILE (--state-ca-file) and TEAMTOKEN_STATE_TLS_CERT_FILE (--state-tls-cert-file) are for TLS:"+
			" TEAMTOKEN_STATE must be rediss://")
	r.when(!prefix.MatchString(c.StatePrefix),
		"TEAMTOKEN_STATE_PREFIX (--state-prefix) is %q: it must be 1 to 64 letters, digits and `_.:-`", c.StatePrefix)
	r.when(math.IsNaN(c.UpstreamRate) || c.UpstreamRate < 0 || c.UpstreamRate > 1e6 || c.UpstreamRate > 0 && c.UpstreamRate < 0.1,
		"TEAMTOKEN_UPSTREAM_RATE (--upstream-rate) is %v: it must be 0 for no limit, or between 0.1 and 1000000", c.UpstreamRate)
	for _, name := range c.Organizations {
		r.when(!organization.MatchString(name),
			"TEAMTOKEN_ORGANIZATIONS (--organizations) has %q: each must be 1 to 40 letters, digits, `_` and `-`", name)
	}
}
