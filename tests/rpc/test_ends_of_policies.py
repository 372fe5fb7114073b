"""The same table for what chooses servers and finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from tests.rpc.ends import TIMEOUT, Outcome, go_on, local, read
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import COUNT, Streaming, StreamWorld, Worlds, count, join, numbers, texts
from tests.support import Logged
from txzmq.rpc import Channel, Context, Server, Unavailable
from txzmq.rpc.resolvers import ResolvedAddress
from txzmq.testing import MemoryNetwork


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def both(request: Any, context: Context) -> Any:
    return join(request, context) if context.method.endswith("Collect") else count(request, context)


class Picking:
    """A policy whose picker, or what makes it, raises the first few times that a call asks."""

    def __init__(self, where: str, kind: Callable[[], BaseException]) -> None:
        self.where = where
        self.kind = kind
        self.left = 1

    def end(self, where: str) -> None:
        if self.where == where and self.left:
            self.left -= 1
            raise self.kind()

    def picker(self, endpoints: Any, ready: Any) -> Any:
        if ready:
            self.end("picker")

        def pick(path: str, metadata: Any, used: Any) -> Any:
            if ready:
                self.end("pick")
            return ready[0] if ready else None

        return pick


@pytest.mark.parametrize("where", ["picker", "pick"])
@pytest.mark.parametrize("when", ["queued", "ready"])
@pytest.mark.parametrize("method", ["collect", "open"])
def test_a_balancing_policy(
    make: Worlds, kind: Callable[[], BaseException], where: str, when: str, method: str
) -> None:
    policy = Picking(where, kind)
    world = make(both, policy=policy)
    if when == "ready":
        policy.left = 0
        assert read(world.open(0, timeout=TIMEOUT)).ends == []
        go_on(world)
        policy.left = 1
        if where == "picker":
            world.cut()
            go_on(world, 2.0)
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    others = [read(world.open(2, timeout=TIMEOUT)) for _ in range(2)]
    go_on(world)
    assert not policy.left
    assert type(outcome.end) is local(kind)
    assert [other.end for other in others] == [numbers(2)] * 2
    go_on(world)


class Resolving:
    """A resolver that knows the server; it raises when it is asked to look again, or to close."""

    def __init__(self, kind: Callable[[], BaseException]) -> None:
        self.kind = kind
        self.asked: list[str] = []

    def start(self, clock: Any, listener: Any) -> None:
        listener.resolved([ResolvedAddress(ADDRESS)])

    def resolve_now(self) -> None:
        self.asked.append("resolve_now")
        raise self.kind()

    def close(self) -> None:
        self.asked.append("close")
        raise self.kind()


def test_a_resolver(kind: Callable[[], BaseException], logged: Logged) -> None:
    network = MemoryNetwork()
    server = Server(network, [Streaming()])
    resolver = Resolving(kind)
    channel = Channel(network, resolver)  # nobody listens yet
    waiting = Outcome(channel.unary_stream(COUNT, text("2")).each(lambda _: None))
    network.advance(1)
    assert type(waiting.end) is Unavailable
    assert resolver.asked == ["resolve_now"]
    server.listen(ADDRESS)
    network.advance(5)
    outcome = Outcome(channel.unary_stream(COUNT, text("2")).each(lambda _: None))
    network.advance(1)
    assert outcome.end is None
    last = Outcome(channel.unary_stream(COUNT, text("2"), timeout=100).each(lambda _: None))
    channel.close()
    assert type(last.end) is CancelledError
    assert resolver.asked[-1] == "close"
    server.stop(0)
    network.advance(3)
    assert {type(error) for error in logged.failures()} == {type(kind())}
