"""Connections that have lasted long enough are made anew, and no call is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, World, text
from tests.rpc.streaming import RESUME, TICKS, Reader, Streaming, StreamWorld
from txzmq.rpc import Channel, Code, Context, Count, Server, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import RequestHead
from txzmq.testing import MemoryNetwork

PATH = RequestHead(ECHO.path, None, ())
LEAVE = RequestHead("/txzmq.rpc.v1.Control/Leave", None, ())
#: Behind the time at which every connection has been told.
TOLD = 11.5
AGED = ServerLimits(connection_age=10.0, connection_age_grace=5.0)


@pytest.fixture
def worlds() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for world in made:
        world.close()


@pytest.fixture
def echo(worlds: list[Any]) -> Callable[..., World]:
    def make(service: Echo | None = None, limits: ServerLimits = AGED, **options: Any) -> World:
        worlds.append(World(service, limits=limits, **options))
        world: World = worlds[-1]
        return world

    return make


@pytest.fixture
def streaming(worlds: list[Any]) -> Callable[..., StreamWorld]:
    def make(*arguments: Any, limits: ServerLimits = AGED, **options: Any) -> StreamWorld:
        worlds.append(StreamWorld(*arguments, limits=limits, **options))
        world: StreamWorld = worlds[-1]
        return world

    return make


def peers(server: Server) -> int:
    """How many clients a server has."""
    (listener,) = cast("Any", server)._listeners  # Any: there is no other place to look
    return len(listener.wire.peers)


# -- unary calls -------------------------------------------------------------------------------


def test_calls_go_on_by_another_connection(echo: Callable[..., World]) -> None:
    world = echo(Waiting())
    service = world.service
    assert isinstance(service, Waiting)
    runs = world.call("runs")
    world.network.advance(TOLD)
    after = world.call("after")
    world.network.run()
    before, now = (context.peer for context in service.contexts), peers(world.server)
    assert (list(before), now) == (["memory"] * 2, 2)
    service.results[1].callback(text("new"))
    assert world.network.result(after).value == "new"
    service.results[0].callback(text("old"))
    assert world.network.result(runs).value == "old"
    world.network.run()
    assert peers(world.server) == 1, "the old connection is closed when its call is answered"
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 1
    assert world.server.counters[Count.CONNECTION_AGED] == 1
    assert world.server.counters[Count.CONNECTION_ENDED] == 0
    assert service.seen == ["runs", "after"]


def test_a_client_that_is_idle_is_told_too(echo: Callable[..., World]) -> None:
    world = echo()
    world.network.result(world.call())
    world.network.advance(TOLD)
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 1
    # The new one counts from its first message.
    world.network.advance(100)
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 1
    world.network.result(world.call())
    world.network.advance(TOLD)
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 2


def test_each_connection_has_its_own_time(echo: Callable[..., World]) -> None:
    world = echo()
    clients = [RawClient(world.network, ADDRESS) for _ in range(100)]
    world.network.run()
    for client in clients:
        client.request(PATH, text("x").SerializeToString())
    told: dict[RawClient, float] = {}
    began = world.network.clock.seconds()
    for _ in range(1_200):
        world.network.advance(0.01)
        for client in clients:
            if 0 in client.replies():
                told.setdefault(client, world.network.clock.seconds() - began)
    times = sorted(told.values())
    assert len(times) == len(clients)
    assert 8.99 <= times[0] < 9.2
    assert 10.8 < times[-1] <= 11.02
    assert len({round(time, 2) for time in times}) > 50
    for client in clients:
        client.transport.close()


def test_one_timer_counts_the_time_of_all(echo: Callable[..., World]) -> None:
    def timers(age: float | None) -> int:
        limits = ServerLimits(connection_age=age, blocked_after=None, reply_cache=None)
        world = echo(limits=limits)
        clients = [RawClient(world.network, ADDRESS) for _ in range(20)]
        world.network.run()
        for client in clients:
            client.request(PATH, text("x").SerializeToString())
        world.network.run()
        for client in clients:
            assert client.replies()
        left = len(world.network.clock.getDelayedCalls())
        for client in clients:
            client.transport.close()
        return left

    assert timers(None) == 0
    assert timers(10.0) == 1


def test_no_call_is_lost_or_made_twice_while_connections_come_and_go(
    echo: Callable[..., World],
) -> None:
    world = echo(limits=ServerLimits(connection_age=0.1, connection_age_grace=1.0))
    channels = [Channel(world.network, ADDRESS) for _ in range(5)]
    world.network.run()
    calls: list[Deferred[StringValue]] = []
    for number in range(2_000):
        calls += [world.call(f"{number} {at}", caller=each) for at, each in enumerate(channels)]
        world.network.advance(0.01)
    answers = [world.network.result(call).value for call in calls]
    assert answers == [f"{number} {at}" for number in range(2_000) for at in range(5)]
    assert Counter(world.service.seen) == Counter(answers)
    assert all(each.counters[Count.CONNECTION_RENEWED] > 100 for each in channels)
    assert world.server.counters[Count.CONNECTION_ENDED] == 0
    for channel in channels:
        channel.close()
    world.network.run()


# -- clients that do not go --------------------------------------------------------------------


def test_what_a_client_is_told_that_stays(echo: Callable[..., World]) -> None:
    limits = ServerLimits(connection_age=10.0, connection_age_grace=5.0, running=1)
    world = echo(Waiting(), limits=limits)
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    runs = raw.request(PATH, text("runs").SerializeToString())
    world.network.advance(TOLD)
    notice, _ = raw.replies()[0]
    assert (notice.code, notice.draining, notice.reconnect) == (Code.OK, True, True)
    queued = raw.request(PATH, text("queued").SerializeToString())
    world.network.advance(5)
    replies = raw.replies()
    head, _ = replies[runs]
    assert (head.code, head.not_executed, head.reconnect) == (Code.UNAVAILABLE, False, True)
    assert "ServerLimits.connection_age" in head.message
    assert "may have been executed" in head.message
    head, _ = replies[queued]
    assert (head.code, head.not_executed) == (Code.UNAVAILABLE, True)
    assert "was not executed" in head.message
    assert world.network.result(world.service.contexts[0].cancelled)
    refused = raw.request(PATH, text("refused").SerializeToString())
    pinged = raw.request(RequestHead("/txzmq.rpc.v1.Control/Ping", None, ()))
    world.network.run()
    head, _ = raw.replies()[refused]
    assert (head.code, head.not_executed, head.reconnect) == (Code.UNAVAILABLE, True, True)
    assert raw.replies()[pinged][0].code is Code.OK
    assert raw.events == ["connected"]
    world.network.advance(1)
    assert raw.events == ["connected", "disconnected", "connected"]
    assert world.service.seen == ["runs"]
    assert world.server.counters[Count.CONNECTION_ENDED] == 1
    again = raw.request(PATH, text("again").SerializeToString())
    world.network.run()
    assert world.service.seen == ["runs", "again"]
    assert isinstance(world.service, Waiting)
    world.service.results[1].callback(text("done"))
    world.network.run()
    head, body = raw.replies()[again]
    assert (head.draining, body) == (False, text("done").SerializeToString())
    raw.transport.close()


def test_a_client_that_knows_only_of_servers_that_shut_down_leaves(
    echo: Callable[..., World],
) -> None:
    world = echo()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    early = raw.request(LEAVE)  # which means nothing before it is told
    world.network.advance(TOLD)
    assert raw.events == ["connected"]
    left = raw.request(LEAVE)
    world.network.run()
    assert {raw.replies()[number][0].code for number in (early, left)} == {Code.OK}
    world.network.advance(0.3)
    assert raw.events == ["connected", "disconnected", "connected"]
    raw.transport.close()


def test_without_a_limit_of_the_grace_calls_take_their_time(echo: Callable[..., World]) -> None:
    limits = ServerLimits(connection_age=10.0, connection_age_grace=None)
    world = echo(Waiting(), limits=limits)
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    runs = raw.request(PATH, text("runs").SerializeToString())
    world.network.advance(1_000)
    assert raw.replies()[0][0].reconnect
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    world.network.run()
    assert raw.replies()[runs][0].code is Code.OK
    raw.transport.close()


def test_a_call_whose_attempts_share_a_run_is_not_said_to_be_lost(
    echo: Callable[..., World],
) -> None:
    """Another attempt waits for the same run, by another connection."""
    world = echo(Waiting())
    key = PATH._replace(request_key=b"k" * 16)
    old = RawClient(world.network, ADDRESS)
    world.network.run()
    first = old.request(key, text("x").SerializeToString())
    world.network.advance(TOLD)
    new = RawClient(world.network, ADDRESS)
    world.network.run()
    second = new.request(key, text("x").SerializeToString())
    world.network.advance(5)
    head, _ = old.replies()[first]
    assert (head.code, head.not_executed) == (Code.UNAVAILABLE, False)
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    world.network.run()
    assert new.replies()[second] == (new.replies()[second][0], text("done").SerializeToString())
    assert world.service.seen == ["x"]
    old.transport.close()
    new.transport.close()


def test_a_proxy_is_not_told_and_not_cut(echo: Callable[..., World]) -> None:
    world = echo()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    request = [b"\0\0\0\0\x01", b"e" * 8 + bytes(7) + b"\1", b"", b"", b""]
    request[3] = b"\n" + bytes([len(PATH.path)]) + PATH.path.encode()
    raw.transport.send_message(request)
    world.network.advance(100)
    assert [message[-1] for message in raw.messages] == [b""]
    assert raw.events == ["connected"]
    raw.transport.close()


def test_where_losses_are_not_told_connections_have_no_age() -> None:
    """As over inproc, where nothing can be ended."""
    network = MemoryNetwork(tells_of_loss=False)
    server = Server(network, [Echo()], limits=AGED)
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    for _ in range(10):
        assert network.result(channel.unary_unary(ECHO, text("x"))).value == "x"
        network.advance(10)
    assert channel.counters[Count.CONNECTION_RENEWED] == 0
    channel.close()
    server.stop(0)
    network.advance(3)


def test_a_server_that_stops_tells_nobody_to_come_again(echo: Callable[..., World]) -> None:
    world = echo(Waiting())
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    raw.request(PATH, text("runs").SerializeToString())
    world.network.advance(TOLD)
    del raw.messages[:]
    world.server.stop(100)
    world.network.run()
    notice, _ = raw.replies()[0]
    assert (notice.draining, notice.reconnect) == (True, False)
    world.network.advance(50)
    assert raw.events == ["connected"], "its call may take its time until the server has stopped"
    raw.transport.close()


def test_a_server_that_stops_while_a_connection_is_made_anew(echo: Callable[..., World]) -> None:
    world = echo(Waiting())
    runs = world.call("runs")
    world.network.advance(TOLD)
    stopped = world.server.stop(5)
    world.network.advance(1)
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    assert world.network.result(runs).value == "done"
    world.network.advance(1)
    assert stopped.called


# -- streams -----------------------------------------------------------------------------------


class Ticking:
    """Gives a number each tenth of a second."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.world: StreamWorld | None = None
        self.began = 0

    async def __call__(self, request: Any, context: Context) -> AsyncIterator[StringValue]:
        assert self.world is not None
        self.began += 1
        for number in range(self.most):
            yield text(str(number))
            await self.world.sleep(0.1)


