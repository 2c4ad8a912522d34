// Package config reads the settings: flags, then the environment, then a YAML
// file, then the defaults. It knows every setting, and is known to cmd/server
// alone; other packages are given what they need.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teamtoken/teamtoken/internal/secret"
)

// What Credentials can be.
const (
	ServiceCredentials = "service"
	CallerCredentials  = "caller"
)

// Config is every setting. Its tags are the flag (and key of the YAML file), the
// environment variable, the default, and what it means: the help text and the
// manual, docs/configuration.md, are made of them. A field without a flag is a
// secret. `of` are the words that a value can be, and `from` and `to` its bounds.
type Config struct {
	File string `name:"config" var:"TEAMTOKEN_CONFIG" placeholder:"FILE" group:"Settings" help:"YAML file with settings: the flags' names, without the dashes in front, are its keys."`

	TFEAddress   string      `name:"tfe-address" var:"TFE_ADDRESS" default:"https://app.terraform.io" placeholder:"URL" group:"Upstream" help:"HCP Terraform, or a Terraform Enterprise. Plain http is for loopback only."`
	TFEToken     secret.Text `kong:"-" var:"TFE_TOKEN" group:"Upstream" help:"The service's own credential: a token that may manage the tokens of every team. It is set by the environment only."`
	TFETokenFile string      `name:"tfe-token-file" var:"TFE_TOKEN_FILE" placeholder:"FILE" group:"Upstream" help:"File that holds the service's own credential, for which there is also the variable TFE_TOKEN. It is read again when it changes: a rotated one is in use within a second."`
	TFECAFile    string      `name:"tfe-ca-file" var:"TFE_CA_FILE" placeholder:"FILE" group:"Upstream" help:"CAs to trust for the upstream instead of the system's, in PEM. It is read again when it changes."`
	Simulator    bool        `name:"simulator" var:"TEAMTOKEN_SIMULATOR" default:"false" group:"Upstream" help:"Start a simulator of the upstream on loopback and use it, for trying things out. Any caller is allowed, as by TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER."`

	Credentials            string `name:"credentials" var:"TEAMTOKEN_CREDENTIALS" default:"service" of:"service,caller" group:"Callers" help:"Whose credential goes upstream: 'service', its own, or 'caller', what each call brings as 'Authorization: Bearer'."`
	PolicyFile             string `name:"policy-file" var:"TEAMTOKEN_POLICY_FILE" placeholder:"FILE" group:"Callers" help:"Who may do what, in YAML: see docs/policy.md. Nobody may do anything that it does not allow. It is read again when it changes."`
	InsecureAllowAnyCaller bool   `name:"insecure-allow-any-caller" var:"TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER" default:"false" group:"Callers" help:"Let whoever reaches the listeners use the service's credential, for every team, instead of a policy. All callers count as one: a caller that sends the request_id of another's call gets the secret of that call. For trying things out only."`
	MaxRequestIDs          int    `name:"max-request-ids-per-caller" var:"TEAMTOKEN_MAX_REQUEST_IDS_PER_CALLER" default:"20000" from:"0" to:"10000000" group:"Callers" help:"How many request_ids with which a token was made are remembered for each caller, for a day. A call with one more is refused with RESOURCE_EXHAUSTED before anything is done. 0 is no limit."`
	MaxCallsPerCaller      int    `name:"max-calls-per-caller" var:"TEAMTOKEN_MAX_CALLS_PER_CALLER" default:"100" from:"1" to:"1000000" group:"Callers" help:"Calls that one caller, who is known, may have under way. More are refused with RESOURCE_EXHAUSTED."`

	JWTIssuer          string        `name:"jwt-issuer" var:"TEAMTOKEN_JWT_ISSUER" placeholder:"URL" group:"Callers by JWT" help:"Believe who a JWT says, if this issuer signed it: the caller is 'ISSUER#SUBJECT'. It comes as 'Authorization: Bearer', and goes before every other identity that the call has."`
	JWTAudience        []string      `name:"jwt-audience" var:"TEAMTOKEN_JWT_AUDIENCE" placeholder:"NAME,…" group:"Callers by JWT" help:"Audiences, one of which the JWT must be meant for."`
	JWTKeysFile        string        `name:"jwt-keys-file" var:"TEAMTOKEN_JWT_KEYS_FILE" placeholder:"FILE" group:"Callers by JWT" help:"The issuer's public keys, as a JWKS, for an issuer that is not to be asked for them. It is read again when it changes."`
	JWTAlgorithms      []string      `name:"jwt-algorithms" var:"TEAMTOKEN_JWT_ALGORITHMS" default:"RS256,ES256" placeholder:"NAME,…" group:"Callers by JWT" help:"Signature algorithms to believe, asymmetric ones only."`
	JWTLeeway          time.Duration `name:"jwt-leeway" var:"TEAMTOKEN_JWT_LEEWAY" default:"30s" from:"0s" to:"60s" group:"Callers by JWT" help:"How far the issuer's clock may be off, at most 60s."`
	JWTIssuerCAFile    string        `name:"jwt-issuer-ca-file" var:"TEAMTOKEN_JWT_ISSUER_CA_FILE" placeholder:"FILE" group:"Callers by JWT" help:"CAs to trust for the issuer instead of the system's, in PEM. It is read again when it changes."`
	JWTIssuerTokenFile string        `name:"jwt-issuer-token-file" var:"TEAMTOKEN_JWT_ISSUER_TOKEN_FILE" placeholder:"FILE" group:"Callers by JWT" help:"File with a bearer token to ask the issuer for its keys with, which Kubernetes wants: the pod's own. It is read again when it changes."`

	Mesh          string   `name:"mesh" var:"TEAMTOKEN_MESH" default:"none" of:"none,envoy,linkerd" group:"Callers by a service mesh" help:"Believe who the mesh's proxy says, in the header of: 'envoy', which Istio has too (x-forwarded-client-cert), or 'linkerd' (l5d-client-id)."`
	MeshPeers     []string `name:"mesh-peers" var:"TEAMTOKEN_MESH_PEERS" default:"127.0.0.1/32,::1/128" placeholder:"CIDR,…" group:"Callers by a service mesh" help:"Where the mesh's proxy connects from. From anywhere else its header is not read. Whoever can connect from there can be anybody."`
	MeshListeners []string `name:"mesh-listeners" var:"TEAMTOKEN_MESH_LISTENERS" default:"grpc,rest" placeholder:"NAME,…" of:"grpc,rest" group:"Callers by a service mesh" help:"Listeners that the mesh's proxy connects to: grpc, rest, or both. On others its header is not read."`

	AuditFile string `name:"audit-file" var:"TEAMTOKEN_AUDIT_FILE" default:"-" placeholder:"FILE" group:"Audit" help:"Where every attempt and its outcome is written to, see docs/audit.md: a file, which SIGHUP opens anew, '-' for standard output, or 'otlp' for OpenTelemetry logs by the variables OTEL_EXPORTER_OTLP_*. What can't be written down is refused."`
	AuditSync bool   `name:"audit-sync" var:"TEAMTOKEN_AUDIT_SYNC" default:"false" group:"Audit" help:"Have the disk itself hold a line (fsync) before the call goes on."`

	GRPCAddress  string `name:"grpc-address" var:"TEAMTOKEN_GRPC_ADDRESS" default:":9090" placeholder:"HOST:PORT" group:"Listeners" help:"Where gRPC is served."`
	HTTPAddress  string `name:"http-address" var:"TEAMTOKEN_HTTP_ADDRESS" default:":8080" placeholder:"HOST:PORT" group:"Listeners" help:"Where REST is served."`
	AdminAddress string `name:"admin-address" var:"TEAMTOKEN_ADMIN_ADDRESS" default:"127.0.0.1:9464" placeholder:"HOST:PORT" group:"Listeners" help:"Where /metrics, /livez and /readyz are served, always in the clear."`
	Docs         bool   `name:"docs" var:"TEAMTOKEN_DOCS" default:"true" negatable:"" group:"Listeners" help:"Serve /openapi.json, and a page of it at /docs, on the REST listener, to everybody."`
	Reflection   bool   `name:"reflection" var:"TEAMTOKEN_REFLECTION" default:"true" negatable:"" group:"Listeners" help:"Serve gRPC reflection."`
	Pprof        bool   `name:"pprof" var:"TEAMTOKEN_PPROF" default:"false" group:"Listeners" help:"Serve /debug/pprof on the admin listener. A heap profile may hold secrets."`

	PublicURL      string   `name:"public-url" var:"TEAMTOKEN_PUBLIC_URL" placeholder:"URL" group:"Listeners" help:"Where clients reach the REST listener, 'https://teamtoken.example.com' for example: the links of lists begin with it. A proxy in front may remove the path of this URL. Without it links have the scheme and host of each request."`
	TrustedProxies []string `name:"trusted-proxies" var:"TEAMTOKEN_TRUSTED_PROXIES" placeholder:"CIDR,…" group:"Listeners" help:"Networks of the proxies in front of the REST listener whose X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-Port count, for the links of lists alone. From anywhere else they mean nothing. TEAMTOKEN_PUBLIC_URL goes before them."`

	TLSCertFile     string `name:"tls-cert-file" var:"TEAMTOKEN_TLS_CERT_FILE" placeholder:"FILE" group:"TLS" help:"Certificate chain of the gRPC and the REST listener, in PEM; without it both serve in the clear. It is read again when it changes."`
	TLSKeyFile      string `name:"tls-key-file" var:"TEAMTOKEN_TLS_KEY_FILE" placeholder:"FILE" group:"TLS" help:"Its key, in PEM. It is read again when it changes."`
	TLSClientCAFile string `name:"tls-client-ca-file" var:"TEAMTOKEN_TLS_CLIENT_CA_FILE" placeholder:"FILE" group:"TLS" help:"CAs that clients' certificates must come from, in PEM: mutual TLS. The caller is the certificate's SPIFFE id, or else its first DNS name. It is read again when it changes."`
	TLSClientAuth   string `name:"tls-client-auth" var:"TEAMTOKEN_TLS_CLIENT_AUTH" default:"require" of:"require,optional" group:"TLS" help:"With mutual TLS: 'require' a certificate of every client, or leave it 'optional', for callers who have another identity."`
	SPIFFESocket    string `name:"spiffe-socket" var:"TEAMTOKEN_SPIFFE_SOCKET" placeholder:"URL" group:"TLS" help:"SPIFFE Workload API, 'unix:///run/spire/agent.sock' for example, to have certificate, key and CAs from instead of the files above: mutual TLS, rotated by itself."`

	UpstreamRate  float64  `name:"upstream-rate" var:"TEAMTOKEN_UPSTREAM_RATE" default:"27" placeholder:"NUMBER" group:"Upstream" help:"Requests to the upstream in a second with one credential, of all replicas together; it is lower for as long as the upstream says that it takes less. HCP Terraform takes 30 of one user. 0 has no limit."`
	Organizations []string `name:"organizations" var:"TEAMTOKEN_ORGANIZATIONS" placeholder:"NAME,…" group:"Upstream" help:"Organizations of the teams, in whose lists a token with a description is looked for whose answer was lost. Without it, all that the credential can see are."`

	State             secret.Text   `kong:"-" var:"TEAMTOKEN_STATE" group:"State" help:"Where it is kept what the replicas have to agree on: 'memory', the default, for one replica; or 'redis://HOST:PORT', 'rediss://' for TLS, of Redis 7 or Valkey, with '?master_name=NAME' for Sentinel, '?cluster=true' for Cluster, and '&addr=HOST:PORT' for each further node. It may hold a user and a password, so that it is set by the environment only."`
	StateKeyFile      string        `name:"state-key-file" var:"TEAMTOKEN_STATE_KEY_FILE" placeholder:"FILE" group:"State" help:"Keys that seal what is kept in Redis: 'teamtoken-server state-key new FILE' makes them. All replicas have the same. It is read again when it changes."`
	StatePasswordFile string        `name:"state-password-file" var:"TEAMTOKEN_STATE_PASSWORD_FILE" placeholder:"FILE" group:"State" help:"Password for Redis, in place of one in TEAMTOKEN_STATE. It is read again when it changes."`
	StateCAFile       string        `name:"state-ca-file" var:"TEAMTOKEN_STATE_CA_FILE" placeholder:"FILE" group:"State" help:"CAs to trust for Redis instead of the system's, in PEM. It is read again when it changes."`
	StateTLSCertFile  string        `name:"state-tls-cert-file" var:"TEAMTOKEN_STATE_TLS_CERT_FILE" placeholder:"FILE" group:"State" help:"Client certificate chain for Redis, in PEM, which Redis asks for unless it has 'tls-auth-clients no'. It is read again when it changes."`
	StateTLSKeyFile   string        `name:"state-tls-key-file" var:"TEAMTOKEN_STATE_TLS_KEY_FILE" placeholder:"FILE" group:"State" help:"Its key, in PEM. It is read again when it changes."`
	StatePrefix       string        `name:"state-prefix" var:"TEAMTOKEN_STATE_PREFIX" default:"teamtoken" placeholder:"NAME" group:"State" help:"What the keys in Redis begin with: another one for each upstream."`
	UnknownHold       time.Duration `name:"unknown-hold" var:"TEAMTOKEN_UNKNOWN_HOLD" default:"30s" from:"100ms" to:"10m" group:"State" help:"How long a team is held back after a change whose outcome is unknown: longer than the upstream can take to carry out a request after its connection was lost. All replicas have the same."`

	UpstreamTimeout time.Duration `name:"upstream-timeout" var:"TEAMTOKEN_UPSTREAM_TIMEOUT" default:"30s" from:"1ms" to:"10m" group:"Time" help:"The longest that one request to the upstream may take, whatever the caller does."`
	RequestTimeout  time.Duration `name:"request-timeout" var:"TEAMTOKEN_REQUEST_TIMEOUT" default:"60s" from:"1ms" to:"10m" group:"Time" help:"Deadline of a call that brings none, and the cap of one that does."`

	ShutdownDelay time.Duration `name:"shutdown-delay" var:"TEAMTOKEN_SHUTDOWN_DELAY" default:"0s" from:"0s" to:"5m" group:"Time" help:"How long calls are still taken after SIGTERM, while the health checks say that no more are to come: as long as it takes who sends them to find out. In Kubernetes or behind a load balancer some seconds."`

	MaxConnections    int           `name:"max-connections" var:"TEAMTOKEN_MAX_CONNECTIONS" default:"1024" from:"1" to:"1000000" group:"Limits" help:"Connections of the gRPC and of the REST listener each. To make room for more, those without a call under way are closed: handshakes, then those on which no caller was identified, then the longest idle. Each takes up to 32 KiB of memory."`
	MaxStreams        int           `name:"max-streams" var:"TEAMTOKEN_MAX_STREAMS" default:"250" from:"1" to:"1000000" group:"Limits" help:"Calls that one connection may have under way."`
	MaxHeaderBytes    int           `name:"max-header-bytes" var:"TEAMTOKEN_MAX_HEADER_BYTES" default:"32768" from:"4096" to:"1048576" group:"Limits" help:"Headers of one call, as HTTP/2 counts them: 32 bytes more for each. A call with more is refused with RESOURCE_EXHAUSTED or 431, and its connection stays open."`
	MaxMessageBytes   int           `name:"max-message-bytes" var:"TEAMTOKEN_MAX_MESSAGE_BYTES" default:"65536" from:"1024" to:"1048576" group:"Limits" help:"One message over gRPC. A body over REST may have 65536 whatever this is."`
	HandshakeTimeout  time.Duration `name:"handshake-timeout" var:"TEAMTOKEN_HANDSHAKE_TIMEOUT" default:"5s" from:"1ms" to:"10m" group:"Limits" help:"From a gRPC connection to the end of its TLS and HTTP/2 handshakes."`
	ReadHeaderTimeout time.Duration `name:"read-header-timeout" var:"TEAMTOKEN_READ_HEADER_TIMEOUT" default:"5s" from:"1ms" to:"10m" group:"Limits" help:"The TLS handshake of a REST connection, and the headers of one request."`
	ReadTimeout       time.Duration `name:"read-timeout" var:"TEAMTOKEN_READ_TIMEOUT" default:"15s" from:"1ms" to:"10m" group:"Limits" help:"One REST request, its body included."`
	IdleTimeout       time.Duration `name:"idle-timeout" var:"TEAMTOKEN_IDLE_TIMEOUT" default:"2m" from:"1ms" to:"24h" group:"Limits" help:"How long a connection without a call is kept."`
	MaxConnectionAge  time.Duration `name:"max-connection-age" var:"TEAMTOKEN_MAX_CONNECTION_AGE" default:"30m" from:"1ms" to:"24h" group:"Limits" help:"When a client is asked to connect anew, so that it finds replicas that came since: over REST with the next answer. The calls under way may still take twice TEAMTOKEN_REQUEST_TIMEOUT. A health watch lasts no longer either."`
	MinPingInterval   time.Duration `name:"min-ping-interval" var:"TEAMTOKEN_MIN_PING_INTERVAL" default:"5s" from:"1ms" to:"1h" group:"Limits" help:"How often a gRPC client may send keep-alive pings, before it is cut off."`

	MaxTokenTTL     time.Duration `name:"max-token-ttl" var:"TEAMTOKEN_MAX_TOKEN_TTL" default:"0s" from:"0s" to:"876000h" group:"Tokens" help:"The longest life that a caller may ask for a token; asking for more is refused. 0s allows what the upstream does."`
	DefaultTokenTTL time.Duration `name:"default-token-ttl" var:"TEAMTOKEN_DEFAULT_TOKEN_TTL" default:"0s" from:"0s" to:"876000h" group:"Tokens" help:"The life of a token for which the caller says nothing. 0s leaves it to the longest one above, or else to the upstream: two years on HCP Terraform."`

	LogLevel  slog.Level `name:"log-level" var:"TEAMTOKEN_LOG_LEVEL" default:"info" placeholder:"LEVEL" group:"Logs" help:"debug, info, warn or error. No level logs a request or an answer."`
	LogFormat string     `name:"log-format" var:"TEAMTOKEN_LOG_FORMAT" default:"json" of:"json,text" group:"Logs" help:"json or text."`
}

