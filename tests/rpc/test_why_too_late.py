"""A call whose time is up before it was sent says what it has waited for, whatever its kind."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.rpc.fake_dns import FakeDns, Noted, timed_out
from tests.rpc.lines import FAILED, Line, Lines, Told, ready
from tests.rpc.service import ADDRESS, ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, PUBLISHER, Reader, StreamWorld
from tests.support import Loop, error_of
from txzmq import ZmqFactory
from txzmq.rpc import Channel, DeadlineExceeded, DnsResolver, StaticResolver
from txzmq.rpc._net.names import NamedAddresses
from txzmq.rpc.transport import SendResult

# Any: options of calls.


def unary(channel: Channel, **options: Any) -> Deferred[Any]:
    return channel.unary_unary(ECHO, text("x"), **options)


def requests(channel: Channel, **options: Any) -> Deferred[Any]:
    return channel.stream_unary(COLLECT, [text("x")], **options)


def responses(channel: Channel, **options: Any) -> Deferred[Any]:
    return channel.unary_stream(COUNT, text("1"), **options).ended()


def both(channel: Channel, **options: Any) -> Deferred[Any]:
    return channel.stream_stream(CHAT, [text("x")], **options).ended()


@pytest.fixture(params=[unary, requests, responses, both])
def make(request: pytest.FixtureRequest) -> Callable[..., Deferred[Any]]:
    """Makes a call of each kind, and gives a Deferred of how it ends."""
    made: Callable[..., Deferred[Any]] = request.param
    return made


def why(network: Lines, call: Deferred[Any]) -> str:
    """What the call says that ends by its deadline."""
    ends: list[Any] = []
    call.addErrback(error_of).addBoth(ends.append)
    network.advance(1)
    (end,) = ends
    assert type(end) is DeadlineExceeded
    before = "the call's time was up; it was not executed ("
    assert end.message.startswith(before), end.message
    return end.message.removeprefix(before).removesuffix(")")


def connecting(line: Line) -> None:
    """Nothing is heard of it."""


def accepted(line: Line) -> None:
    line.handler.accepted("it listens and says nothing")


def refused(line: Line) -> None:
    line.handler.unreachable("connecting failed: refused")


def refused_and_accepted(line: Line) -> None:
    refused(line)
    accepted(line)


def lost(line: Line) -> None:
    line.handler.connected()
    line.handler.disconnected()


def doubted(line: Line) -> None:
    line.handler.failed("it speaks another protocol")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (connecting, "tcp://a, 0.5 s after connecting began: nothing has answered yet"),
        (accepted, "tcp://a, 0.5 s after connecting began: it listens and says nothing"),
        (refused, "tcp://a: connecting failed: refused"),
        (refused_and_accepted, "tcp://a, 0.5 s after connecting began: it listens and says"),
        (lost, "the connection to tcp://a was lost"),
        (doubted, "tcp://a: it speaks another protocol"),
    ],
)
def test_what_an_endpoint_is_doing(
    make: Callable[..., Deferred[Any]], event: Callable[[Line], None], words: str
) -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    event(network.made[0])
    assert why(network, make(channel, timeout=0.5, wait_for_ready=True)).startswith(words)
    channel.close()


def test_what_was_accepted_counts_no_more_behind_the_handshake() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    accepted(network.made[0])
    lost(network.made[0])
    words = "the connection to tcp://a was lost"
    assert why(network, unary(channel, timeout=0.1, wait_for_ready=True)) == words
    channel.close()


def test_a_server_that_is_doubted() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.made[0].handler.connected()
    for _ in range(10):  # which is more than it takes
        unary(channel, timeout=0.1).addErrback(lambda _: None)
        network.advance(0.2)
        if channel.state is not channel.endpoints[0].state.READY:
            break
    words = "tcp://a: calls ran out of time, and a ping is not answered yet"
    assert why(network, unary(channel, timeout=0.1)) == words
    channel.close()


def test_a_server_that_does_not_read(make: Callable[..., Deferred[Any]]) -> None:
    network, channel, line = ready()
    line.send_message = lambda message: SendResult.BLOCKED  # type: ignore[method-assign]  # it is full
    words = "tcp://a: the socket is full, as the server does not read fast enough"
    assert why(network, make(channel, timeout=0.5)) == words
    channel.close()


def test_many_endpoints_are_not_all_named(make: Callable[..., Deferred[Any]]) -> None:
    network = Lines()
    channel = Channel(network, [f"tcp://a{number}" for number in range(10)])
    message = why(network, make(channel, timeout=0.5))
    assert [f"tcp://a{number}," in message for number in range(10)] == [True] * 4 + [False] * 6
    assert message.endswith("; and 6 more")
    channel.close()


class PicksNone:
    """A policy that does not like any endpoint."""

    def picker(self, endpoints: Any, ready: Any) -> Callable[..., None]:
        return self._pick

    def _pick(self, path: str, metadata: Any, used: Any) -> None: ...


def test_a_policy_that_picks_none(make: Callable[..., Deferred[Any]]) -> None:
    network = Lines()
    channel = Channel(network, "tcp://a", policy=PicksNone())
    network.made[0].handler.connected()
    words = "the balancing policy has picked none of the endpoints, which are ready"
    assert why(network, make(channel, timeout=0.5)) == words
    channel.close()


# -- names --------------------------------------------------------------------------------------


def test_a_name_that_is_being_looked_up(make: Callable[..., Deferred[Any]]) -> None:
    network, dns = Lines(), FakeDns()
    dns.zone["h", 1] = dns.zone["h", 28] = None
    channel = Channel(network, DnsResolver("dns:///h:80", client=dns))
    words = "the DNS has not answered for dns:///h:80 yet"
    assert why(network, make(channel, timeout=0.5)) == words
    channel.close()


def test_a_name_that_is_tried_again(make: Callable[..., Deferred[Any]]) -> None:
    network, dns = Lines(), FakeDns()
    dns.zone["h", 1] = dns.zone["h", 28] = timed_out()
    channel = Channel(network, DnsResolver("dns:///h:80", client=dns))
    assert channel.state is FAILED
    words = "dns:///h:80 cannot be resolved: no DNS server answers"
    assert why(network, make(channel, timeout=0.5, wait_for_ready=True)) == words
    channel.close()


def test_a_resolver_that_has_said_nothing(make: Callable[..., Deferred[Any]]) -> None:
    network = Lines()
    channel = Channel(network, Told())
    words = "the resolver has told no address yet"
    assert why(network, make(channel, timeout=0.5)) == words
    channel.close()


def test_names_among_addresses() -> None:
    dns = FakeDns()
    for host in ("slow", "late"):
        dns.zone[host, 1] = dns.zone[host, 28] = None
    dns.zone["bad", 1] = dns.zone["bad", 28] = timed_out()
    dns.set_ips("good", "10.0.0.1")
    static = StaticResolver(["tcp://slow:1", "tcp://bad:1", "tcp://good:1", "tcp://10.0.0.9:1"])
    names = NamedAddresses(static, lambda target: DnsResolver(target, client=dns))
    clock: Any = Lines().clock  # Any: a zope interface
    names.start(clock, Noted())
    assert names.unresolved == [
        "the DNS has not answered for dns:///slow:1 yet",
        "dns:///bad:1 cannot be resolved: no DNS server answers",
    ]
    names.close()
    silent = NamedAddresses(Told())
    silent.start(clock, Noted())
    assert silent.unresolved == ["the resolver has told no address yet"]
    silent.close()


# -- streams that are open ----------------------------------------------------------------------


def publisher_dies(world: StreamWorld) -> None:
    world.network.die(PUBLISHER)


@pytest.mark.parametrize(
    ("dies", "words"),
    [
        (publisher_dies, f"the publisher at {PUBLISHER} is not connected"),
        (StreamWorld.die, f"the connection to {ADDRESS} was lost"),
    ],
)
def test_a_stream_whose_server_or_publisher_is_gone(
    dies: Callable[[StreamWorld], None], words: str
) -> None:
    async def handler(request: Any, context: Any) -> Any:
        yield text("0")
        await Deferred()

    world = StreamWorld(handler)
    reader = Reader(world.open(timeout=0.5))
    world.network.run()
    assert reader.items == ["0"]
    dies(world)
    world.network.advance(1)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert reader.ended.message == f"the stream's time was up ({words})"
    world.close()


def test_a_publisher_that_is_none() -> None:
    endless: Deferred[None] = Deferred()

    async def handler(request: Any, context: Any) -> Any:
        await endless
        yield text("0")

    world = StreamWorld(handler)
    world.network.subscribe = Unsubscribable  # type: ignore[assignment]  # it fails at once
    reader = Reader(world.open(timeout=0.5))
    world.network.advance(1)
    assert isinstance(reader.ended, DeadlineExceeded)
    words = f"the publisher at {PUBLISHER} is not connected: it speaks another protocol"
    assert reader.ended.message == f"the stream's time was up ({words})"
    world.close()


class Unsubscribable:
    """A subscriber's socket whose publisher is none."""

    def __init__(self, address: str, handler: Any, options: Any) -> None:
        self._handler = handler

    def subscribe(self, topic: bytes) -> None:
        self._handler.failed("it speaks another protocol")

    def unsubscribe(self, topic: bytes) -> None: ...

    def flush_soon(self) -> None: ...

    def close(self) -> None: ...


# -- with sockets -------------------------------------------------------------------------------


@contextmanager
def silent() -> Generator[str]:
    """Accepts connections, by the kernel, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def full() -> Generator[str]:
    """Answers nothing, not even that it accepts: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (silent, "it has accepted the connection, and has not spoken ZMTP yet: it may be no"),
        (full, "nothing has answered yet"),
    ],
)
def test_a_peer_that_says_nothing(
    one_loop: Loop, make: Callable[..., Deferred[Any]], peer: Any, words: str
) -> None:
    async def main(address: str) -> str:
        factory = ZmqFactory(one_loop.reactor)
        channel = Channel(factory, address)
        try:
            await make(channel, timeout=0.3)
        except DeadlineExceeded as error:
            return error.message
        finally:
            channel.close()
            factory.shutdown()
        raise AssertionError("the call was answered")

    with peer() as address:
        message = one_loop.run(lambda: main(address))
    # A busy machine may take longer than the 0.3 s to say so.
    said = rf"it was not executed \({address}, [0-9.]+ s after connecting began: "
    assert re.search(said + re.escape(words), message), message