def ticking(streaming: Callable[..., StreamWorld], **options: Any) -> tuple[StreamWorld, Ticking]:
    handler = Ticking()
    world = streaming(handler, **options)
    handler.world = world
    return world, handler


def test_a_stream_goes_on_without_a_gap(streaming: Callable[..., StreamWorld]) -> None:
    world, handler = ticking(streaming)
    reader = world.read()
    world.network.advance(100)
    assert reader.ended is None
    assert reader.items == [str(number) for number in range(len(reader.items))]
    assert len(reader.items) > 990
    assert handler.began == 1
    assert world.channel.counters[Count.CONNECTION_RENEWED] > 5
    assert world.server.counters[Count.CONNECTION_ENDED] == 0, "its SUB socket is renewed, too"
    assert world.server.counters[Count.REPLAY] == 0
    assert peers(world.server) == 1
    reader.done.cancel()
    world.network.run()


def test_a_shared_stream_goes_on_without_a_gap(streaming: Callable[..., StreamWorld]) -> None:
    """Though next to nothing is kept for who has missed something."""
    world, handler = ticking(streaming)
    readers = [Reader(world.channel.unary_stream(TICKS, text("x"))) for _ in range(3)]
    world.network.advance(100)
    for reader in readers:
        assert reader.ended is None
        assert reader.items == [str(number) for number in range(len(reader.items))]
        assert len(reader.items) > 990
    assert handler.began == 1
    assert world.channel.counters[Count.CONNECTION_RENEWED] > 5
    assert world.server.counters[Count.CONNECTION_ENDED] == 0
    for reader in readers:
        reader.done.cancel()
    world.network.advance(10)
    assert world.server.running == 0, "the run ends with the last who shared it"


