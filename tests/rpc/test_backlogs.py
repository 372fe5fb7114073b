"""Replies that wait for clients which do not read them; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, World, closing, text
from txzmq.rpc import Channel, Code, Context, NotFound, Server, ServerLimits
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.transport import SendResult, ServerHandler, ServerTransport
from txzmq.testing import MemoryNetwork

#: Bytes of replies that the servers of these tests keep for a client.
BACKLOG = 100_000
HEAD = RequestHead(ECHO.path, None, ())
DROPPED = "request of a client whose backlog is full"


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    yield from closing()


class Replying(Echo):
    """Replies without a body, with metadata or with an error, as large as the request says."""

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.seen.append(request.value)
        what, _, size = request.value.partition(" ")
        if what == "metadata":
            context.set_trailing_metadata({"a": "x" * int(size)})
        elif what == "error":
            raise NotFound("x" * int(size))
        return text("x" * int(size)) if what == "body" else text("")


class Full(MemoryNetwork):
    """Its server's socket has no room for replies while ``full``."""

    full = False

    def listen(  # type: ignore[override]  # MemoryNetwork promises its own class
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        listener = super().listen(address, handler, options)
        send = listener.send_message

        def send_message(message: list[bytes]) -> SendResult:
            return SendResult.BLOCKED if self.full else send(message)

        listener.send_message = send_message  # type: ignore[method-assign]  # that is the change
        return listener


class DeafWorld(World):
    """A server, and a client that reads when it is told to."""

    def __init__(self, backlog: int, of_all: int = 1_000_000) -> None:
        self.full = self.network = Full()
        self.service = Replying()
        limits = ServerLimits(backlog=of_all, backlog_per_peer=backlog)
        self.server = Server(self.network, [self.service], limits=limits)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)


def waiting(world: World) -> int:
    """Bytes that wait for clients, with what Python needs for a message."""
    listener: Any = world.server._listeners[0]  # pyright: ignore[reportPrivateUsage]  # what is measured
    backlogs = listener._backlogs.values()
    return sum(256 + sum(map(len, message)) for backlog in backlogs for message in backlog.messages)


@pytest.mark.parametrize("what", ["", "body 5000", "metadata 5000", "error 5000", "error 300"])
def test_who_takes_nothing_costs_no_more_than_the_backlog(worlds: list[World], what: str) -> None:
    world = DeafWorld(BACKLOG)
    worlds.append(world)
    deaf = RawClient(world.network, ADDRESS)
    world.network.run()
    world.full.full = True
    body = text(what).SerializeToString()
    for _ in range(20):
        for _ in range(100):
            deaf.request(HEAD, body)
        world.network.run()
    # Replies to requests that came together may all be short errors, one over the limit each.
    assert BACKLOG * 0.9 < waiting(world) < BACKLOG + 100 * 1_024
    executed = len(world.service.seen)
    assert executed < 2_000
    assert world.server.counters[DROPPED] == 2_000 - executed
    # Nothing that was taken on is forgotten: when the client reads, it gets each reply.
    world.full.full = False
    world.network.advance(1)
    assert len(deaf.replies()) == executed
    codes = [head.code for head, _ in deaf.replies().values()]
    assert (
        codes.count(Code.RESOURCE_EXHAUSTED)
        == world.server.counters["reply over a slow client's backlog"]
    )
    # And it is served again.
    number = deaf.request(HEAD, text("").SerializeToString())
    world.network.run()
    assert deaf.replies()[number][0].code is Code.OK
    assert waiting(world) == 0
    deaf.transport.close()


def test_the_replies_of_one_turn_count_as_well(worlds: list[World]) -> None:
    world = DeafWorld(BACKLOG)
    worlds.append(world)
    deaf = RawClient(world.network, ADDRESS)
    world.network.run()
    body = text("body 60000").SerializeToString()
    world.full.full = True
    for _ in range(20):
        deaf.request(HEAD, body)
    world.network.run()
    assert waiting(world) < BACKLOG + 20 * 1_024
    world.full.full = False
    world.network.advance(1)
    replies = deaf.replies().values()
    assert [head.code for head, _ in replies].count(Code.OK) == 1
    assert len(replies) == 20
    deaf.transport.close()


def test_who_reads_is_served_while_another_does_not(worlds: list[World]) -> None:
    world = DeafWorld(1_000)
    worlds.append(world)
    deaf = RawClient(world.network, ADDRESS)
    world.network.run()
    world.full.full = True
    for _ in range(20):
        deaf.request(HEAD)
        world.network.run()
    world.full.full = False
    assert world.network.result(world.call("")).value == ""
    world.network.advance(1)
    deaf.transport.close()


def counted(world: World) -> int:
    """Bytes that the server counts of all clients."""
    backlog: Any = world.server._dispatcher.backlog  # pyright: ignore[reportPrivateUsage]  # what is measured
    size: int = backlog.size
    return size


@pytest.mark.parametrize("what", ["", "body 5000", "error 300"])
def test_all_who_take_nothing_cost_no_more_than_the_servers_backlog(
    worlds: list[World], what: str
) -> None:
    world = DeafWorld(BACKLOG, 3 * BACKLOG)
    worlds.append(world)
    deaf = [RawClient(world.network, ADDRESS) for _ in range(10)]
    world.network.run()
    world.full.full = True
    body = text(what).SerializeToString()
    for _ in range(20):
        for each in deaf:
            for _ in range(20):
                each.request(HEAD, body)
        world.network.run()
    assert 3 * BACKLOG * 0.9 < waiting(world) == counted(world) < 3 * BACKLOG + 200 * 1_024
    executed = len(world.service.seen)
    assert world.server.counters[DROPPED] == 4_000 - executed > 0
    if what == "body 5000":
        # The error says which limit it was.
        world.full.full = False
        world.network.advance(1)
        messages = {head.message for each in deaf for head, _ in each.replies().values()}
        assert any("(ServerLimits.backlog);" in message for message in messages)
    # What waits for a client that goes counts no more.
    for each in deaf:
        each.transport.close()
    world.network.run()
    assert counted(world) == 0


def test_a_backlog_that_is_read_counts_no_more(worlds: list[World]) -> None:
    world = DeafWorld(BACKLOG)
    worlds.append(world)
    deaf = RawClient(world.network, ADDRESS)
    world.network.run()
    world.full.full = True
    for _ in range(10):
        deaf.request(HEAD, text("body 5000").SerializeToString())
        world.network.run()
    assert counted(world) > 50_000
    world.full.full = False
    world.network.advance(1)
    assert counted(world) == 0
    world.full.full = True
    deaf.request(HEAD)
    world.network.run()
    assert counted(world) > 0
    world.server.stop(0)
    world.network.advance(1)
    assert counted(world) == 0
    deaf.transport.close()
