#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

#include "teamtoken/v1/team_token_service.grpc.pb.h"

namespace v1 = teamtoken::v1;

// A context of one call, which has a deadline.
static void prepare(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
}

static std::string fresh() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; i++) id += std::to_string(random());
  return id;
}

int main(int argc, char** argv) {
  if (argc != 2 || std::getenv("TEAM") == nullptr) return 2;
  auto tokens = v1::TeamTokenService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  v1::GenerateTokenRequest request;
  request.set_team_id(std::getenv("TEAM"));
  request.set_request_id(fresh());
  v1::GenerateTokenResponse made, again;
  for (auto* response : {&made, &again}) {
    grpc::ClientContext context;
    prepare(context);
    if (auto status = tokens->GenerateToken(&context, request, response); !status.ok()) {
      std::cerr << status.error_message() << "\n";
      return 1;
    }
  }
  std::cout << "made " << made.team_token().id() << ", and again the same: " << (made.secret() == again.secret() ? "true" : "false") << "\n";

  v1::DeleteTokenRequest gone;
  gone.set_team_id(request.team_id());
  gone.set_expected_token_id(made.team_token().id());
  v1::DeleteTokenResponse nothing;
  grpc::ClientContext first, second;
  prepare(first);
  prepare(second);
  if (auto status = tokens->DeleteToken(&first, gone, &nothing); !status.ok()) return 1;
  gone.clear_expected_token_id();
  auto status = tokens->DeleteToken(&second, gone, &nothing);
  // The details are a google.rpc.Status, which gRPC hands over as it came: whoever has
  // its proto reads the reason there, and a search will do.
  bool known = status.error_details().find("TEAM_NOT_FOUND_OR_FORBIDDEN") != std::string::npos;
  std::cout << "then: " << (known ? "TEAM_NOT_FOUND_OR_FORBIDDEN not_applied" : "something else") << "\n";
  return status.error_code() == grpc::StatusCode::NOT_FOUND ? 0 : 1;
}
