"""A gateway under load, which is started anew while clients call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio

from tests.grpc_gateway.support import Rig, stub, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT
from tests.support import PATIENCE, Loop

#: Of clients, each with a call at a time, and how often the gateway is started anew.
CLIENTS, RESTARTS = 8, 5


def test_clients_that_wait_for_it(grpc_loop: Loop) -> None:
    """They see UNAVAILABLE or CANCELLED at most, never another's response, and go on."""

    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        running = True
        outcomes: dict[str, int] = {}

        async def call(number: int) -> None:
            options: dict[str, Any] = {"grpc.max_reconnect_backoff_ms": 50}
            client = rig.client(rig.target, **options)
            count = 0
            while running:
                count += 1
                given = text(f"{number} {count}")
                try:
                    response = await stub(client, ECHO)(given, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    name = error.code().name
                    outcomes[name] = outcomes.get(name, 0) + 1
                else:
                    assert response == given
                    outcomes["OK"] = outcomes.get("OK", 0) + 1

        callers = [asyncio.ensure_future(call(number)) for number in range(CLIENTS)]
        try:
            for _ in range(RESTARTS):
                before = outcomes.get("OK", 0)
                async with asyncio.timeout(PATIENCE):
                    while outcomes.get("OK", 0) < before + 50:
                        await asyncio.sleep(0.005)
                await rig.listener.stop(0).asFuture(loop)
                listening = rig.gateway.listen(rig.target, reactor=rig.loop.reactor)
                rig.listener = await listening.asFuture(loop)
        finally:
            running = False
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*callers)
        assert set(outcomes) <= {"OK", "UNAVAILABLE", "CANCELLED"}, outcomes
        await rig.until(lambda: rig.server.running == 0)
        assert rig.channel.stats.request_bytes == 0

    through(grpc_loop, body)


def test_calls_that_it_has_passed_on_are_cancelled(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        calls = [stub(client, ECHO)(text("wait")) for _ in range(5)]
        calls += [stub(client, CHAT)([text("wait")]) for _ in range(5)]
        await rig.until(lambda: len(rig.notes.seen) == 10)
        await rig.listener.stop(0).asFuture(asyncio.get_running_loop())
        await rig.until(lambda: len(rig.notes.cancelled) == 10)
        await rig.until(lambda: rig.server.running == 0)
        for call in calls:
            assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    through(grpc_loop, body)


def test_more_calls_at_once_than_grpc_keeps_by_default(grpc_loop: Loop) -> None:
    """GRPC cancels some of more than 1,000 that grpc.aio has not taken yet, and all past 3,000."""

    async def body(rig: Rig) -> None:
        options: dict[str, Any] = {"grpc.use_local_subchannel_pool": 1}
        echoes = [stub(rig.client(rig.target, **options), ECHO) for _ in range(20)]
        given = [text(str(number)) for number in range(4_000)]
        calls = [echoes[number % 20](request) for number, request in enumerate(given)]
        assert await asyncio.gather(*calls) == given

    through(grpc_loop, body)
