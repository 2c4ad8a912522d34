import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { type ServiceError, status } from "@grpc/grpc-js";

import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import { ErrorReason } from "./gen/teamtoken/v1/error_reason_pb.js";

/** Why a call failed, as the contract names it. */
export type Reason = keyof typeof ErrorReason;

/** What a failure means for what a call was to change; empty of a call that only reads. */
export type Outcome = "" | "not_applied" | "applied_undelivered" | "unknown";

const outcomes: readonly string[] = ["not_applied", "applied_undelivered", "unknown"] satisfies Outcome[];

/** A field of a request that is wrong, and how. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

/** A call that failed. It holds no secret. */
export class TeamTokenError extends Error {
  override readonly name: string = "TeamTokenError";
  /** The status code of gRPC, by its name: `UNAVAILABLE`. */
  readonly code: string;
  /** `UNSPECIFIED` if the service did not say it, or this version does not know it: see reasonName. */
  readonly reason: Reason;
  readonly reasonName: string;
  readonly outcome: Outcome;
  /** How many milliseconds to wait before another call, if the service said it. */
  readonly retryAfter: number | undefined;
  /** The `x-request-id` of the call, by which it is found in the service's logs: not the request id of a request. */
  readonly xRequestId: string;
  readonly violations: readonly Violation[];

  constructor(details: Details) {
    const words = [details.code, details.reasonName, details.outcome, details.xRequestId].filter((word) => word !== "");
    const fields = details.violations.map((v) => ` ${v.field}: ${v.description}.`).join("");
    super(`${details.message}${fields} [${words.join(" ")}]`);
    this.code = details.code;
    this.reasonName = details.reasonName;
    this.reason = details.reasonName in ErrorReason ? (details.reasonName as Reason) : "UNSPECIFIED";
    this.outcome = details.outcome;
    this.retryAfter = details.retryAfter;
    this.xRequestId = details.xRequestId;
    this.violations = details.violations;
  }
}

/** A change that failed, and changed nothing, for certain. */
export class NotAppliedError extends TeamTokenError {
  override readonly name = "NotAppliedError";
}

/** A change that was carried out, and whose result can't be had. */
export class AppliedUndeliveredError extends TeamTokenError {
  override readonly name = "AppliedUndeliveredError";
}

/**
 * A change of which nobody can tell yet whether it was carried out. The same call, under the same requestId, is told
 * when it is known. An error that the service did not answer is one of these.
 */
export class OutcomeUnknownError extends TeamTokenError {
  override readonly name = "OutcomeUnknownError";
}

interface Details {
  code: string;
  message: string;
  reasonName: string;
  outcome: Outcome;
  retryAfter: number | undefined;
  xRequestId: string;
  violations: Violation[];
}

/** The error of a call. */
export function errorOf(e: ServiceError, changes: boolean): TeamTokenError {
  const details: Details = {
    code: status[e.code],
    message: e.details,
    reasonName: "",
    outcome: "",
    retryAfter: undefined,
    xRequestId: "",
    violations: [],
  };
  for (const value of e.metadata.get("grpc-status-details-bin")) {
    for (const any of fromBinary(StatusSchema, value as Buffer).details) {
      const info = anyUnpack(any, ErrorInfoSchema);
      if (info !== undefined) {
        const outcome = info.metadata["outcome"] ?? "";
        details.reasonName = info.reason;
        details.outcome = outcome === "" ? "" : outcomes.includes(outcome) ? (outcome as Outcome) : "unknown";
      }
      const delay = anyUnpack(any, RetryInfoSchema)?.retryDelay;
      if (delay !== undefined) {
        details.retryAfter = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
      }
      details.xRequestId = anyUnpack(any, RequestInfoSchema)?.requestId ?? details.xRequestId;
      details.violations =
        anyUnpack(any, BadRequestSchema)?.fieldViolations.map(({ field, description }) => ({ field, description })) ?? details.violations;
    }
  }
  if (changes && details.outcome === "") {
    details.outcome = "unknown";
  }
  switch (details.outcome) {
    case "not_applied":
      return new NotAppliedError(details);
    case "applied_undelivered":
      return new AppliedUndeliveredError(details);
    case "unknown":
      return new OutcomeUnknownError(details);
    default:
      return new TeamTokenError(details);
  }
}