def test_streams_that_come_and_go_are_all_complete(streaming: Callable[..., StreamWorld]) -> None:
    world = streaming(limits=ServerLimits(connection_age=0.2, connection_age_grace=2.0))
    readers: list[Reader] = []
    for _ in range(500):
        readers.append(world.read(5))
        world.network.advance(0.01)
    world.network.advance(2)
    assert {tuple(reader.items) for reader in readers} == {tuple("01234")}
    assert {reader.ended for reader in readers} == {"well"}
    assert len(world.service.contexts) == 500
    assert world.channel.counters[Count.CONNECTION_RENEWED] > 15


async def upload(request: Any, context: Context) -> StringValue:
    return text(" ".join([item.value async for item in request]))


def test_a_stream_of_requests_goes_by_its_own_connection_to_its_end(
    streaming: Callable[..., StreamWorld],
) -> None:
    world = streaming(upload, limits=ServerLimits(connection_age=10.0, connection_age_grace=30.0))

    async def requests() -> AsyncIterator[StringValue]:
        for number in range(300):
            yield text(str(number))
            await world.sleep(0.1)

    answer = world.collect(requests(), timeout=60)
    world.network.advance(TOLD)
    other = world.collect([text("a"), text("b")])
    assert world.network.result(other).value == "a b"
    world.network.advance(20)
    assert world.network.result(answer).value == " ".join(map(str, range(300)))
    world.network.advance(1)
    assert peers(world.server) == 1
    assert world.server.counters[Count.CONNECTION_ENDED] == 0


