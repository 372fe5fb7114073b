"""Handlers that use libraries of asyncio's: a database, an HTTP client."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.service import text
from tests.rpc.tasks import TaskWorld, run_in_asyncio, until
from tests.support import is_installed
from txzmq.rpc import Context


@pytest.mark.skipif(not is_installed("aiosqlite"), reason="needs aiosqlite")
def test_a_database() -> None:
    # Any: there need not be one.
    aiosqlite: Any = importlib.import_module("aiosqlite")
    ended: list[str] = []

    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            await database.execute("CREATE TABLE greetings (name TEXT, count INTEGER)")

            async def handler(request: StringValue, context: Context) -> StringValue:
                try:
                    await database.execute("INSERT INTO greetings VALUES (?, 1)", [request.value])
                    if request.value == "slow":
                        await asyncio.Event().wait()
                    await database.commit()
                except asyncio.CancelledError:
                    await database.rollback()
                    ended.append("rolled back")
                    raise
                query = "SELECT count(*) FROM greetings WHERE name = ?"
                async with database.execute(query, [request.value]) as cursor:
                    (count,) = await cursor.fetchone()
                return text(f"{request.value} {count}")

            world = TaskWorld(handler)
            assert (await world.say("Ada")).value == "Ada 1"
            assert (await world.say("Ada")).value == "Ada 2"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await world.say("slow")
            await until(lambda: ended)
            assert (await world.say("Ada")).value == "Ada 3"
            await world.close()

    run_in_asyncio(main)


@pytest.mark.skipif(not is_installed("httpx"), reason="needs httpx")
def test_an_http_client() -> None:
    httpx: Any = importlib.import_module("httpx")

    async def main() -> None:
        async def answer(request: Any) -> Any:
            await asyncio.sleep(0)
            return httpx.Response(200, text=f"asked for {request.url.path}")

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:

            async def handler(request: StringValue, context: Context) -> StringValue:
                response = await client.get(f"http://server/{request.value}", timeout=5)
                return text(response.text)

            world = TaskWorld(handler)
            answers = await asyncio.gather(*(world.say(name) for name in "abc"))
            assert [each.value for each in answers] == [f"asked for /{name}" for name in "abc"]
            await world.close()

    run_in_asyncio(main)