// AnyCaller reports whether callers are not asked who they are, although the
// credential is the service's.
func (c *Config) AnyCaller() bool {
	return c.Credentials == ServiceCredentials && (c.InsecureAllowAnyCaller || c.Simulator)
}

// refusals are what is wrong with the settings, and what to do.
type refusals []error

func (r *refusals) when(wrong bool, format string, args ...any) {
	if wrong {
		*r = append(*r, fmt.Errorf(format, args...))
	}
}

// check returns one error that names every setting that is wrong and says
// what to do.
func (c *Config) check() error {
	var r refusals
	c.checkUpstream(&r)
	c.checkCredentials(&r)
	c.checkCallers(&r)
	c.checkState(&r)
	c.checkListeners(&r)
	c.checkTLS(&r)
	c.checkOrigins(&r)
	c.checkValues(&r)
	r.when(c.MaxTokenTTL > 0 && c.DefaultTokenTTL > c.MaxTokenTTL,
		"TEAMTOKEN_DEFAULT_TOKEN_TTL (--default-token-ttl) is %v, over TEAMTOKEN_MAX_TOKEN_TTL (--max-token-ttl), which is %v",
		c.DefaultTokenTTL, c.MaxTokenTTL)
	r.when(!slices.Contains(levels, c.LogLevel), "TEAMTOKEN_LOG_LEVEL (--log-level) is %v: it must be debug, info, warn or error", c.LogLevel)
	return errors.Join(r...)
}

