"""How the RPC layer sets up its sockets, and what of it may be changed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import zmq

from tests.rpc.retried_calls import HEDGE, IDEMPOTENT, config
from tests.rpc.service import ECHO, Echo, Waiting, World, text
from tests.support import Loop, gather
from txzmq import ZmqFactory
from txzmq._backend import SHARES_MEMORY
from txzmq._budget import TRACKED, ByteBudget
from txzmq.rpc import Channel, Context, ResourceExhausted, Server, SocketOptions, UnaryResult
from txzmq.rpc.transport import SendResult, ZmqNetwork

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture(
    params=[
        pytest.param(
            True,
            id="shared",
            marks=pytest.mark.skipif(not SHARES_MEMORY, reason="libzmq would read what PyPy moves"),
        ),
        pytest.param(False, id="copied"),
    ]
)
def shares_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether libzmq tells when it is done with a message, as only on CPython."""
    if not request.param:
        monkeypatch.setattr("txzmq.rpc._net.zmq_network.SHARES_MEMORY", False)
        monkeypatch.setattr("txzmq.connection._NO_COPY", sys.maxsize)
    shares: bool = request.param
    return shares


class Silent:
    """A handler of any kind of socket, to which nothing happens."""

    def __getattr__(self, name: str) -> Any:
        return self.ignore

    def ignore(self, *_: Any) -> None:
        pass


def set_options(connection: Any, *names: str) -> dict[str, int]:
    return {name: connection.socket.get(zmq.SocketOption[name]) for name in names}


COMMON = {
    "SNDHWM": 1_000 if SHARES_MEMORY else 13,
    "RCVHWM": 1_000,
    "TCP_KEEPALIVE": 1,
    "TCP_KEEPALIVE_IDLE": 20,
    "TCP_KEEPALIVE_INTVL": 5,
    "TCP_KEEPALIVE_CNT": 3,
    "TCP_MAXRT": 30_000,
    "HEARTBEAT_IVL": 0,
    "MAXMSGSIZE": 5_000_000,
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "connect",
            {"LINGER": 100, "IMMEDIATE": 1, "CONNECT_TIMEOUT": 5_000, "HANDSHAKE_IVL": 5_000},
        ),
        ("listen", {"LINGER": 1_000, "BACKLOG": 1_024, "HANDSHAKE_IVL": 10_000}),
        (
            "dial_out",
            {"LINGER": 1_000, "IMMEDIATE": 1, "CONNECT_TIMEOUT": 5_000, "HANDSHAKE_IVL": 5_000},
        ),
    ],
)
def test_the_defaults_are_those_of_the_table(
    one_loop: Loop, kind: str, expected: dict[str, int]
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    address = ANY_PORT if kind == "listen" else "tcp://127.0.0.1:1"
    make: Any = getattr(ZmqNetwork(factory), kind)
    connection = make(address, Silent(), {"MAXMSGSIZE": 5_000_000})
    expected = {**COMMON, **expected}
    assert set_options(connection, *expected) == expected
    if kind != "listen":
        assert 100 <= connection.socket.get(zmq.RECONNECT_IVL) <= 300
        assert 600 <= connection.socket.get(zmq.RECONNECT_IVL_MAX) <= 900
    factory.shutdown()


def test_what_may_be_changed_reaches_the_sockets(one_loop: Loop) -> None:
    options = SocketOptions(
        send_high_water_mark=7,
        receive_high_water_mark=8,
        keepalive_idle=None,
        retransmit_timeout=1.5,
        connect_timeout=0.5,
        handshake_timeout=2,
        reconnect_interval=(1, 1),
        reconnect_interval_max=(2, 2),
        backlog=9,
        send_buffer=10_000,
        receive_buffer=20_000,
    )
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Echo()], socket_options=options)
    channel = Channel(factory, server.listen(ANY_PORT), socket_options=options)
    types: list[int] = []
    for connection in factory.connections:
        expected = {
            "SNDHWM": 7,
            "RCVHWM": 8,
            "TCP_KEEPALIVE": -1,
            "TCP_MAXRT": 1_500,
            "HANDSHAKE_IVL": 2_000,
            "SNDBUF": 10_000,
            "RCVBUF": 20_000,
        }
        if connection.socketType == zmq.XPUB:
            # Messages of all streams of a client, and subscriptions.
            expected |= {"SNDHWM": 70, "RCVHWM": 2, "BACKLOG": 9}
        elif connection.socketType == zmq.ROUTER:
            expected["BACKLOG"] = 9
        else:
            expected |= {"CONNECT_TIMEOUT": 500, "RECONNECT_IVL": 1_000, "RECONNECT_IVL_MAX": 2_000}
        assert set_options(connection, *expected) == expected
        types.append(connection.socketType)
    assert sorted(types) == sorted((zmq.DEALER, zmq.ROUTER, zmq.XPUB))
    channel.close()
    factory.shutdown()


