using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using Teamtoken.V1;

var team = Environment.GetEnvironmentVariable("TEAM")!;
using var channel = GrpcChannel.ForAddress(args[0]);
var tokens = new TeamTokenService.TeamTokenServiceClient(channel);
DateTime Deadline() => DateTime.UtcNow.AddMinutes(1);

var request = new GenerateTokenRequest { TeamId = team, RequestId = Guid.NewGuid().ToString() };
var made = await tokens.GenerateTokenAsync(request, deadline: Deadline());
var again = await tokens.GenerateTokenAsync(request, deadline: Deadline());
Console.WriteLine($"made {made.TeamToken.Id}, and again the same: {(made.Secret == again.Secret ? "true" : "false")}");
await tokens.DeleteTokenAsync(new DeleteTokenRequest { TeamId = team, ExpectedTokenId = made.TeamToken.Id }, deadline: Deadline());
try
{
    await tokens.DeleteTokenAsync(new DeleteTokenRequest { TeamId = team }, deadline: Deadline());
}
catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
{
    var info = e.GetRpcStatus()?.GetDetail<ErrorInfo>();
    Console.WriteLine($"then: {info?.Reason} {info?.Metadata["outcome"]}");
}
