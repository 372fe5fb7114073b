"""``txzmq.rpc.v1.Admin``: who is connected and what is called, told as it is; in virtual time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

import txzmq
from tests.rpc.observing import Calls
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, MISSING, OTHER, Waiting, text
from tests.rpc.streaming import COUNT, TICKS
from tests.services.administered import World, closing, refused
from txzmq.rpc import Code, Context, NotFound, ServerLimits
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.admin import (
    MAX_PAGE,
    PAGE,
    SERVICE_NAME,
    Admin,
    GetServerRequest,
    ListEndpointsRequest,
    ListMethodsRequest,
    ListPeersRequest,
    ListStreamsRequest,
)
from txzmq.rpc.metrics import BUCKETS, UNKNOWN, Histogram, Metrics
from txzmq.rpc.transport import SendResult
from txzmq.rpc.v1.admin_txzmq import AdminMethods


@pytest.fixture
def worlds() -> Iterator[Any]:
    yield from closing()


# -- peers --------------------------------------------------------------------------------------


def test_who_is_connected_since_when_and_what_they_do(worlds: Any) -> None:
    world: World = worlds(limits=ServerLimits(running_per_peer=2))
    before = time.time()
    client = world.connect()
    calls = [world.call(client, timeout=100) for _ in range(3)]
    world.network.advance(40)
    (peer,) = world.others()
    assert (peer.id, peer.identity, peer.public_key) == (2, "", "")
    assert (peer.address, peer.endpoint, peer.proxy) == ("memory", ADDRESS, False)
    assert peer.user_agent == f"txzmq/{txzmq.__version__}"
    since = peer.since.ToNanoseconds() / 1e9
    assert before - 40.01 <= since <= time.time() - 39.99
    assert (peer.calls_started, peer.calls_running, peer.calls_queued) == (3, 2, 1)
    for _ in calls:
        world.service.results.pop(0).callback(text("y"))
        world.network.run()
    world.call(client, method=OTHER)
    world.call(client, method=MISSING)
    (peer,) = world.others()
    assert (peer.calls_started, peer.calls_running, peer.calls_queued) == (5, 0, 0)
    client.close()
    world.network.run()
    assert world.others() == []
    assert [one.calls_started for one in world.peers().peers] == [5]  # its own questions


def test_streams_of_peers_and_what_they_have_not_acknowledged(worlds: Any) -> None:
    world: World = worlds()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    for _ in range(2):
        raw.request(RequestHead(COUNT.path, None, (), open_stream=OpenStream(3, 1000)))
    raw.request(RequestHead(TICKS.path, None, (), open_stream=OpenStream()))
    world.network.run()
    (peer,) = world.others()
    assert (peer.streams, peer.shared_streams, peer.calls_started) == (2, 1, 3)
    assert (peer.unacknowledged_items, peer.unacknowledged_bytes) == (0, 0)
    assert peer.user_agent == ""
    raw.transport.close()


def test_a_client_that_does_not_read_its_replies(worlds: Any) -> None:
    world: World = worlds()
    client = world.connect()
    world.call(client)
    # There is no other place to look: a peer whose socket is full.
    listener = vars(world.server)["_listeners"][0]
    send = listener.transport.send_message

    def send_message(message: list[bytes]) -> SendResult:
        return SendResult.BLOCKED if message[0] == listener.wire.peers[1] else send(message)

    listener.transport.send_message = send_message
    world.service.results.pop().callback(text("y" * 1000))
    world.network.run()
    (peer,) = world.others()
    assert 1000 < peer.backlog_bytes < 1500
    limit = world.limit("backlog_per_peer")
    assert (limit.used, limit.fullest) == (peer.backlog_bytes, "peer 2")
    assert world.limit("backlog").used == peer.backlog_bytes
    listener.transport.send_message = send


def test_peers_come_in_pages_whatever_goes_meanwhile(worlds: Any) -> None:
    world: World = worlds()
    clients = [world.connect() for _ in range(5)]
    for client in clients:
        world.call(client, method=OTHER)
    first = world.peers(page_size=2)
    assert [peer.id for peer in first.peers] == [1, 2]
    for client in clients[:2]:
        client.close()
    world.network.run()
    late = world.connect()
    world.call(late, method=OTHER)
    second = world.peers(page_size=2, page_token=first.next_page_token)
    assert [peer.id for peer in second.peers] == [4, 5]
    third = world.peers(page_size=2, page_token=second.next_page_token)
    assert ([peer.id for peer in third.peers], third.next_page_token) == ([6, 7], "")


def test_a_page_has_a_usual_size_and_a_largest(worlds: Any) -> None:
    world: World = worlds()
    raws = [RawClient(world.network, ADDRESS) for _ in range(MAX_PAGE + 1)]
    world.network.run()
    for raw in raws:
        raw.request(RequestHead(OTHER.path, None, ()), text("x").SerializeToString())
    world.network.run()
    assert len(world.peers().peers) == PAGE
    assert len(world.peers(page_size=10**6).peers) == MAX_PAGE
    for raw in raws:
        raw.transport.close()


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "\u0661", "9" * 21, "\0"])
def test_tokens_that_were_not_given(worlds: Any, token: str) -> None:
    world: World = worlds()
    for made in (
        world.admin.list_peers(ListPeersRequest(page_token=token)),
        world.admin.list_streams(ListStreamsRequest(page_token=token)),
        world.admin.list_endpoints(ListEndpointsRequest(page_token=token)),
    ):
        refused(world, made, Code.INVALID_ARGUMENT, "page_token must be the next_page_token")


def test_a_page_of_less_than_nothing(worlds: Any) -> None:
    world: World = worlds()
    made = world.admin.list_peers(ListPeersRequest(page_size=-1))
    refused(world, made, Code.INVALID_ARGUMENT, "page_size must be 0 or more, not -1")


def test_peers_of_which_nobody_tells_that_they_are_gone(worlds: Any) -> None:
    world: World = worlds(tells_of_loss=False)  # as inproc
    client = world.connect()
    world.call(client, method=OTHER)
    client.close()
    world.network.run()
    assert [peer.calls_started for peer in world.others()] == [1]


def test_many_connections_are_known_however_long_they_do_nothing(
    worlds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("txzmq.rpc._wire.server._MAX_IDLE_PEERS", 4)
    monkeypatch.setattr("txzmq.rpc._server.peers._MANY", 6)
    world: World = worlds()
    clients = [world.connect() for _ in range(20)]
    for client in clients:
        world.call(client, method=OTHER)
    others = world.others()
    assert [peer.calls_started for peer in others] == [1] * 20
    assert {peer.user_agent for peer in others} == {f"txzmq/{txzmq.__version__}"}
    for client in clients:
        client.close()
    world.network.run()
    assert world.others() == []


def test_where_nobody_tells_that_they_are_gone_there_is_an_end_to_what_is_remembered(
    worlds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("txzmq.rpc._wire.server._MAX_IDLE_PEERS", 4)
    monkeypatch.setattr("txzmq.rpc._server.peers._MANY", 6)
    world: World = worlds(tells_of_loss=False)
    for _ in range(50):
        client = world.connect()
        world.call(client, method=OTHER)
        client.close()
        world.network.run()
    assert len(world.others()) <= 6


# -- methods ------------------------------------------------------------------------------------


class Failing(Waiting):
    def other(self, request: StringValue, context: Context) -> Any:
        raise NotFound("nobody")


def test_methods_have_figures_from_the_beginning(worlds: Any) -> None:
    world: World = worlds(service=Failing())
    client = world.connect()
    for seconds in (0.001, 0.001, 0.001, 40.0):
        world.call(client, timeout=100)
        world.network.advance(seconds)
        world.service.results.pop().callback(text("y"))
        world.network.run()
    world.call(client)
    world.call(client, method=OTHER)
    world.call(client, method=MISSING)
    echo = world.method(ECHO.path)
    assert (echo.kind, echo.started, echo.in_flight, echo.queued) == ("unary_unary", 5, 1, 0)
    assert dict(echo.ended) == {"OK": 4}
    assert 0.0005 < echo.seconds_p50 <= 0.001
    assert 30 < echo.seconds_p90 <= echo.seconds_p99 <= 60
    assert (echo.requests, echo.responses) == (4, 4)
    assert echo.request_bytes == 4 * text("x").ByteSize() == echo.response_bytes
    assert dict(world.method(OTHER.path).ended) == {"NOT_FOUND": 1}
    assert dict(world.method(UNKNOWN).ended) == {"UNIMPLEMENTED": 1}
    count = world.method(COUNT.path)
    assert (count.kind, count.started, count.seconds_p99) == ("unary_stream", 0, 0.0)
    mine = world.method(AdminMethods.list_methods.path)
    assert mine.in_flight == 1
    client.close()


def test_the_seconds_of_a_method_are_told_by_a_histogram(worlds: Any) -> None:
    world: World = worlds()
    client = world.connect()
    for seconds in (0.001, 0.001, 40.0, 1000.0):
        world.call(client, timeout=2000)
        world.network.advance(seconds)
        world.service.results.pop().callback(text("y"))
        world.network.run()
    answer = world.network.result(world.admin.list_methods(ListMethodsRequest()))
    counts = {each.path: [*each.seconds_counts] for each in answer.methods}
    bounds = [*answer.seconds_bounds]
    assert bounds == [*BUCKETS]
    assert len(counts[ECHO.path]) == len(bounds) + 1
    found = {bound: count for bound, count in zip(bounds, counts[ECHO.path], strict=False) if count}
    assert found == {0.001: 2, 60.0: 1}
    assert counts[ECHO.path][-1] == 1
    assert counts[OTHER.path] == []


def test_what_the_server_is_and_has_in_all(worlds: Any) -> None:
    metrics = Metrics(name="shop", version="1.4", instance="here:1")
    before = time.time() - 0.001  # it is told in milliseconds
    limits = ServerLimits(running=1)
    world: World = worlds(admin=Admin(metrics=metrics), observer=metrics, limits=limits)
    client = world.connect()
    stream = client.unary_stream(COUNT, text("x"))
    world.network.run()
    world.call(client)
    world.call(client, method=OTHER)
    found = world.network.result(world.admin.get_server(GetServerRequest()))
    assert (found.name, found.version, found.instance) == ("shop", "1.4", "here:1")
    assert (found.running, found.running_limit, found.queued) == (1, 1, 1)
    assert (found.streams, found.peers) == (1, 2)
    stream.cancel()
    assert before <= found.since.ToNanoseconds() / 1e9 <= time.time() + 0.001


def test_methods_come_in_pages(worlds: Any) -> None:
    world: World = worlds()
    paths: list[str] = []
    token = ""
    while True:
        request = ListMethodsRequest(page_size=4, page_token=token)
        page = world.network.result(world.admin.list_methods(request))
        paths += [method.path for method in page.methods]
        token = page.next_page_token
        if not token:
            break
    assert paths == sorted(paths)
    assert len(paths) == len(set(paths)) == 3 + 5 + 6
    assert f"/{SERVICE_NAME}/ListPeers" in paths


@pytest.mark.parametrize("given", [True, False])
def test_a_call_is_counted_once(worlds: Any, given: bool) -> None:
    metrics = Metrics()
    admin = Admin(metrics=metrics if given else None)
    world: World = worlds(admin=admin, observer=metrics)
    world.call(world.connect(), method=OTHER)
    assert world.method(OTHER.path).started == 1
    counted = [each for each in metrics.methods if each.method == OTHER.path]
    assert [each.started for each in counted] == [1]


def test_the_servers_own_observer_is_told_as_ever(worlds: Any) -> None:
    calls = Calls()
    world: World = worlds(observer=calls)
    world.call(world.connect(), method=OTHER)
    world.peers()
    asked = AdminMethods.list_peers.path
    assert [record.method for record in calls.records] == [asked, OTHER.path, asked]
    assert not calls.problems


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([], 0.5, 0.0),
        ([1.5], 1.0, 2.0),
        ([0.5, 1.5], 0.5, 1.0),
        ([0.5, 0.5, 0.5, 0.5], 0.25, 0.25),
        ([0.5, 3.5], 0.75, 3.0),
        ([9.0], 0.5, 4.0),  # above the last bound
        ([0.5, 9.0], 0.99, 4.0),
    ],
)
def test_quantiles(values: list[float], part: float, expected: float) -> None:
    histogram = Histogram([1.0, 2.0, 4.0])
    for value in values:
        histogram.add(value)
    assert histogram.quantile(part) == expected
