"""How many bytes of requests a server holds that wait or run; in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Waiting, World, closing, text
from tests.rpc.streaming import COLLECT, COUNT, TICKS, Endless, Reader, StreamWorld, join
from txzmq.rpc import Channel, Code, Context, ResourceExhausted, ServerLimits
from txzmq.rpc._server.admission import RequestBytes
from txzmq.rpc._wire.control import SEND
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.v1.streams_pb2 import SendRequest
from txzmq.testing._leftovers import leftovers

SIZE = 1_000
#: A request of this size with its tag and length.
VALUE = "x" * (SIZE - 3)


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    yield from closing()


def new_world(worlds: list[World], **limits: Any) -> World:
    """A server whose handlers wait until the test fires their results."""
    world = World(Waiting(), limits=ServerLimits(**limits))
    worlds.append(world)
    return world


def held(world: World | StreamWorld) -> list[str]:
    """Where the server counts bytes of requests."""
    world.network.run()
    return [place for place in leftovers(world.server) if "request_bytes" in place]


def answer_all(world: World) -> None:
    service: Any = world.service
    while service.results:
        service.results.pop(0).callback(text(""))
        world.network.run()


def refused(world: World, call: Deferred[StringValue], name: str) -> None:
    with pytest.raises(ResourceExhausted, match=rf"not executed: .*\(ServerLimits\.{name}\)"):
        world.network.result(call)


@pytest.mark.parametrize("running", [100, 1], ids=["they run", "they wait"])
def test_requests_of_one_client_over_its_budget_are_refused(
    worlds: list[World], running: int
) -> None:
    world = new_world(worlds, running=running, request_bytes_per_peer=3 * SIZE)
    other = Channel(world.network, ADDRESS)
    calls = [world.call(VALUE) for _ in range(4)]
    world.network.run()
    refused(world, calls.pop(), "request_bytes_per_peer")
    calls.append(world.call(VALUE, caller=other))
    world.network.run()
    answer_all(world)
    assert all(world.network.result(call).value == "" for call in calls)
    assert world.server.counters["shed request"] == 1
    assert held(world) == []
    again = world.call(VALUE)
    world.network.run()
    answer_all(world)
    assert world.network.result(again).value == ""
    other.close()


def test_requests_of_all_clients_over_the_servers_budget_are_refused(worlds: list[World]) -> None:
    world = new_world(worlds, request_bytes=3 * SIZE)
    others = [Channel(world.network, ADDRESS) for _ in range(4)]
    calls = [world.call(VALUE, caller=other) for other in others]
    world.network.run()
    refused(world, calls.pop(), "request_bytes")
    answer_all(world)
    assert held(world) == []
    for other in others:
        other.close()


def test_one_request_is_taken_in_any_case(worlds: list[World]) -> None:
    world = new_world(worlds, request_bytes=10, request_bytes_per_peer=10)
    call = world.call(VALUE)
    world.network.run()
    refused(world, world.call(VALUE), "request_bytes")
    answer_all(world)
    assert world.network.result(call).value == ""


def test_the_refusal_says_that_the_call_was_not_executed(worlds: list[World]) -> None:
    world = new_world(worlds, request_bytes=SIZE)
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    numbers = [raw.request(RequestHead(ECHO.path, None, ()), b"\n\x01x" * 300) for _ in range(2)]
    world.network.run()
    head, _ = raw.replies()[numbers[1]]
    assert (head.code, head.not_executed) == (Code.RESOURCE_EXHAUSTED, True)
    answer_all(world)
    raw.transport.close()


def test_what_is_answered_at_once_does_not_count(worlds: list[World]) -> None:
    world = World(limits=ServerLimits(request_bytes=SIZE))
    worlds.append(world)
    calls = [world.call(VALUE) for _ in range(50)]
    assert all(world.network.result(call).value == VALUE for call in calls)


def cancelled(world: World, calls: list[Deferred[StringValue]]) -> None:
    for call in calls:
        call.cancel()


def too_late(world: World, calls: list[Deferred[StringValue]]) -> None:
    world.network.advance(20)


def client_gone(world: World, calls: list[Deferred[StringValue]]) -> None:
    world.channel.close()


def stopped(world: World, calls: list[Deferred[StringValue]]) -> None:
    world.server.stop(0)
    world.network.advance(1)


def failed(world: World, calls: list[Deferred[StringValue]]) -> None:
    service: Any = world.service
    while service.results:
        service.results.pop(0).errback(ValueError())
        world.network.run()


@pytest.mark.parametrize("running", [100, 1])
@pytest.mark.parametrize("end", [cancelled, too_late, client_gone, stopped, failed])
def test_each_end_gives_the_bytes_back(
    worlds: list[World],
    end: Callable[[World, list[Deferred[StringValue]]], None],
    running: int,
    logged: list[Any],
) -> None:
    world = new_world(worlds, running=running)
    calls = [world.call(VALUE, timeout=10) for _ in range(3)]
    for call in calls:
        call.addErrback(lambda _: None)
    assert held(world) != []
    end(world, calls)
    assert held(world) == []


# -- streams of requests -----------------------------------------------------------------------


class Sending:
    """A client that sends what it likes to a handler that reads when it is told to."""

    def __init__(self, **limits: Any) -> None:
        self.go: Deferred[None] = Deferred()
        self.world = StreamWorld(self.handle, limits=ServerLimits(**limits))
        self.raw = RawClient(self.world.network, ADDRESS)
        self.world.network.run()

    async def handle(self, requests: Any, context: Context) -> StringValue:
        await self.go
        collected: StringValue = await join(requests, context)
        return collected

    def open(self, id: bytes) -> int:
        head = RequestHead(COLLECT.path, None, (), open_stream=OpenStream(requests=id))
        return self.raw.request(head)

    def send(self, id: bytes, sequence: int, *items: bytes, end: bool = False) -> None:
        request = SendRequest(requests=id, sequence=sequence, items=items, end=end)
        self.raw.request(RequestHead(SEND, None, ()), request.SerializeToString())
        self.world.network.run()

    def close(self) -> None:
        self.raw.transport.close()
        self.world.network.run()
        assert held(self.world) == []
        self.world.channel.close()
        self.world.server.stop(0)
        self.world.network.advance(1)


ITEM = text(VALUE).SerializeToString()
ONE, TWO = b"1" * 16, b"2" * 16


def test_items_that_are_not_read_count() -> None:
    sending = Sending(request_bytes_per_peer=3 * SIZE)
    one, two = sending.open(ONE), sending.open(TWO)
    sending.send(ONE, 1, ITEM, ITEM)
    sending.send(TWO, 1, ITEM)
    sending.send(TWO, 2, ITEM)  # over the budget
    sending.send(ONE, 3, end=True)
    sending.go.callback(None)
    sending.world.network.run()
    replies = sending.raw.replies()
    assert replies[one][0].code is Code.OK
    head = replies[two][0]
    assert head.code is Code.RESOURCE_EXHAUSTED
    assert "(ServerLimits.request_bytes_per_peer)" in head.message
    sending.close()


def test_items_count_until_they_are_read() -> None:
    sending = Sending(request_bytes=3 * SIZE)
    number = sending.open(ONE)
    sending.go.callback(None)
    for sequence in range(1, 50):
        sending.send(ONE, sequence, ITEM)
        assert held(sending.world) == []
    sending.send(ONE, 50, end=True)
    assert sending.raw.replies()[number][0].code is Code.OK
    sending.close()


def test_items_of_a_call_that_ends_are_given_back() -> None:
    sending = Sending()
    sending.open(ONE)
    sending.send(ONE, 1, *[ITEM] * 10)
    assert held(sending.world) != []
    sending.close()


def test_few_bytes_of_a_stream_are_not_counted_and_many_are() -> None:
    """As many as a call costs anyway; but where limits are small, each counts.

    An item takes 64 bytes besides its own, or a stream of empty ones would cost nothing.
    """
    assert RequestBytes(ServerLimits(request_bytes=3 * SIZE)).slack < SIZE
    slack = RequestBytes(ServerLimits()).slack
    for item in (ITEM, b""):
        sending = Sending()
        sending.open(ONE)
        sent = 0
        while not held(sending.world):
            sent += 1
            sending.send(ONE, sent, item)
        size = len(item) + 64
        assert slack < sent * size <= slack + size
        sending.close()


# -- the requests of streams of responses --------------------------------------------------------


@pytest.fixture
def endless() -> Iterator[tuple[Endless, StreamWorld]]:
    """A server whose streams go on until the test has them end."""
    endless = Endless()
    world = StreamWorld(endless, limits=ServerLimits(request_bytes_per_peer=3 * SIZE))
    yield endless, world
    world.close()


@pytest.mark.parametrize("method", [COUNT, TICKS])
def test_the_request_of_a_stream_counts_while_there_is_the_stream(
    endless: tuple[Endless, StreamWorld], method: Any
) -> None:
    handler, world = endless
    streams = [
        Reader(world.channel.unary_stream(method, text(f"{number}{VALUE[1:]}")))
        for number in range(4)
    ]
    world.network.run()
    error = streams[3].ended
    assert isinstance(error, ResourceExhausted)
    assert "(ServerLimits.request_bytes_per_peer)" in error.message
    assert handler.running == 3
    other = Channel(world.network, ADDRESS)
    of_other = Reader(other.unary_stream(method, text(VALUE)))
    world.network.run()
    assert of_other.ended is None
    for each in (streams[0], of_other):
        each.stream.cancel()
    world.network.advance(1)
    again = Reader(world.channel.unary_stream(method, text(VALUE)))
    world.network.run()
    assert again.ended is None
    for each in (*streams, again):
        each.stream.cancel()
    world.network.advance(6)
    assert held(world) == []
    other.close()
    world.network.run()


def test_equal_requests_that_share_a_run_count_once(
    endless: tuple[Endless, StreamWorld],
) -> None:
    handler, world = endless
    readers = [Reader(world.channel.unary_stream(TICKS, text(VALUE))) for _ in range(5)]
    world.network.run()
    assert handler.running == 1
    assert [reader.ended for reader in readers] == [None] * 5
    for reader in readers:
        assert held(world) != []
        reader.stream.cancel()
        world.network.run()
    assert held(world) == []


def test_a_handler_that_does_not_end_keeps_its_request() -> None:
    go: Deferred[None] = Deferred()

    async def stubborn(request: StringValue, context: Context) -> Any:
        try:
            await Deferred()
        finally:
            await go
        yield request

    world = StreamWorld(stubborn, limits=ServerLimits(request_bytes=SIZE))
    reader = world.run(VALUE)
    reader.stream.cancel()
    world.network.run()
    refused_one = world.run(VALUE)
    assert isinstance(refused_one.ended, ResourceExhausted)
    go.callback(None)
    world.network.run()
    assert held(world) == []
    world.close()