@pytest.mark.parametrize(
    "wrong",
    [
        {"send_high_water_mark": 0},
        {"receive_high_water_mark": 0},
        {"send_budget": 0},
        {"backlog": 0},
        {"keepalive_idle": 0},
        {"connect_timeout": 0},
        {"reconnect_interval": (0.3, 0.1)},
        {"reconnect_interval_max": (0, 1)},
    ],
)
def test_settings_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SocketOptions(**wrong)


class Tracker:
    done = False


def test_a_budget_counts_what_is_held_and_takes_one_in_any_case() -> None:
    budget = ByteBudget(100)
    trackers = [Tracker() for _ in range(3)]
    assert budget.has_room(b"a", 1_000)
    for tracker in trackers[:2]:
        budget.add(b"a", 45, tracker)
    assert budget.has_room(b"a", 10)
    assert not budget.has_room(b"a", 11)
    assert budget.has_room(b"b", 11)
    trackers[0].done = True
    assert budget.has_room(b"a", 55)
    budget.forget(b"a")
    assert budget.has_room(b"a", 1_000)


def test_a_budget_tracks_one_message_in_a_sixteenth() -> None:
    budget = ByteBudget(1_600)
    trackers: list[Tracker] = []
    sent = 0
    while budget.has_room(b"a", 10):
        tracker = Tracker() if budget.wants_tracker(b"a", 10) else None
        if tracker is not None:
            trackers.append(tracker)
        budget.add(b"a", 10, tracker)
        sent += 10
    assert (sent, len(trackers)) == (1_600, 16)
    trackers[0].done = True
    assert budget.has_room(b"a", 100)
    assert not budget.has_room(b"a", 101)
    for tracker in trackers:
        tracker.done = True
    assert budget.has_room(b"a", 1_600)
    budget.add(b"a", 10, None)
    assert budget.has_room(b"a", 5_000), "nothing that is tracked is held"


def test_a_budget_forgets_peers_to_which_all_was_sent() -> None:
    budget = ByteBudget(100)
    for number in range(10_000):
        tracker = Tracker()
        tracker.done = True
        budget.add(number.to_bytes(4, "big"), 45, tracker)
    assert len(budget) <= 2_000


@pytest.mark.parametrize(
    ("wanted", "largest", "expected"),
    [
        ({}, {}, 16),
        ({"send_budget": 10_000}, {"MAXMSGSIZE": 1_000}, 10),
        ({"send_budget": 10_000}, {"MAXMSGSIZE": 3_001}, 3),
        ({"send_budget": 10_000}, {"MAXMSGSIZE": 20_000}, 1),
        ({"send_budget": 10_000, "send_high_water_mark": 7}, {"MAXMSGSIZE": 1_000}, 7),
    ],
)
@pytest.mark.parametrize("kind", ["connect", "listen", "dial_out"])
def test_where_nothing_tells_of_messages_the_budget_bounds_their_number(
    one_loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    wanted: dict[str, int],
    largest: dict[str, int],
    expected: int,
) -> None:
    monkeypatch.setattr("txzmq.rpc._net.zmq_network.SHARES_MEMORY", False)
    factory = ZmqFactory(one_loop.reactor)
    settings: dict[str, Any] = wanted
    make: Any = getattr(ZmqNetwork(factory, SocketOptions(**settings)), kind)
    connection = make(ANY_PORT if kind == "listen" else "tcp://127.0.0.1:1", Silent(), largest)
    assert set_options(connection, "SNDHWM") == {"SNDHWM": expected}
    factory.shutdown()


@pytest.mark.usefixtures("shares_memory")
def test_l2_what_the_share_of_a_client_has_no_room_for_waits_and_is_sent(one_loop: Loop) -> None:
    class Large(Echo):
        def echo(self, request: object, context: Context) -> UnaryResult[Any]:
            return text("x" * 1_000_000)

    factory = ZmqFactory(one_loop.reactor)
    options = SocketOptions(send_budget=5_000_000, send_buffer=100_000, receive_buffer=100_000)

    async def main() -> None:
        server = Server(factory, [Large()], socket_options=options)
        endpoint = server.listen(ANY_PORT)
        channel = Channel(factory, endpoint, socket_options=options)
        await channel.unary_unary(ECHO, text("x"))
        answers = [channel.unary_unary(ECHO, text("x"), timeout=60) for _ in range(50)]
        # More than the budget, in turns: what has no room waits in the server's own backlog.
        assert {len(answer.value) for answer in await gather(list(answers))} == {1_000_000}
        channel.close()
        await server.stop()
        factory.shutdown()

    one_loop.run(main)


