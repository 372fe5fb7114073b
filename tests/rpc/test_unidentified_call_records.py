"""Calls that end before it is known who makes them begin and end like all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.identified import Identified
from tests.rpc.observing import Calls, outline
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT
from tests.support import error_of
from txzmq.auth import Identity
from txzmq.rpc import Code, Kind, Side

SIZE = len(text("x").SerializeToString())


class World(Identified):
    """Has an observer on both sides, and asks somebody who does not answer by himself."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.asked: list[Deferred[Identity | None]] = []
        super().__init__(self.ask, observer=self.calls)
        self.channel = self.connect(observer=self.calls)

    def ask(self, peer: object, method: str, metadata: object) -> Deferred[Identity | None]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def begun(self) -> Deferred[Any]:
        """A call of which it is not known who makes it."""
        call: Deferred[Any] = self.call("anybody").addErrback(error_of)
        self.network.run()
        assert len(self.asked) == 1
        return call


def stop(world: World) -> None:
    world.server.stop(0)


def close(world: World) -> None:
    world.channel.close()


def nobody_answers(world: World) -> None:
    world.network.advance(11)


def refuse(world: World) -> None:
    world.asked[0].callback(None)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (stop, Code.UNAVAILABLE),
        (close, Code.CANCELLED),
        (nobody_answers, Code.UNAVAILABLE),
        (refuse, Code.UNAUTHENTICATED),
    ],
)
def test_it_has_begun_and_ended(end: Callable[[World], None], code: Code) -> None:
    world = World()
    world.begun()
    end(world)
    world.network.run()
    # Its client may make a call again that was not executed.
    server = next(record for record in world.calls.records if record.side is Side.SERVER)
    assert (server.code, server.method, server.kind) == (code, ECHO.path, Kind.UNARY_UNARY)
    assert outline(server) == (1, SIZE, 0, 0)
    assert ("authorization", "Bearer anybody") in server.metadata
    assert server.known
    world.close()
    assert not world.calls.problems


def test_its_client_cancels_it() -> None:
    world = World()
    call = world.begun()
    call.cancel()
    world.network.run()
    assert isinstance(world.network.result(call), CancelledError)
    _, server = world.calls.both()
    assert (server.code, server.message) == (Code.CANCELLED, "the client cancelled it")
    world.close()


def test_a_stream_of_requests_that_ends_so_has_taken_none() -> None:
    world = World()
    reply = world.channel.stream_stream(CHAT, iter([text("x")]))
    world.network.run()
    reply.cancel()
    world.network.run()
    _, server = world.calls.both()
    assert (server.code, server.kind) == (Code.CANCELLED, Kind.STREAM_STREAM)
    assert server.requests == 0
    world.close()


def test_a_call_that_is_identified_in_the_end_begins_once() -> None:
    world = World()
    call = world.begun()
    world.asked[0].callback(Identity("ann"))
    assert world.network.result(call).value == "x"
    client, server = world.calls.both()
    assert (client.code, server.code) == (Code.OK, Code.OK)
    assert server.identity is not None
    assert server.identity.name == "ann"
    world.close()
    assert not world.calls.problems
