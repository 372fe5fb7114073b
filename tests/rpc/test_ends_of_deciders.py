"""Functions of a user that decide of a call: whatever they raise, it is refused at once, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.support import Logged, error_of
from txzmq.rpc import Channel, Code, RpcError, Server
from txzmq.rpc.authentication import BearerCredentials
from txzmq.testing import MemoryNetwork

End = Callable[[], BaseException]


def raises(end: End) -> Callable[..., Any]:
    def decide(*_: object) -> Any:
        raise end()

    return decide


def awaited(end: End) -> Callable[..., Any]:
    async def decide(*_: object) -> Any:
        raise end()

    return decide


def deferred(end: End) -> Callable[..., Any]:
    return lambda *_: fail(end())


PLACES = [
    ("authorize", raises, Code.UNAUTHENTICATED),
    *(("authenticate", how, Code.INTERNAL) for how in (raises, awaited, deferred)),
    *(("fallback", how, Code.INTERNAL) for how in (raises, awaited, deferred)),
]


@pytest.mark.parametrize(("place", "how", "code"), PLACES)
def test_a_call_is_refused_at_once(
    place: str, how: Any, code: Code, kind: End, logged: Logged
) -> None:
    network = MemoryNetwork()
    options: Any = {place: how(kind)}
    services = [] if place == "fallback" else [Echo()]
    server = Server(network, services, **options)
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    calls: list[Deferred[Any]] = [
        channel.unary_unary(ECHO, text("x"), timeout=60).addErrback(error_of) for _ in range(2)
    ]
    network.advance(1)
    for call in calls:
        error = network.result(call)
        assert isinstance(error, RpcError)
        assert error.code is (Code.NOT_FOUND if isinstance(kind(), RpcError) else code)
    assert server.stats.queued == 0
    channel.close()
    server.stop(0)
    network.advance(1)
    assert not network.clock.getDelayedCalls()


@pytest.mark.parametrize("how", [raises, awaited, deferred])
def test_a_call_without_a_token_ends_at_once(how: Any, kind: End, logged: Logged) -> None:
    network = MemoryNetwork()
    server = Server(network, [Echo()])
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS, call_credentials=BearerCredentials(how(kind)))
    call = channel.unary_unary(ECHO, text("x"), timeout=60).addErrback(error_of)
    network.advance(1)
    assert isinstance(network.result(call), RpcError)
    channel.close()
    server.stop(0)
    network.advance(1)


@pytest.mark.parametrize("number", [None, "x", 3.5, -1, 17, 2**80])
def test_a_code_that_is_none_is_unknown(number: Any) -> None:
    def fallback(path: str) -> Any:
        error = RpcError(Code.NOT_FOUND, "no")
        error.code = number
        raise error

    network = MemoryNetwork()
    server = Server(network, [], fallback=fallback)
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    call: Deferred[Any] = channel.unary_unary(ECHO, text("x"), timeout=60).addErrback(error_of)
    network.advance(1)
    assert network.result(call).code is Code.UNKNOWN
    channel.close()
    server.stop(0)
    network.advance(1)