def test_l2_large_messages_are_refused_when_the_peers_share_is_used_up(
    one_loop: Loop, shares_memory: bool
) -> None:
    """Thousand messages of a megabyte would be within the high-water mark."""
    factory = ZmqFactory(one_loop.reactor)
    options = SocketOptions(send_budget=5_000_000, send_buffer=100_000, receive_buffer=100_000)
    network: Any = ZmqNetwork(factory, options)

    async def main() -> None:
        got: list[list[bytes]] = []
        handler: Any = Silent()
        handler.received = got.append
        server = network.listen(ANY_PORT, handler, {"MAXMSGSIZE": 1_000_000})
        client = factory.context.socket(zmq.DEALER)
        client.set(zmq.RCVHWM, 1)
        client.set(zmq.RCVBUF, 100_000)
        client.connect(server.endpoint)
        client.send(b"x")
        await one_loop.until(lambda: bool(got))
        peer = got[0][0]
        large = bytes(1_000_000)
        sent = 0
        while server.send_message([peer, b"", large]) is SendResult.SENT:
            sent += 1
        assert 5 <= sent <= 20, "the kernel takes some"
        if shares_memory:  # else the high-water mark has no room for a small one either
            assert server.send_message([peer, b"", bytes(TRACKED - 1)]) is SendResult.SENT
        received = 0
        while received < sent:
            if client.poll(0):
                client.recv_multipart()
                received += 1
            await one_loop.sleep(0)
        # pyzmq has a thread of its own to notice that libzmq is done with a message.
        await one_loop.until(lambda: server.send_message([peer, b"", large]) is SendResult.SENT)
        client.close(linger=0)
        await one_loop.until(lambda: not len(server._byteBudget or ()))
        server.close()
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.usefixtures("shares_memory")
def test_l4_a_clients_large_requests_wait_for_room_and_none_is_lost(one_loop: Loop) -> None:
    class Length(Echo):
        def echo(self, request: Any, context: Context) -> UnaryResult[Any]:
            return text(str(len(request.value)))

    factory = ZmqFactory(one_loop.reactor)
    options = SocketOptions(send_budget=2_000_000)

    async def main() -> None:
        server = Server(factory, [Length()])
        channel = Channel(factory, server.listen(ANY_PORT), socket_options=options)
        answers = [channel.unary_unary(ECHO, text("x" * 1_000_000)) for _ in range(50)]
        assert {answer.value for answer in await gather(list(answers))} == {"1000000"}
        channel.close()
        await server.stop()
        factory.shutdown()

    one_loop.run(main)


def test_l4_a_channel_has_a_bounded_number_of_bytes_waiting() -> None:
    world = World(serve=False)
    channel = Channel(world.network, "inproc://service", backlog=1_000, wait_for_ready=True)
    first = channel.unary_unary(ECHO, text("x" * 900))
    first.addErrback(lambda _: None)
    refused = channel.unary_unary(ECHO, text("x" * 100))
    with pytest.raises(ResourceExhausted, match="Channel's backlog"):
        world.network.result(refused)
    first.cancel()
    second = channel.unary_unary(ECHO, text("x" * 2_000))
    world.server.listen("inproc://service")
    world.network.advance(1)
    assert len(world.network.result(second).value) == 2_000, "one is taken in any case"
    channel.close()
    world.close()


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_l4_a_channel_whose_backlog_is_full_to_the_byte(room: int) -> None:
    world = World()
    request = text("x" * 100)
    channel = Channel(world.network, "inproc://service", backlog=2 * request.ByteSize() + room)
    answers = [channel.unary_unary(ECHO, request) for _ in range(2)]
    world.network.run()
    assert world.network.result(answers[0]) == request
    if room >= 0:
        assert world.network.result(answers[1]) == request
    else:
        with pytest.raises(ResourceExhausted, match="Channel's backlog"):
            world.network.result(answers[1])
    channel.close()
    world.close()


def test_l4_every_end_of_a_call_gives_its_bytes_back() -> None:
    world = World(Waiting())
    channel = Channel(world.network, "inproc://service", service_config=config(HEDGE), timeout=5)
    registry: Any = channel._registry  # pyright: ignore[reportPrivateUsage]  # nothing else tells
    ends: list[Any] = []
    for method in (ECHO, IDEMPOTENT):
        for timeout in (0.1, 5, 5, 5):
            call = channel.unary_unary(method, text("x" * 100), timeout=timeout)
            ends.append(call.addErrback(lambda _: None))
    world.network.run()
    assert registry.size >= 800
    ends[1].cancel()
    ends[5].cancel()
    service: Any = world.service
    service.results[2].callback(text("done"))
    world.network.advance(1)
    world.server.stop(0)
    world.network.advance(10)
    assert all(end.called for end in ends)
    assert registry.size == 0
    channel.close()
    world.close()
