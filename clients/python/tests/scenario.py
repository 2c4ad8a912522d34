"""What a caller does, against a real server that the environment describes."""

from __future__ import annotations

import base64
import json
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

import teamtoken
from teamtoken import AppliedUndelivered, Client, Error, NotApplied, Outcome, OutcomeUnknown, Reason, Secret
from teamtoken.v1 import team_token_pb2, team_token_service_pb2

ENV = os.environ
TEAM = ENV["TEAM"]


def read(name: str) -> bytes:
    return Path(ENV[name]).read_bytes()


def secured(**more: Any) -> Client:
    return Client(ENV["SECURED"], ca=read("CA"), certificate=read("CERT"), key=read("KEY"), **more)


def control(path: str) -> None:
    urllib.request.urlopen(ENV["CONTROL"] + path).close()


def works(secret: Secret) -> bool:
    """Whether the upstream knows the secret."""
    request = urllib.request.Request(
        ENV["UPSTREAM"] + "/api/v2/organizations/" + ENV["ORGANIZATION"], headers={"Authorization": "Bearer " + secret.reveal()}
    )
    try:
        urllib.request.urlopen(request).close()
    except urllib.error.HTTPError as e:
        assert e.code in (401, 404), e.code
        return False
    return True


def fails(call: Callable[[], object]) -> Error:
    try:
        call()
    except Error as e:
        return e
    raise AssertionError("it did not fail")


def tokens_come_and_go() -> None:
    with secured() as tokens:
        first = tokens.generate_token(TEAM, expired_at=datetime.now(timezone.utc) + timedelta(days=1))
        assert works(first.secret) and first.token.team_id == TEAM and first.token.id
        second = tokens.generate_token(TEAM, expected_token_id=first.token.id)
        assert works(second.secret) and not works(first.secret)
        assert tokens.get_token(TEAM).id == second.token.id
        named = tokens.create_named_token(TEAM, "for <CI> ☃")
        assert works(named.secret) and named.token.description == "for <CI> ☃"
        assert tokens.get_token_by_id(named.token.id).description == named.token.description
        tokens.delete_token_by_id(named.token.id)
        assert not works(named.secret)
        tokens.delete_token(TEAM, expected_token_id=second.token.id)
        assert not works(second.secret)
        tokens.delete_token(TEAM, allow_missing=True)
        gone = fails(lambda: tokens.get_token(TEAM))
        assert gone.reason is Reason["TEAM_NOT_FOUND_OR_FORBIDDEN"] and gone.outcome is Outcome.NONE and gone.x_request_id


def lists() -> None:
    with secured() as tokens:
        ids = {tokens.generate_token(team).token.id for team in ENV["TEAMS"].split(",")}
        listed = [token.id for token in tokens.list_tokens(ENV["ORGANIZATION"], page_size=20)]  # three pages
        assert len(listed) == 45 and set(listed) == ids, len(listed)
        assert sum(1 for _ in tokens.list_tokens(ENV["ORGANIZATION"], query="no such team")) == 0


def replays() -> None:
    with Client(ENV["LOSSY"], insecure=True) as tokens:
        tokens.get_token(ENV["TEAMS"].split(",")[1])  # so that there is a connection
        control("/lose")
        made = tokens.generate_token(TEAM)  # gRPC sends it again, and is given the first answer
        assert works(made.secret) and tokens.get_token(TEAM).id == made.token.id
        again = tokens.generate_token(TEAM, request_id=made.request_id)
        assert again.secret == made.secret and again.token == made.token
    with Client(ENV["CLEAR"], insecure=True) as tokens:
        control("/slow")
        late = fails(lambda: tokens.generate_token(TEAM, request_id="late", timeout=0.5))
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED and isinstance(late, OutcomeUnknown), late
        made = tokens.generate_token(TEAM, request_id="late")
        assert works(made.secret)


def errors() -> None:
    types = {"not_applied": NotApplied, "applied_undelivered": AppliedUndelivered, "unknown": OutcomeUnknown, "": OutcomeUnknown}
    with Client(ENV["REASONS"], insecure=True, options=[("grpc.enable_retries", 0)]) as tokens:
        for name in ENV["REASON_NAMES"].split(","):
            for outcome, kind in types.items():
                e = fails(lambda: tokens.generate_token(outcome, request_id=name))
                assert e.reason is Reason[name] and type(e) is kind and e.outcome.value == (outcome or "unknown"), (name, outcome, e)
                assert e.retry_after == timedelta(seconds=1.5) and e.violations[0].field == "team_id", e
    with Client(ENV["SECURED"], ca=read("CA"), certificate=read("STRANGER_CERT"), key=read("STRANGER_KEY")) as tokens:
        e = fails(lambda: tokens.generate_token(TEAM))
        assert e.reason is Reason["CALLER_NOT_ALLOWED"] and isinstance(e, NotApplied)
    with secured() as tokens:
        e = fails(lambda: tokens.generate_token("team-x"))
        assert e.reason is Reason["INVALID_FIELD"] and e.violations[0].field == "team_id" and "team_id" in str(e)
    with Client("127.0.0.1:1", insecure=True) as tokens:
        e = fails(lambda: tokens.generate_token(TEAM))
        assert e.reason is Reason["UNSPECIFIED"] and isinstance(e, OutcomeUnknown)
    for wrong in ({"insecure": True, "bearer": "x"}, {"certificate": b"x"}):
        try:
            Client("x", **wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)


def secrets_hide() -> None:
    s = Secret("hunter2")
    for text in (str(s), repr(s), f"{s}", f"{s!r:>10}", f"{[s]}", "%s" % s, str(teamtoken.NewToken(team_token_pb2.TeamToken(), s, "r"))):
        assert "hunter2" not in text and "[secret]" in text, text
    assert s == Secret("hunter2") and s != Secret("x") and s.reveal() == "hunter2"
    for leak in (lambda: pickle.dumps(s), lambda: json.dumps(s)):
        try:
            leak()
        except TypeError:
            continue
        raise AssertionError("it was written down")


def golden() -> None:
    for g in json.loads(read("GOLDEN")):
        made = getattr(team_token_pb2, g["Type"], None) or getattr(team_token_service_pb2, g["Type"])
        binary = base64.b64decode(g["Binary"])
        message = made.FromString(binary)
        assert json_format.MessageToDict(message) == g["JSON"], (json_format.MessageToDict(message), g["JSON"])
        assert json_format.ParseDict(g["JSON"], made()) == message
        assert message.SerializeToString(deterministic=True) == binary


if __name__ == "__main__":
    for scene in (tokens_come_and_go, lists, replays, errors, secrets_hide, golden):
        scene()
        print("ok", scene.__name__)
