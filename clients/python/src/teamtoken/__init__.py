"""A client of teamtoken, the gRPC service for API tokens of HCP Terraform teams.

    from teamtoken import Client

    with Client("teamtoken.internal:9090") as tokens:
        made = tokens.generate_token("team-BUHBEM97xboT8TVz")
        use(made.secret.reveal())

`teamtoken.aio.Client` is the same for asyncio.
"""

from ._errors import AppliedUndelivered, Error, NotApplied, Outcome, OutcomeUnknown, Reason, Violation
from ._requests import NewToken
from ._secret import Secret
from ._sync import Client
from .v1.team_token_pb2 import Creator, TeamToken

__all__ = [
    "AppliedUndelivered",
    "Client",
    "Creator",
    "Error",
    "NewToken",
    "NotApplied",
    "Outcome",
    "OutcomeUnknown",
    "Reason",
    "Secret",
    "TeamToken",
    "Violation",
]
