/** The contract's own messages, for what the client does not do. */
export * from "./gen/teamtoken/v1/error_reason_pb.js";
export * from "./gen/teamtoken/v1/team_token_pb.js";
export * from "./gen/teamtoken/v1/team_token_service_pb.js";
