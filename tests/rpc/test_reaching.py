"""Why a server cannot be reached, in words; ranges of ports; what a server says of itself."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.rpc.fake_dns import FakeDns, Noted
from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.support import Logged, Loop
from txzmq import ZmqEndpoint, ZmqEndpointType, ZmqFactory, ZmqPubConnection
from txzmq.monitor import SocketEvent
from txzmq.rpc import (
    Channel,
    ConnectivityState,
    DnsResolver,
    Server,
    SocketOptions,
    StaticResolver,
    Unavailable,
)
from txzmq.rpc._net.failures import Attempt, handshake_failure
from txzmq.rpc._net.names import NamedAddresses
from txzmq.testing import MemoryNetwork

# -- what libzmq's events say --------------------------------------------------------------------


def event(name: str, value: int = 0) -> SocketEvent:
    return SocketEvent(zmq.Event[name], value, "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HANDSHAKE_FAILED_NO_DETAIL", errno.EAGAIN, "did not end in time: something listens"),
        ("HANDSHAKE_FAILED_NO_DETAIL", errno.EPROTO, "(Protocol error): something listens"),
        ("HANDSHAKE_FAILED_PROTOCOL", 0x11000002, "a security mechanism that the other does not"),
        ("HANDSHAKE_FAILED_PROTOCOL", 0x11000001, "the keys do not match"),
        ("HANDSHAKE_FAILED_PROTOCOL", 0x10000018, "a ZeroMQ socket of another kind"),
        ("HANDSHAKE_FAILED_PROTOCOL", 0x10000002, "libzmq's error 0x10000002"),
        ("HANDSHAKE_FAILED_AUTH", 400, "the server refuses this client (ZAP status 400)"),
    ],
)
def test_why_a_handshake_failed(name: str, value: int, words: str) -> None:
    assert words in handshake_failure(event(name, value))


@pytest.mark.parametrize(
    ("address", "delayed", "seconds", "words"),
    [
        ("tcp://192.0.2.1:1", True, 5.0, "no answer within 5 s; a firewall, or a machine that is"),
        ("tcp://192.0.2.1:1", True, 0.1, "refused, or rejected on the way"),
        ("tcp://192.0.2.1:1", False, 0.0, "refused, or rejected on the way"),
        ("ipc:///no/such/socket", False, 0.0, "there is no such socket"),
        ("ipc://@no-such-socket", False, 0.0, "connection refused, nobody listens there any more"),
    ],
)
def test_why_an_attempt_failed(address: str, delayed: bool, seconds: float, words: str) -> None:
    clock: Any = Clock()  # Any: a zope interface
    attempt = Attempt(clock, address, 5.0)
    if delayed:
        attempt.observe(event("CONNECT_DELAYED", errno.EINPROGRESS))
    clock.advance(seconds)
    assert attempt.failure.startswith(f"connecting failed: {words}")
    clock.advance(60)
    assert "no answer" not in attempt.failure  # that of another attempt


def test_a_socket_whose_server_has_gone(tmp_path: Path) -> None:
    clock: Any = Clock()  # Any: a zope interface
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    attempt = Attempt(clock, f"ipc://{tmp_path}/socket", 5.0)
    assert attempt.failure.endswith("nobody listens there any more")


def test_a_server_that_is_there_by_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock: Any = Clock()  # Any: a zope interface
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = Attempt(clock, f"tcp://127.0.0.1:{server.getsockname()[1]}", 5.0)
        assert "refused, or rejected" in attempt.failure
        server.accept()[0].close()
    monkeypatch.setattr(socket, "socket", _no_descriptor)
    assert "refused, or rejected" in attempt.failure


def _no_descriptor(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


# -- with sockets --------------------------------------------------------------------------------


class Closing(Factory):
    """Closes a connection at once."""

    def buildProtocol(self, addr: object) -> None:
        """There is nobody to talk to."""


def web() -> Any:
    """An HTTP server. (Any: Twisted types a factory by its protocol.)"""
    return Site(Resource())  # type: ignore[no-untyped-call]  # Twisted leaves it untyped


async def _failure(loop: Loop, address: str) -> str:
    factory = ZmqFactory(loop.reactor)
    options = SocketOptions(handshake_timeout=0.2)
    channel = Channel(factory, address, socket_options=options)
    try:
        await channel.unary_unary(ECHO, text("x"), timeout=3600)
    except Unavailable as error:
        return error.message
    finally:
        channel.close()
        factory.shutdown()
    raise AssertionError("the call was answered")


@pytest.mark.parametrize(
    ("kind", "words"), [("web", "an HTTP server"), ("closing", "closed before")]
)
def test_what_listens_there_is_no_zeromq_socket(one_loop: Loop, kind: str, words: str) -> None:
    async def main() -> str:
        listens = web() if kind == "web" else Closing()
        port = one_loop.reactor.listenTCP(0, listens, interface="127.0.0.1")
        try:
            return await _failure(one_loop, f"tcp://127.0.0.1:{port.getHost().port}")
        finally:
            await port.stopListening()

    message = one_loop.run(main)
    assert words in message
    assert "something listens there that is no ZeroMQ socket" in message


def test_a_publisher_is_no_server(one_loop: Loop) -> None:
    async def main() -> str:
        factory = ZmqFactory(one_loop.reactor)
        here = ZmqEndpoint(ZmqEndpointType.bind, "tcp://127.0.0.1:*")
        try:
            return await _failure(one_loop, ZmqPubConnection(factory, here).lastEndpoint())
        finally:
            factory.shutdown()

    assert "or one that does not take clients, as a publisher" in one_loop.run(main)


def test_nobody_listens(one_loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and does not listen: the port is refused, and nobody's
            address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
            message = await _failure(one_loop, address)
        refused = "connecting failed: connection refused, nobody listens there"
        assert f"({address}: {refused})" in message
        message = await _failure(one_loop, f"ipc://{tmp_path}/socket")
        assert "connecting failed: there is no such socket" in message

    one_loop.run(main)


# -- ranges of ports -----------------------------------------------------------------------------


def test_a_range_is_as_many_servers(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        services, first = _listen_side_by_side(factory)
        for endpoint in (
            f"tcp://127.0.0.1:{first}-{first + 2}",
            f"tcp://localhost:{first}-{first + 2}",
            f"dns:///127.0.0.1:{first}-{first + 2}",
        ):
            channel = Channel(factory, endpoint)
            await one_loop.until(partial(_all_ready, channel))
            assert len(channel.endpoints) == 3
            for service in services:
                service.seen.clear()
            for _ in range(6):
                await channel.unary_unary(ECHO, text("x"))
            assert [len(service.seen) for service in services] == [2, 2, 2]
            channel.close()
        factory.shutdown()

    one_loop.run(main)


def _all_ready(channel: Channel) -> bool:
    return all(one.state is ConnectivityState.READY for one in channel.endpoints)


def _listen_side_by_side(factory: ZmqFactory) -> tuple[list[Echo], int]:
    """Three servers at ports in a row, and the first of these."""
    for start in range(20_000, 30_000, 3):
        services = [Echo() for _ in range(3)]
        try:
            for index, service in enumerate(services):
                Server(factory, [service]).listen(
                    f"tcp://127.0.0.1:{start + index}", publisher="tcp://127.0.0.1:*"
                )
        except zmq.ZMQError:
            continue
        return services, start
    raise AssertionError("no ports in a row are free")


def test_a_name_with_a_range_is_looked_up_once() -> None:
    clock: Any = Clock()  # Any: its calls are typed with a zope interface
    dns, noted = FakeDns(), Noted()
    dns.set_ips("h", "10.0.0.2", "10.0.0.1")
    static = StaticResolver(["tcp://h:5000-5001", "tcp://10.0.0.9:1", "tcp://h:7"])
    names = NamedAddresses(static, lambda target: DnsResolver(target, client=dns))
    names.start(clock, noted)
    assert len(dns.asked) == 2  # for IPv4 and IPv6
    assert noted.addresses == [
        "tcp://10.0.0.1:5000",
        "tcp://10.0.0.2:5000",
        "tcp://10.0.0.1:5001",
        "tcp://10.0.0.2:5001",
        "tcp://10.0.0.9:1",
        "tcp://10.0.0.1:7",
        "tcp://10.0.0.2:7",
    ]
    names.close()
    assert not clock.getDelayedCalls()


def test_in_memory_there_are_ports_too() -> None:
    network = MemoryNetwork()
    services = [Echo() for _ in range(2)]
    endpoints = [
        Server(network, [service]).listen("tcp://127.0.0.1:*", publisher="tcp://127.0.0.1:0")
        for service in services
    ]
    assert len(set(endpoints)) == 2
    assert Server(network, []).listen("tcp://*:*", insecure=True).startswith("tcp://0.0.0.0:")
    channel = Channel(network, endpoints)
    network.run()
    for _ in range(4):
        call: Deferred[StringValue] = channel.unary_unary(ECHO, text("x"))
        assert network.result(call).value == "x"
    assert [len(service.seen) for service in services] == [2, 2]
    with pytest.raises(CannotListenError, match="it is in use"):
        Server(network, []).listen(endpoints[0])
    with pytest.raises(CannotListenError, match="it is in use"):
        Server(network, [Echo()]).listen("tcp://127.0.0.1:1", publisher="tcp://127.0.0.1:49153")
    channel.close()
    network.run()


# -- what a server says of itself ----------------------------------------------------------------


def lines(logged: Logged) -> list[str]:
    said = (formatEvent(entry) for entry in logged)
    return [line for line in said if line.startswith("the server")]


def test_a_server_says_where_it_listens_that_it_drains_and_that_it_has_stopped(
    logged: Logged,
) -> None:
    network, service = MemoryNetwork(), Waiting()
    server = Server(network, [service])
    server.listen("inproc://service")
    channel = Channel(network, "inproc://service")
    call: Deferred[StringValue] = channel.unary_unary(ECHO, text("x"))
    network.run()
    stopped = server.stop(grace=2.5)
    server.stop(1)
    network.run()
    said = [
        "the server listens at inproc://service, its streams are at inproc://service.streams",
        "the server drains: 1 calls run and 0 wait, for 2.5 s at most",
    ]
    assert lines(logged) == said
    network.advance(3)
    assert stopped.called
    assert call.called
    call.addErrback(lambda _: None)
    assert lines(logged) == [*said, "the server has stopped"]
    channel.close()
    network.run()
