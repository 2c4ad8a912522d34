export const serviceConfig = {
  "methodConfig": [
    {
      "name": [
        { "service": "teamtoken.v1.TeamTokenService", "method": "GenerateToken" },
        { "service": "teamtoken.v1.TeamTokenService", "method": "CreateNamedToken" },
        { "service": "teamtoken.v1.TeamTokenService", "method": "GetToken" },
        { "service": "teamtoken.v1.TeamTokenService", "method": "GetTokenByID" },
        { "service": "teamtoken.v1.TeamTokenService", "method": "DeleteTokenByID" },
        { "service": "teamtoken.v1.TeamTokenService", "method": "ListTokens" }
      ],
      "retryPolicy": {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
      }
    }
  ]
}
