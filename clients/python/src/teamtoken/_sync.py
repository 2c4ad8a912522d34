"""The client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any

import grpc

from . import _requests as r
from ._errors import error_of
from ._requests import Method, NewToken, Request, Response
from ._secret import Secret
from .v1 import team_token_service_pb2 as v1
from .v1.team_token_pb2 import TeamToken


class Client:
    """Calls the service. It is safe for several threads.

    Args:
        address: HOST:PORT, or another target that gRPC knows.
        insecure: connect in the clear: to a mesh's proxy, or to try things out.
        ca: CAs to trust for the service instead of the system's, in PEM.
        certificate, key: who calls, in PEM: mutual TLS.
        bearer: what says who calls as a bearer token, a JWT for example, or a function that returns it, which is asked for each call.
        timeout: seconds that a call may take that says nothing else.
        options: more of gRPC's channel options.
    """

    def __init__(
        self,
        address: str,
        *,
        insecure: bool = False,
        ca: bytes | None = None,
        certificate: bytes | None = None,
        key: bytes | None = None,
        bearer: str | Callable[[], str] | None = None,
        timeout: float = r.TIMEOUT,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        secured = r.credentials(insecure, ca, certificate, key, bearer)
        made = r.options(options)
        self._channel = grpc.insecure_channel(address, made) if secured is None else grpc.secure_channel(address, secured, made)
        self._timeout = timeout

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, method: Method[Request, Response], request: Request, timeout: float | None) -> Response:
        call = self._channel.unary_unary(
            method.path, request_serializer=type(request).SerializeToString, response_deserializer=method.response.FromString
        )
        try:
            response: Response = call(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as e:
            raise error_of(e.code(), e.details(), e.trailing_metadata(), method.changes) from None
        return response

    def generate_token(
        self,
        team_id: str,
        *,
        expired_at: datetime | None = None,
        request_id: str | None = None,
        expected_token_id: str | None = None,
        timeout: float | None = None,
    ) -> NewToken:
        """Make the team's token, which revokes the one before.

        Give a request_id of your own, and the same for a retry, if you want to be able to call again after an error: the
        same call is carried out once. Without, there is a fresh one, for the retries that gRPC makes by itself.
        """
        request = r.generate(team_id, expired_at, request_id, expected_token_id)
        response = self._call(r.GENERATE, request, timeout)
        return NewToken(response.team_token, Secret(response.secret), request.request_id)

    def create_named_token(
        self,
        team_id: str,
        description: str,
        *,
        expired_at: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> NewToken:
        """Make one more token of the team, with a description that no other of its tokens has."""
        request = r.create(team_id, description, expired_at, request_id)
        response = self._call(r.CREATE, request, timeout)
        return NewToken(response.team_token, Secret(response.secret), request.request_id)

    def get_token(self, team_id: str, *, timeout: float | None = None) -> TeamToken:
        """Describe the team's token."""
        return self._call(r.GET, v1.GetTokenRequest(team_id=team_id), timeout).team_token

    def get_token_by_id(self, token_id: str, *, timeout: float | None = None) -> TeamToken:
        """Describe a token of a team."""
        return self._call(r.GET_BY_ID, v1.GetTokenByIDRequest(token_id=token_id), timeout).team_token

    def delete_token(
        self, team_id: str, *, expected_token_id: str | None = None, allow_missing: bool = False, timeout: float | None = None
    ) -> None:
        """Revoke the team's token."""
        request = v1.DeleteTokenRequest(team_id=team_id, expected_token_id=expected_token_id or "", allow_missing=allow_missing)
        self._call(r.DELETE, request, timeout)

    def delete_token_by_id(self, token_id: str, *, timeout: float | None = None) -> None:
        """Revoke a token of a team."""
        self._call(r.DELETE_BY_ID, v1.DeleteTokenByIDRequest(token_id=token_id), timeout)

    def list_tokens(
        self,
        organization: str,
        *,
        query: str = "",
        sort: str = "",
        expiry_status: Iterable[str] = (),
        page_size: int = 100,
        timeout: float | None = None,
    ) -> Iterator[TeamToken]:
        """Describe the tokens of an organization's teams, page after page. The time-out is that of one page."""
        request = r.page(organization, query, sort, expiry_status, page_size)
        while True:
            response = self._call(r.LIST, request, timeout)
            yield from response.team_tokens
            request.page_token = response.next_page_token
            if not request.page_token:
                return
