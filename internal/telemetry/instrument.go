package telemetry

// Kind is how an instrument counts.
type Kind string

// The kinds of instruments.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Instrument is one metric: its name as OpenTelemetry has it, its unit, its labels
// and what it tells. docs/observability.md is made of these.
type Instrument struct {
	Name   string
	Kind   Kind
	Unit   string
	Labels []string
	Help   string
}

// Labels, of OpenTelemetry's semantic conventions and our own.
const (
	labelSystem     = "rpc.system.name"
	labelMethod     = "rpc.method"
	labelCode       = "rpc.response.status_code"
	labelError      = "error.type"
	labelHTTPMethod = "http.request.method"
	labelHTTPStatus = "http.response.status_code"
	labelTemplate   = "url.template"
	labelAddress    = "server.address"
	labelPort       = "server.port"
	labelDBSystem   = "db.system.name"
	labelDBStep     = "db.stored_procedure.name"
	labelReason     = "reason"
	labelOutcome    = "outcome"
	labelKind       = "kind"
	labelSetting    = "setting"
	labelResult     = "result"
)

// The instruments: those of OpenTelemetry's semantic conventions first, then what
// only this service can tell.
var (
	rpcDuration = Instrument{
		"rpc.server.call.duration", Histogram, "s",
		[]string{labelSystem, labelMethod, labelCode, labelError},
		"Duration of calls, over gRPC and REST, by method and gRPC status code.",
	}
	httpDuration = Instrument{
		"http.client.request.duration", Histogram, "s",
		[]string{labelHTTPMethod, labelTemplate, labelHTTPStatus, labelError, labelAddress, labelPort},
		"Duration of requests to the upstream, by what they asked for, its status, and what kind of failure it was.",
	}
	storeDuration = Instrument{
		"db.client.operation.duration", Histogram, "s",
		[]string{labelDBSystem, labelDBStep, labelError},
		"Duration of steps in the state store, if that is Redis.",
	}
	failures = Instrument{
		"teamtoken.failures", Counter, "{call}",
		[]string{labelMethod, labelReason, labelOutcome},
		"Calls that failed, by the reason and the outcome that the caller was told; a read has no outcome.",
	}
	replays = Instrument{
		"teamtoken.replays", Counter, "{call}",
		[]string{labelKind},
		"Calls with a request_id that found its record: `answered` from it, `joined` to a call under way, or told that the token is `superseded`, the answer `expired`, or how the first call `failed`.",
	}
	redrives = Instrument{
		"teamtoken.redrives", Counter, "{request}",
		[]string{labelKind},
		"Requests that were sent once more for the same call, by the method that they are of, since an answer was lost.",
	}
	settled = Instrument{
		"teamtoken.settled", Counter, "{change}",
		[]string{labelOutcome},
		"Changes whose outcome was unknown at first, by what is known now.",
	}
	teamsHeld = Instrument{
		"teamtoken.teams.held", Gauge, "{team}", nil,
		"Teams that are held back, since the outcome of a change is unknown: of all replicas.",
	}
	replicas = Instrument{
		"teamtoken.replicas", Gauge, "{replica}", nil,
		"Replicas that share the state, as this one sees it; 1 without shared state.",
	}
	budgetRate = Instrument{
		"teamtoken.upstream.rate", Gauge, "{request}/s", nil,
		"Requests to the upstream that all replicas together may make in a second with the service's credential, or with each of the callers'; 0 is no limit.",
	}
	budgetWait = Instrument{
		"teamtoken.upstream.wait.duration", Histogram, "s",
		[]string{labelKind},
		"How long requests to the upstream waited for room in that rate, a `change` or a `read`.",
	}
	budgetQueue = Instrument{
		"teamtoken.upstream.waiting", Gauge, "{request}", nil,
		"Requests of this replica that wait for room in that rate.",
	}
	paused = Instrument{
		"teamtoken.upstream.pause", Gauge, "s", nil,
		"For how long the upstream wants no more requests with a credential that it accepts, by its last 429.",
	}
	circuitOpen = Instrument{
		"teamtoken.upstream.circuit.open", Gauge, "{circuit}", nil,
		"1 while the upstream is not asked, since it could not be reached several times in a row.",
	}
	stateWorking = Instrument{
		"teamtoken.state.working", Gauge, "{store}", nil,
		"1 while the state store answers; while it does not, changes are refused.",
	}
	stateRejected = Instrument{
		"teamtoken.state.rejected", Counter, "{value}",
		[]string{labelKind},
		"Values in the state store that were rejected, since they were not sealed by this service for that place or were put back later: a `change`, a team's `known` token, a request's `record` or its `answer`. Somebody else writes there, or replicas have different keys.",
	}
	auditWorking = Instrument{
		"teamtoken.audit.working", Gauge, "{log}", nil,
		"1 while the audit log can be written; while it can't, calls are refused.",
	}
	auditLost = Instrument{
		"teamtoken.audit.diverted", Counter, "{line}", nil,
		"Lines of the audit log that went to standard error, since they could not be written.",
	}
	auditCounted = Instrument{
		"teamtoken.audit.counted", Counter, "{call}", nil,
		"Refused calls that the audit log counted together, since they came too fast for a line each.",
	}
	reloads = Instrument{
		"teamtoken.reloads", Counter, "{change}",
		[]string{labelSetting, labelResult},
		"Changed files of settings, the policy and the secrets among them: `ok`, or `failed`, which leaves the last good one in use.",
	}
	fileAge = Instrument{
		"teamtoken.file.age", Gauge, "s",
		[]string{labelSetting},
		"Since when a file of settings, a credential or a certificate for example, is what it is.",
	}
	certificateLeft = Instrument{
		"teamtoken.certificate.remaining", Gauge, "s",
		[]string{labelSetting},
		"For how long the certificate in use is still valid; below 0 it is over.",
	}
	connectionsRefused = Instrument{
		"teamtoken.connections.refused", Counter, "{connection}", nil,
		"Connections that were closed because there were too many.",
	}
)

// Instruments are all that this package makes. Go's runtime has more, and so has
// the process.
var Instruments = []Instrument{
	rpcDuration, httpDuration, storeDuration, failures, replays, redrives, settled, teamsHeld, replicas, budgetRate, budgetWait,
	budgetQueue, paused, circuitOpen, stateWorking, stateRejected, auditWorking, auditLost, auditCounted, reloads, fileAge, certificateLeft, connectionsRefused,
}