def test_a_stream_of_requests_is_ended_with_its_grace(
    streaming: Callable[..., StreamWorld],
) -> None:
    world = streaming(upload)

    async def requests() -> AsyncIterator[StringValue]:
        while True:
            yield text("x")
            await world.sleep(0.1)

    answer = world.collect(requests())
    world.network.advance(TOLD + 5)
    with pytest.raises(Unavailable, match=r"connection_age.*may have been executed"):
        world.network.result(answer)
    assert world.server.running == 0
    world.network.advance(2)


async def repeat(request: Any, context: Context) -> AsyncIterator[StringValue]:
    async for item in request:
        yield item


def test_a_stream_both_ways_goes_on_by_the_new_connection(
    streaming: Callable[..., StreamWorld],
) -> None:
    world = streaming(repeat)

    async def requests() -> AsyncIterator[StringValue]:
        for number in range(900):
            yield text(str(number))
            await world.sleep(0.1)

    reader = Reader(world.chat(requests()))
    world.network.advance(95)
    assert reader.ended == "well"
    assert reader.items == [str(number) for number in range(900)]
    assert len(world.service.contexts) == 1
    assert world.channel.counters[Count.CONNECTION_RENEWED] > 5
    assert world.server.counters[Count.CONNECTION_ENDED] == 0


# -- another server behind the address ---------------------------------------------------------


def behind_a_balancer(world: StreamWorld, handler: Any) -> Server:
    """Another server, which whoever connects from now on gets to at the same address."""
    # Who has connected stays with the first one. Any: no network has an address twice.
    first = cast("Any", world.network)._listeners.pop(ADDRESS)
    second = Server(world.network, [Streaming(handler)])
    second.listen(ADDRESS, publisher="inproc://second.streams")
    assert first is not None
    return second


def test_streams_stay_with_their_server_if_the_new_connection_reaches_another(
    streaming: Callable[..., StreamWorld],
) -> None:
    world, handler = ticking(streaming)
    world.network.advance(0)
    reader = world.read()
    world.network.advance(1)
    second = behind_a_balancer(world, upload)
    world.network.advance(TOLD + 3)
    assert world.network.result(world.collect([text("a")])).value == "a"
    assert (second.running, handler.began) == (0, 1)
    assert not reader.has_ended
    world.network.advance(20)
    # The server has ended the connection after the grace, and the client cannot find it again.
    assert isinstance(reader.ended, Unavailable)
    assert "cut short" in reader.ended.message
    assert len(reader.items) > 120
    assert reader.items == [str(number) for number in range(len(reader.items))]
    second.stop(0)
    world.network.run()


def test_a_resumable_stream_goes_on_with_another_server(
    streaming: Callable[..., StreamWorld],
) -> None:
    async def from_there(request: Any, context: Context) -> AsyncIterator[StringValue]:
        for number in range(context.first_item, 10**9):
            yield text(str(number))
            await world.sleep(0.1)

    world = streaming(from_there, publishers=["inproc://second.streams"])
    reader = Reader(world.channel.unary_stream(RESUME, text("x")))
    world.network.advance(1)
    second = behind_a_balancer(world, from_there)
    world.network.advance(40)
    assert reader.ended is None
    assert reader.items == [str(number + 1) for number in range(len(reader.items))]
    assert len(reader.items) > 300
    assert world.channel.counters[Count.STREAM_RESUMED] == 1
    reader.done.cancel()
    world.network.run()
    second.stop(0)
    world.network.run()