// checkValues checks what the tags of each setting say of its values.
func (c *Config) checkValues(r *refusals) {
	for f, v := range reflect.ValueOf(c).Elem().Fields() {
		name := fmt.Sprintf("%s (--%s)", f.Tag.Get("var"), f.Tag.Get("name"))
		if of := f.Tag.Get("of"); of != "" {
			known, words := strings.Split(of, ","), strings.Split(strings.Trim(fmt.Sprint(v), "[]"), " ") // of one, or of a list
			for _, word := range words {
				r.when(!slices.Contains(known, word), "%s is %q: it must be of %s", name, word, strings.Join(known, ", "))
			}
		}
		var wrong bool
		from, to := f.Tag.Get("from"), f.Tag.Get("to")
		switch value := v.Interface().(type) {
		case int:
			wrong = to != "" && outside(value, from, to, strconv.Atoi)
		case time.Duration:
			wrong = to != "" && outside(value, from, to, time.ParseDuration)
		}
		r.when(wrong, "%s is %v: it must be from %s to %s", name, v, from, to)
	}
}

// outside reports whether a value is not within the bounds of a tag.
func outside[T cmp.Ordered](value T, from, to string, parse func(string) (T, error)) bool {
	least, err := parse(from)
	most, err2 := parse(to)
	return err != nil || err2 != nil || value < least || value > most
}

