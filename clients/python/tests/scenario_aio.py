"""What a caller does with asyncio, against a real server that the environment describes."""

from __future__ import annotations

import asyncio
import os

from scenario import control, read, works

from teamtoken import Error, NotApplied, OutcomeUnknown, Reason
from teamtoken.aio import Client

ENV = os.environ
TEAM = ENV["TEAM"]


async def tokens_come_and_go() -> None:
    async with Client(ENV["SECURED"], ca=read("CA"), certificate=read("CERT"), key=read("KEY")) as tokens:
        first = await tokens.generate_token(TEAM)
        second = await tokens.generate_token(TEAM)
        assert works(second.secret) and not works(first.secret)
        named = await tokens.create_named_token(TEAM, "for asyncio")
        assert (await tokens.get_token_by_id(named.token.id)).description == "for asyncio"
        await tokens.delete_token_by_id(named.token.id)
        assert (await tokens.get_token(TEAM)).id == second.token.id
        await tokens.delete_token(TEAM)
        assert not works(second.secret)
        many = await asyncio.gather(*(tokens.generate_token(team) for team in ENV["TEAMS"].split(",")))
        listed = [token.id async for token in tokens.list_tokens(ENV["ORGANIZATION"], page_size=20)]
        assert len(listed) == 45 and {m.token.id for m in many} == set(listed)


async def goes_wrong() -> None:
    async with Client(ENV["LOSSY"], insecure=True) as tokens:
        await tokens.get_token(ENV["TEAMS"].split(",")[1])
        control("/lose")
        made = await tokens.generate_token(TEAM)
        assert works(made.secret)
        again = await tokens.generate_token(TEAM, request_id=made.request_id)
        assert again.secret == made.secret
    async with Client(ENV["CLEAR"], insecure=True) as tokens:
        control("/slow")
        try:
            await tokens.generate_token(TEAM, request_id="late-aio", timeout=0.5)
            raise AssertionError("it was in time")
        except OutcomeUnknown:
            pass
        assert works((await tokens.generate_token(TEAM, request_id="late-aio")).secret)
    async with Client(ENV["SECURED"], ca=read("CA"), certificate=read("STRANGER_CERT"), key=read("STRANGER_KEY")) as tokens:
        try:
            await tokens.delete_token(TEAM)
            raise AssertionError("it was allowed")
        except Error as e:
            assert isinstance(e, NotApplied) and e.reason is Reason["CALLER_NOT_ALLOWED"]


async def main() -> None:
    for scene in (tokens_come_and_go, goes_wrong):
        await scene()
        print("ok", scene.__name__)


if __name__ == "__main__":
    asyncio.run(main())
