"""What a call can fail with."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from .v1 import error_reason_pb2

DETAILS = "grpc-status-details-bin"

Reason = enum.Enum(  # type: ignore[misc]  # its members are those of the contract
    "Reason",
    {name.removeprefix("ERROR_REASON_"): name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()},
    module=__name__,
)
Reason.__doc__ = "Why a call failed, as the contract names it. UNSPECIFIED if the service did not say it, or this version does not know it."


class Outcome(enum.Enum):
    """What a failure means for what a call was to change."""

    NONE = ""
    """The call only reads."""
    NOT_APPLIED = "not_applied"
    """Nothing was changed, for certain."""
    APPLIED_UNDELIVERED = "applied_undelivered"
    """It was carried out, and its result can't be had."""
    UNKNOWN = "unknown"
    """Nobody can tell yet."""


@dataclass(frozen=True)
class Violation:
    """A field of a request that is wrong, and how."""

    field: str
    description: str


class Error(Exception):
    """A call that failed. It holds no secret."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason_name: str = "",
        outcome: Outcome = Outcome.NONE,
        retry_after: timedelta | None = None,
        x_request_id: str = "",
        violations: tuple[Violation, ...] = (),
    ) -> None:
        self.code = code
        self.message = message
        self.reason_name = reason_name
        self.reason = Reason.__members__.get(reason_name, Reason["UNSPECIFIED"])
        self.outcome = outcome
        self.retry_after = retry_after
        """How long to wait before another call, if the service said it."""
        self.x_request_id = x_request_id
        """The `x-request-id` of the call, by which it is found in the service's logs: not the request id of a request."""
        self.violations = violations
        words = [code.name, *filter(None, (reason_name, outcome.value, x_request_id))]
        fields = "".join(f" {v.field}: {v.description}." for v in violations)
        super().__init__(f"{message}{fields} [{' '.join(words)}]")


class NotApplied(Error):
    """A change that failed, and changed nothing, for certain."""


class AppliedUndelivered(Error):
    """A change that was carried out, and whose result can't be had."""


class OutcomeUnknown(Error):
    """A change of which nobody can tell yet whether it was carried out. The same call, under the same
    request_id, is told when it is known. An error that the service did not answer is one of these."""


_TYPES = {
    Outcome.NONE: Error,
    Outcome.NOT_APPLIED: NotApplied,
    Outcome.APPLIED_UNDELIVERED: AppliedUndelivered,
    Outcome.UNKNOWN: OutcomeUnknown,
}


def error_of(code: grpc.StatusCode, message: str | None, trailers: Any, changes: bool) -> Error:
    """The error of a call, by its status and trailing metadata."""
    reason, outcome, x_request_id = "", Outcome.NONE, ""
    retry_after: timedelta | None = None
    violations: tuple[Violation, ...] = ()
    for key, value in trailers or ():
        if key != DETAILS or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, retry, bad, request = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.RetryInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RequestInfo(),
            )
            if detail.Unpack(info):
                reason = info.reason
                known = info.metadata.get("outcome", "")
                outcome = Outcome(known) if known in Outcome._value2member_map_ else Outcome.UNKNOWN
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
            elif detail.Unpack(bad):
                violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
            elif detail.Unpack(request):
                x_request_id = request.request_id
    if changes and outcome is Outcome.NONE:
        outcome = Outcome.UNKNOWN
    return _TYPES[outcome](
        code, message or "", reason_name=reason, outcome=outcome, retry_after=retry_after, x_request_id=x_request_id, violations=violations
    )
