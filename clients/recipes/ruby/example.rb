# frozen_string_literal: true

require "grpc"
require "google/protobuf/well_known_types"
require "google/rpc/status_pb"
require "google/rpc/error_details_pb"
require "securerandom"
require "teamtoken/v1/team_token_service_services_pb"

# What the service says of an error: its reason and outcome.
def told(error)
  status = error.to_rpc_status
  detail = status&.details&.find { |any| any.is(Google::Rpc::ErrorInfo) }
  info = detail&.unpack(Google::Rpc::ErrorInfo)
  [info&.reason, info && info.metadata["outcome"]]
end

team = ENV.fetch("TEAM")
tokens = Teamtoken::V1::TeamTokenService::Stub.new(ARGV.fetch(0), :this_channel_is_insecure, timeout: 60)
request = Teamtoken::V1::GenerateTokenRequest.new(team_id: team, request_id: SecureRandom.uuid)
made = tokens.generate_token(request)
again = tokens.generate_token(request)
puts "made #{made.team_token.id}, and again the same: #{again.secret == made.secret}"
tokens.delete_token(Teamtoken::V1::DeleteTokenRequest.new(team_id: team, expected_token_id: made.team_token.id))
begin
  tokens.delete_token(Teamtoken::V1::DeleteTokenRequest.new(team_id: team))
rescue GRPC::NotFound => e
  puts "then: #{told(e).join(" ")}"
end
