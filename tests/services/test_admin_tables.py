"""``txzmq.rpc.v1.Admin``: streams, limits and endpoints, told as they are; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Waiting, text
from tests.rpc.streaming import COUNT, TICKS, Reader, returning
from tests.services.administered import World, answered, closing, refused
from txzmq.rpc import Channel, Code, Context, Server, ServerLimits
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.admin import (
    Admin,
    GetLimitsRequest,
    ListEndpointsRequest,
    ListEndpointsResponse,
    StreamFigures,
)
from txzmq.rpc.limits import ReplyCacheLimits
from txzmq.testing import MemoryNetwork


@pytest.fixture
def worlds() -> Iterator[Any]:
    yield from closing()


# -- streams ------------------------------------------------------------------------------------


def test_a_stream_that_is_stuck_is_seen(worlds: Any) -> None:
    world: World = worlds(handler=returning([text("y")] * 100))
    client = world.connect(stream_window=4)
    stream = client.unary_stream(COUNT, text("x"))
    world.network.advance(2)  # nobody reads
    (figures,) = world.streams()
    assert (figures.id, figures.method, figures.peer_id) == (1, COUNT.path, 2)
    assert figures.state == StreamFigures.OPEN
    assert (figures.running, figures.blocked, figures.shared) == (True, True, False)
    assert (figures.items, figures.unacknowledged_items, figures.window_items) == (4, 4, 4)
    assert figures.unacknowledged_bytes == 4 * text("y").ByteSize()
    (peer,) = world.others()
    assert (peer.streams, peer.unacknowledged_items) == (1, 4)
    assert peer.unacknowledged_bytes == figures.unacknowledged_bytes
    assert world.limit("streams_bytes").used == figures.unacknowledged_bytes
    reader = Reader(stream)
    world.network.advance(10)
    assert reader.items == ["y"] * 100
    assert world.streams() == []


def test_streams_of_all_states(worlds: Any) -> None:
    world: World = worlds()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    raw.request(RequestHead(COUNT.path, None, (), open_stream=OpenStream()))  # and no more
    client = world.connect()
    stream = client.unary_stream(COUNT, text("x"))
    world.network.advance(1)
    opening, open_ = world.streams()
    assert (opening.state, opening.peer_id) == (StreamFigures.OPENING, 2)
    assert (open_.state, open_.peer_id, open_.blocked) == (StreamFigures.OPEN, 3, False)
    stream.cancel()
    raw.transport.close()
    world.network.advance(30)
    assert world.streams() == []


def test_a_stream_whose_handler_does_not_end(worlds: Any) -> None:
    going: list[Deferred[None]] = []

    async def stubborn(request: StringValue, context: Context) -> Any:
        try:
            yield text("y")
            await Deferred[None]()
        finally:
            going.append(Deferred())
            await going[0]

    world: World = worlds(handler=stubborn)
    streams = [world.connect().unary_stream(COUNT, text(str(n))) for n in range(2)]
    world.network.advance(1)
    streams[0].cancel()
    world.network.advance(1)
    states = [(stream.id, stream.state, stream.running) for stream in world.streams()]
    assert states == [(1, StreamFigures.ENDED, True), (2, StreamFigures.OPEN, True)]
    assert [stream.id for stream in world.streams(page_size=1)] == [1]
    assert [stream.id for stream in world.streams(page_token="1")] == [2]
    streams[1].cancel()
    world.network.advance(1)
    for deferred in going:
        deferred.callback(None)
    world.network.advance(1)
    assert world.streams() == []


def test_a_shared_stream_is_one_with_its_callers(worlds: Any) -> None:
    world: World = worlds()
    channels = [world.connect() for _ in range(3)]
    readers = [Reader(channel.unary_stream(TICKS, text("x"))) for channel in channels]
    world.network.advance(1)
    world.endless.give()
    world.network.advance(1)
    (figures,) = world.streams()
    assert (figures.shared, figures.callers, figures.peer_id) == (True, 3, 0)
    assert (figures.items, figures.unacknowledged_items, figures.window_items) == (1, 0, 0)
    assert [peer.shared_streams for peer in world.others()] == [1, 1, 1]
    assert world.limit("subscribers").used == 3
    assert all(reader.items == ["1"] for reader in readers)


# -- limits -------------------------------------------------------------------------------------


def test_limits_and_how_full_they_are(worlds: Any) -> None:
    limits = ServerLimits(
        running=10,
        running_per_method={ECHO.path: 3},
        queued_per_method={ECHO.path: 7},
        max_timeout=None,
        reply_cache=ReplyCacheLimits(entries=5),
    )
    world: World = worlds(limits=limits)
    client = world.connect()
    for _ in range(5):
        world.call(client)
    running = world.limit("running")
    assert (running.value, running.used, running.unit) == (10, 3, "")
    assert world.limit("queued").used == 2
    of_method = world.limit("running_per_method", ECHO.path)
    assert (of_method.value, of_method.used) == (3, 3)
    assert world.limit("queued_per_method", ECHO.path).used == 2
    fullest = world.limit("running_per_peer")
    assert (fullest.used, fullest.fullest) == (3, "peer 2")
    assert world.limit("queued_per_peer").used == 2
    held = world.limit("request_bytes")
    assert (held.used, held.unit) == (5 * text("x").ByteSize(), "bytes")
    assert world.limit("request_bytes_per_peer").used == held.used
    endless = world.limit("max_timeout")
    assert (endless.HasField("value"), endless.HasField("used"), endless.unit) == (
        False,
        False,
        "seconds",
    )
    assert not world.limit("message_size").HasField("used")
    cache = world.limit("reply_cache.entries")
    assert (cache.value, cache.used) == (5, 0)
    assert world.limit("reply_cache.age").unit == "seconds"
    assert (world.limit("streams_per_peer").used, world.limit("streams_per_peer").fullest) == (
        0,
        "",
    )


def test_every_limit_is_told_once(worlds: Any) -> None:
    world: World = worlds(limits=ServerLimits(reply_cache=None))
    told = world.network.result(world.admin.get_limits(GetLimitsRequest()))
    names = [limit.name for limit in told.limits]
    tables = {"running_per_method", "queued_per_method", "reply_cache"}
    assert sorted(names) == sorted(set(ServerLimits.__slots__) - tables)
    sizes = [limit for limit in told.limits if "bytes" in limit.name or "size" in limit.name]
    assert {limit.unit for limit in sizes} == {"bytes"}
    defaults = ServerLimits()
    seconds = {name for name in names if isinstance(getattr(defaults, name), float)}
    assert seconds <= {limit.name for limit in told.limits if limit.unit == "seconds"}


# -- a server that has no room ------------------------------------------------------------------


def test_who_asks_is_answered_where_the_server_is_full(worlds: Any) -> None:
    world: World = worlds(limits=ServerLimits(running=1, queued=1))
    client = world.connect()
    running, waiting = world.call(client), world.call(client)
    refused(world, world.call(client), Code.RESOURCE_EXHAUSTED, "ServerLimits.queued")
    (peer,) = world.others()
    assert (peer.calls_running, peer.calls_queued) == (1, 1)
    assert [world.limit(name).used for name in ("running", "queued")] == [1, 1]
    assert world.method(ECHO.path).queued == 1
    assert world.streams() == []
    assert (world.server.running, world.server.queued) == (1, 1)  # it has taken nobody's place
    for _ in range(2):
        world.service.results.pop(0).callback(text("done"))
        world.network.run()
    assert [answered(each) for each in (running, waiting)] == ["done", "done"]


def test_who_asks_is_answered_whose_own_calls_are_too_many(worlds: Any) -> None:
    world: World = worlds(limits=ServerLimits(running_per_peer=1, queued_per_peer=1))
    calls = [world.call(world.asking), world.call(world.asking)]
    (peer,) = world.peers().peers
    assert (peer.calls_running, peer.calls_queued) == (1, 1)
    for call in calls:
        call.cancel()
    world.network.run()


def test_who_asks_overtakes_and_frees_its_place_where_an_interceptor_waits(worlds: Any) -> None:
    gates: list[Deferred[None]] = []

    async def slow(request: Any, context: Context, go_on: Any) -> Any:
        if context.method.startswith("/txzmq") and world_is_full:
            gates.append(Deferred())
            await gates[-1]
        return await go_on(request)

    world_is_full = False
    world: World = worlds(limits=ServerLimits(running=1, queued=1), interceptors=[slow])
    client = world.connect()
    calls = [world.call(client), world.call(client)]
    world_is_full = True
    asked = world.admin.get_limits(GetLimitsRequest())
    world.network.run()
    assert (world.server.running, world.server.queued) == (2, 1)
    gates.pop().callback(None)
    world.network.run()
    assert asked.called
    assert (world.server.running, world.server.queued) == (1, 1)
    for call in calls:
        call.cancel()
    world.network.run()
    assert world.server.running == 0


# -- endpoints ----------------------------------------------------------------------------------


def test_the_endpoints_of_channels(worlds: Any) -> None:
    network = MemoryNetwork()
    addresses = [f"inproc://{name}" for name in "abc"]
    served = [Server(network, [Waiting()]) for _ in range(2)]
    for server, address in zip(served, addresses, strict=False):
        server.listen(address)
    channels = [Channel(network, addresses), Channel(network, addresses[:1])]
    network.run()
    channels[1].unary_unary(ECHO, text("x")).addErrback(lambda _: None)
    network.run()
    world: World = worlds(admin=Admin(channels=dict(zip(["stock", "mail"], channels, strict=True))))

    def page(**request: Any) -> ListEndpointsResponse:
        made = world.admin.list_endpoints(ListEndpointsRequest(**request))
        return world.network.result(made)

    first = page(page_size=3)
    assert [(each.channel, each.address, each.state) for each in first.endpoints] == [
        ("stock", "inproc://a", "READY"),
        ("stock", "inproc://b", "READY"),
        ("stock", "inproc://c", "TRANSIENT_FAILURE"),
    ]
    assert "nobody listens" in first.endpoints[2].reason
    last = page(page_size=3, page_token=first.next_page_token)
    assert [(each.channel, each.calls) for each in last.endpoints] == [("mail", 1)]
    assert last.next_page_token == ""
    stock, mail = last.channels
    assert (stock.name, stock.state, stock.endpoints, stock.waiting) == ("stock", "READY", 3, 0)
    assert (mail.request_bytes, mail.backlog) == (text("x").ByteSize(), 256 * 1024 * 1024)
    for channel in channels:
        channel.close()
    assert page().channels[0].state == "SHUTDOWN"
    for server in served:
        server.stop(0)
    network.advance(1)


def test_channels_without_names_are_called_by_their_places(worlds: Any) -> None:
    world: World = worlds(admin=Admin(channels=[Channel(MemoryNetwork(), ADDRESS)]))
    made = world.admin.list_endpoints(ListEndpointsRequest())
    assert [each.name for each in world.network.result(made).channels] == ["0"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"channels": 5}, TypeError, "channels must be channels by name, or a sequence"),
        ({"channels": "x"}, TypeError, "channels must be"),
        ({"channels": ["tcp://a:1"]}, TypeError, r"channels\['0'\] must be a Channel"),
        ({"channels": [Channel]}, TypeError, r"channels\['0'\] must be a Channel"),
        ({"channels": {1: None}}, TypeError, "the name of a channel"),
        ({"channels": {"": None}}, ValueError, "the name of a channel"),
        ({"metrics": object()}, TypeError, "metrics must be a Metrics or None"),
    ],
)
def test_wrong_values_are_refused(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Admin(**options)


def test_an_admin_is_for_one_server() -> None:
    admin = Admin()
    Server(MemoryNetwork(), [admin])
    with pytest.raises(ValueError, match="this Admin is another server's"):
        Server(MemoryNetwork(), [admin])


def test_nothing_is_remembered_without_one() -> None:
    server = Server(MemoryNetwork(), [Waiting()])
    listener = vars(server)["_listeners"]
    server.listen(ADDRESS)
    assert listener[0].records is None
    server.stop(0)
