/**
 * A client of teamtoken, the gRPC service for API tokens of HCP Terraform teams.
 *
 * @module
 */
export { type CallOptions, Client, type ClientOptions, type IssueOptions, type NewToken } from "./client.js";
export {
  AppliedUndeliveredError,
  NotAppliedError,
  type Outcome,
  OutcomeUnknownError,
  type Reason,
  TeamTokenError,
  type Violation,
} from "./error.js";
export { type Creator, Creator_Kind as CreatorKind, type TeamToken } from "./gen/teamtoken/v1/team_token_pb.js";
export * as messages from "./messages.js";
export { Secret } from "./secret.js";