func (c *Config) checkUpstream(r *refusals) {
	r.when(!validUpstream(c.TFEAddress),
		// The value may hold a password, so it is not shown.
		"TFE_ADDRESS (--tfe-address) must be https://HOST or https://HOST:PORT and no more; http is for loopback hosts only")
	defaultAddress := field("TFEAddress").Tag.Get("default")
	for _, other := range []struct {
		name string
		set  bool
	}{
		{"TFE_ADDRESS", c.TFEAddress != defaultAddress},
		{"TFE_TOKEN", !c.TFEToken.IsZero()},
		{"TFE_TOKEN_FILE", c.TFETokenFile != ""},
		{"TFE_CA_FILE", c.TFECAFile != ""},
	} {
		r.when(c.Simulator && other.set,
			"--simulator (TEAMTOKEN_SIMULATOR) is an upstream of its own, and %[1]s is set too, maybe by your shell:"+
				" unset it (env -u %[1]s …), or do without the simulator", other.name)
	}
	r.when(c.Simulator && c.Credentials == CallerCredentials,
		"TEAMTOKEN_SIMULATOR (--simulator) has tokens that no caller knows: leave out TEAMTOKEN_CREDENTIALS (--credentials)")
}

// checkCredentials checks whose credential is used, and who may use it.
func (c *Config) checkCredentials(r *refusals) {
	own := c.Credentials == ServiceCredentials
	given := !c.TFEToken.IsZero() || c.TFETokenFile != ""
	r.when(!c.TFEToken.IsZero() && c.TFETokenFile != "",
		"TFE_TOKEN and TFE_TOKEN_FILE (--tfe-token-file) are both set: leave one out")
	r.when(own && !c.Simulator && !given,
		"no credential for the upstream: set TFE_TOKEN_FILE (--tfe-token-file) or TFE_TOKEN; or TEAMTOKEN_CREDENTIALS=caller"+
			" to have callers bring theirs; or --simulator to try things out without an upstream")
	r.when(c.Credentials == CallerCredentials && given && !c.Simulator,
		"TEAMTOKEN_CREDENTIALS (--credentials) is caller, so TFE_TOKEN and TFE_TOKEN_FILE (--tfe-token-file) would never be used: leave them out")
	r.when(own && !c.AnyCaller() && c.PolicyFile == "",
		"nothing says who may use the service's credential: set TEAMTOKEN_POLICY_FILE (--policy-file), see docs/policy.md;"+
			" or TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER=true (--insecure-allow-any-caller) to let whoever reaches the listeners;"+
			" or TEAMTOKEN_CREDENTIALS=caller (--credentials)")
	r.when(c.PolicyFile != "" && c.InsecureAllowAnyCaller,
		"TEAMTOKEN_POLICY_FILE (--policy-file) and TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER (--insecure-allow-any-caller) say opposite things: leave one out")
	r.when(c.PolicyFile != "" && !c.identifies(),
		"TEAMTOKEN_POLICY_FILE (--policy-file) needs to know who calls: set TEAMTOKEN_TLS_CLIENT_CA_FILE (--tls-client-ca-file),"+
			" TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket), TEAMTOKEN_JWT_ISSUER (--jwt-issuer) or TEAMTOKEN_MESH (--mesh)")
	r.when(!own && c.InsecureAllowAnyCaller,
		"TEAMTOKEN_CREDENTIALS (--credentials) is caller, so that TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER"+
			" (--insecure-allow-any-caller) would mean nothing: leave it out")
}

