"""A fallback that takes its time: calls wait, in bounds, and can be ended meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from tests.rpc.ends import Outcome
from tests.rpc.observing import Calls
from tests.rpc.raw_calls import (
    COLLECT,
    ECHOES,
    SHARED,
    STREAM,
    UNARY,
    Asked,
    Raw,
    RawWorld,
    connected,
    each,
)
from tests.rpc.service import made
from txzmq.rpc import (
    Code,
    ResourceExhausted,
    RpcError,
    ServerLimits,
    Side,
    Unavailable,
)
from txzmq.rpc._wire.headers import RequestHead

Make = Callable[..., RawWorld]
ALL = [*ECHOES.values(), SHARED]


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(RawWorld)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_a_call_waits_for_the_answer(world: Make, method: Raw) -> None:
    asked = Asked(waits=True)
    w = world(fallback=asked)
    items = [b"x", b"y"] if method.kind.request_streaming else [b"x"]
    call = w.call(method, *items)
    w.network.advance(2)
    assert (w.server.queued, asked.service.contexts) == (1, [])
    asked.answer()
    w.network.advance(2)
    responses = w.network.result(call)
    assert {bytes(item) for item in responses} <= {b"x", b"y", b"xy"}
    assert responses
    assert (w.server.queued, asked.paths) == (0, [method.path])


def test_a_coroutine_will_do(world: Make) -> None:
    async def find(path: str) -> Any:
        return each(path)

    assert world(fallback=find).result(UNARY, b"x") == [b"x"]


def test_it_has_ten_seconds(world: Make) -> None:
    asked = Asked(waits=True)
    w = world(fallback=asked)
    outcome = Outcome(w.call(UNARY, b"x", timeout=60))
    w.network.advance(9.9)
    assert outcome.ends == []
    w.network.advance(10.2)  # the call was not executed, and is made once more by itself
    assert type(outcome.end) is Unavailable
    assert "within 10 s what serves the method" in str(outcome.end)
    assert len(asked.given_up) == len(asked.paths) == 2


@pytest.mark.parametrize("method", [UNARY, STREAM, COLLECT], ids=lambda method: method.name)
@pytest.mark.parametrize("how", ["cancelled", "late", "lost", "stopped"])
def test_who_waits_no_more_has_it_given_up(world: Make, method: Raw, how: str) -> None:
    asked, calls = Asked(waits=True), Calls()
    w = world(fallback=asked, observer=calls)
    call = w.call(method, b"x", timeout=3 if how == "late" else 60)
    outcome = Outcome(call)
    w.network.advance(1)
    if how == "cancelled":
        call.cancel()
    elif how == "lost":
        w.channel.close()
    elif how == "stopped":
        w.server.stop(0)
    w.network.advance(5)
    assert len(outcome.ends) == 1
    assert len(asked.given_up) == 1
    assert isinstance(outcome.end, (RpcError, CancelledError))
    assert (w.server.queued, asked.service.contexts) == (0, [])
    record = calls.take(Side.SERVER)
    assert (record.known, record.method) == (False, method.path)
    assert record.code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)


def test_a_server_that_drains_waits_for_the_answer_and_refuses(world: Make) -> None:
    asked = Asked(waits=True)
    w = world(fallback=asked)
    client = connected(w)
    number = client.request(RequestHead(UNARY.path, None, ()), b"x")
    w.network.run()
    w.server.stop(5)
    w.network.run()
    asked.answer()
    w.network.run()
    head, _ = client.replies()[number]
    assert (head.code, head.not_executed) == (Code.UNAVAILABLE, True)
    assert "shutting down" in head.message
    client.transport.close()


@pytest.mark.parametrize(
    "limits",
    [ServerLimits(queued=3), ServerLimits(queued_per_peer=3), ServerLimits(message_size=9)],
)
def test_so_many_wait_and_no_more(world: Make, limits: ServerLimits) -> None:
    asked = Asked(waits=True)
    w = world(fallback=asked, limits=limits)
    body = b"x" * (1 if limits.message_size > 9 else 10)
    outcomes = [Outcome(w.call(UNARY, body)) for _ in range(4)]
    w.network.advance(1)
    waiting = 3 if limits.message_size > 9 else 0
    assert w.server.queued == waiting
    assert [type(it.end) for it in outcomes[waiting:]] == [ResourceExhausted] * (4 - waiting)
    assert len(asked.given_up) == 4 - waiting
    asked.answer()
    w.network.advance(1)
    assert [it.end for it in outcomes[:waiting]] == [[b"x"]] * waiting
