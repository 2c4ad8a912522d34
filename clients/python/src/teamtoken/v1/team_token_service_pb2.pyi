import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from teamtoken.v1 import team_token_pb2 as _team_token_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateTokenRequest(_message.Message):
    __slots__ = ("team_id", "expired_at", "request_id", "expected_token_id")
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    team_id: str
    expired_at: _timestamp_pb2.Timestamp
    request_id: str
    expected_token_id: str
    def __init__(self, team_id: _Optional[str] = ..., expired_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., expected_token_id: _Optional[str] = ...) -> None: ...

class GenerateTokenResponse(_message.Message):
    __slots__ = ("team_token", "secret")
    TEAM_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    team_token: _team_token_pb2.TeamToken
    secret: str
    def __init__(self, team_token: _Optional[_Union[_team_token_pb2.TeamToken, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class DeleteTokenRequest(_message.Message):
    __slots__ = ("team_id", "expected_token_id", "allow_missing")
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    team_id: str
    expected_token_id: str
    allow_missing: bool
    def __init__(self, team_id: _Optional[str] = ..., expected_token_id: _Optional[str] = ..., allow_missing: bool = ...) -> None: ...

class DeleteTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenRequest(_message.Message):
    __slots__ = ("team_id",)
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    team_id: str
    def __init__(self, team_id: _Optional[str] = ...) -> None: ...

class GetTokenResponse(_message.Message):
    __slots__ = ("team_token",)
    TEAM_TOKEN_FIELD_NUMBER: _ClassVar[int]
    team_token: _team_token_pb2.TeamToken
    def __init__(self, team_token: _Optional[_Union[_team_token_pb2.TeamToken, _Mapping]] = ...) -> None: ...

class CreateNamedTokenRequest(_message.Message):
    __slots__ = ("team_id", "description", "expired_at", "request_id")
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    team_id: str
    description: str
    expired_at: _timestamp_pb2.Timestamp
    request_id: str
    def __init__(self, team_id: _Optional[str] = ..., description: _Optional[str] = ..., expired_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateNamedTokenResponse(_message.Message):
    __slots__ = ("team_token", "secret")
    TEAM_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    team_token: _team_token_pb2.TeamToken
    secret: str
    def __init__(self, team_token: _Optional[_Union[_team_token_pb2.TeamToken, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class GetTokenByIDRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class GetTokenByIDResponse(_message.Message):
    __slots__ = ("team_token",)
    TEAM_TOKEN_FIELD_NUMBER: _ClassVar[int]
    team_token: _team_token_pb2.TeamToken
    def __init__(self, team_token: _Optional[_Union[_team_token_pb2.TeamToken, _Mapping]] = ...) -> None: ...

class DeleteTokenByIDRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class DeleteTokenByIDResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ("organization", "query", "sort", "expiry_status", "page_size", "page_token")
    ORGANIZATION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_STATUS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    organization: str
    query: str
    sort: str
    expiry_status: _containers.RepeatedScalarFieldContainer[str]
    page_size: int
    page_token: str
    def __init__(self, organization: _Optional[str] = ..., query: _Optional[str] = ..., sort: _Optional[str] = ..., expiry_status: _Optional[_Iterable[str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("team_tokens", "next_page_token", "total_size")
    TEAM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    team_tokens: _containers.RepeatedCompositeFieldContainer[_team_token_pb2.TeamToken]
    next_page_token: str
    total_size: int
    def __init__(self, team_tokens: _Optional[_Iterable[_Union[_team_token_pb2.TeamToken, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...
