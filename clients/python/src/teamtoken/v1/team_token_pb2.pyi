import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TeamToken(_message.Message):
    __slots__ = ("id", "team_id", "description", "created_at", "last_used_at", "expired_at", "created_by")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    team_id: str
    description: str
    created_at: _timestamp_pb2.Timestamp
    last_used_at: _timestamp_pb2.Timestamp
    expired_at: _timestamp_pb2.Timestamp
    created_by: Creator
    def __init__(self, id: _Optional[str] = ..., team_id: _Optional[str] = ..., description: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_used_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expired_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[_Union[Creator, _Mapping]] = ...) -> None: ...

class Creator(_message.Message):
    __slots__ = ("id", "kind")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Creator.Kind]
        KIND_USER: _ClassVar[Creator.Kind]
        KIND_TEAM: _ClassVar[Creator.Kind]
        KIND_ORGANIZATION: _ClassVar[Creator.Kind]
    KIND_UNSPECIFIED: Creator.Kind
    KIND_USER: Creator.Kind
    KIND_TEAM: Creator.Kind
    KIND_ORGANIZATION: Creator.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: Creator.Kind
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[Creator.Kind, str]] = ...) -> None: ...