func (c *Config) checkListeners(r *refusals) {
	addresses := []struct{ name, value string }{
		{"TEAMTOKEN_GRPC_ADDRESS (--grpc-address)", c.GRPCAddress},
		{"TEAMTOKEN_HTTP_ADDRESS (--http-address)", c.HTTPAddress},
		{"TEAMTOKEN_ADMIN_ADDRESS (--admin-address)", c.AdminAddress},
	}
	for i, a := range addresses {
		r.when(!validListener(a.value), "%s is %q: it must be HOST:PORT or :PORT, with a port from 0 to 65535", a.name, a.value)
		for _, b := range addresses[:i] {
			r.when(clash(a.value, b.value), "%s and %s are both on port %s: give each its own", b.name, a.name, port(a.value))
		}
	}
}

func (c *Config) checkTLS(r *refusals) {
	r.when((c.TLSCertFile == "") != (c.TLSKeyFile == ""),
		"TEAMTOKEN_TLS_CERT_FILE (--tls-cert-file) and TEAMTOKEN_TLS_KEY_FILE (--tls-key-file) go together: set both or none")
	r.when(c.TLSClientCAFile != "" && c.TLSCertFile == "",
		"TEAMTOKEN_TLS_CLIENT_CA_FILE (--tls-client-ca-file) needs TEAMTOKEN_TLS_CERT_FILE and TEAMTOKEN_TLS_KEY_FILE")
	r.when(c.TLSClientAuth == "optional" && c.TLSClientCAFile == "" && c.SPIFFESocket == "",
		"TEAMTOKEN_TLS_CLIENT_AUTH (--tls-client-auth) needs TEAMTOKEN_TLS_CLIENT_CA_FILE (--tls-client-ca-file) or TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket)")
	r.when(c.SPIFFESocket != "" && (c.TLSCertFile != "" || c.TLSKeyFile != "" || c.TLSClientCAFile != ""),
		"TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket) brings certificate, key and CAs: leave out TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE and TEAMTOKEN_TLS_CLIENT_CA_FILE")
	r.when(c.SPIFFESocket != "" && !validSocket(c.SPIFFESocket),
		"TEAMTOKEN_SPIFFE_SOCKET (--spiffe-socket) is %q: it must be unix:///PATH, or tcp://IP:PORT of loopback", c.SPIFFESocket)
}

// levels are those that have a name; slog would take warn+1 too.
var levels = []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}

func validUpstream(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		(u.Path != "" && u.Path != "/") || (u.Port() != "" && !validPort(u.Port())) {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// validListener looks at the form alone: whether the host is one of this machine
// shows when it is listened on.
func validListener(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && validPort(port)
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// clash reports whether two listeners want one port of one interface.
func clash(a, b string) bool {
	host, _, _ := net.SplitHostPort(a)
	other, _, _ := net.SplitHostPort(b)
	return validListener(a) && port(a) == port(b) && port(a) != "0" && (host == other || everyHost(host) || everyHost(other))
}

func everyHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
