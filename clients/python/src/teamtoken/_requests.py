"""What both clients send: requests, methods and channels."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ._secret import Secret
from .v1 import team_token_pb2
from .v1 import team_token_service_pb2 as v1

SERVICE = "teamtoken.v1.TeamTokenService"
TIMEOUT = 60.0

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class NewToken:
    """A token that was made."""

    token: team_token_pb2.TeamToken
    secret: Secret
    request_id: str
    """The same call under it is given the same answer, for ten minutes."""


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One of the service's methods."""

    name: str
    response: type[Response]
    changes: bool

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.name}"


GENERATE: Method[v1.GenerateTokenRequest, v1.GenerateTokenResponse] = Method("GenerateToken", v1.GenerateTokenResponse, True)
CREATE: Method[v1.CreateNamedTokenRequest, v1.CreateNamedTokenResponse] = Method("CreateNamedToken", v1.CreateNamedTokenResponse, True)
GET: Method[v1.GetTokenRequest, v1.GetTokenResponse] = Method("GetToken", v1.GetTokenResponse, False)
GET_BY_ID: Method[v1.GetTokenByIDRequest, v1.GetTokenByIDResponse] = Method("GetTokenByID", v1.GetTokenByIDResponse, False)
DELETE: Method[v1.DeleteTokenRequest, v1.DeleteTokenResponse] = Method("DeleteToken", v1.DeleteTokenResponse, True)
DELETE_BY_ID: Method[v1.DeleteTokenByIDRequest, v1.DeleteTokenByIDResponse] = Method("DeleteTokenByID", v1.DeleteTokenByIDResponse, True)
LIST: Method[v1.ListTokensRequest, v1.ListTokensResponse] = Method("ListTokens", v1.ListTokensResponse, False)

SERVICE_CONFIG = files("teamtoken").joinpath("service_config.json").read_text("utf-8")


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time for a message. One without a zone would be the machine's own: it is refused."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("expired_at needs a time zone, datetime.timezone.utc for example")
    made = Timestamp()
    made.FromDatetime(at.astimezone(timezone.utc).replace(tzinfo=None))
    return made


def generate(team_id: str, expired_at: datetime | None, request_id: str | None, expected_token_id: str | None) -> v1.GenerateTokenRequest:
    return v1.GenerateTokenRequest(
        team_id=team_id,
        expired_at=timestamp(expired_at),
        request_id=request_id or secrets.token_hex(16),
        expected_token_id=expected_token_id or "",
    )


def create(team_id: str, description: str, expired_at: datetime | None, request_id: str | None) -> v1.CreateNamedTokenRequest:
    return v1.CreateNamedTokenRequest(
        team_id=team_id, description=description, expired_at=timestamp(expired_at), request_id=request_id or secrets.token_hex(16)
    )


def page(organization: str, query: str, sort: str, expiry_status: Iterable[str], page_size: int) -> v1.ListTokensRequest:
    return v1.ListTokensRequest(
        organization=organization, query=query, sort=sort, expiry_status=list(expiry_status), page_size=page_size
    )


class _Bearer(grpc.AuthMetadataPlugin):
    def __init__(self, bearer: Callable[[], str]) -> None:
        self._bearer = bearer

    def __call__(self, context: Any, callback: Any) -> None:
        try:
            callback((("authorization", f"Bearer {self._bearer()}"),), None)
        except Exception as e:  # what the caller's own function fails with is the call's failure
            callback((), e)


def credentials(
    insecure: bool,
    ca: bytes | None,
    certificate: bytes | None,
    key: bytes | None,
    bearer: str | Callable[[], str] | None,
) -> Any:
    """What a channel is secured by; None in the clear."""
    if insecure:
        if ca or certificate or key or bearer:
            raise ValueError("insecure excludes certificates, and a bearer token, which would be sent in the clear")
        return None
    if (certificate is None) != (key is None):
        raise ValueError("certificate and key go together")
    made = grpc.ssl_channel_credentials(ca, key, certificate)
    if bearer is not None:
        source = bearer if callable(bearer) else lambda: bearer
        made = grpc.composite_channel_credentials(made, grpc.metadata_call_credentials(_Bearer(source)))
    return made


def options(more: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [("grpc.service_config", SERVICE_CONFIG), *more]
