"""Streams over real sockets, on every reactor and transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zmq
from twisted.internet.protocol import Factory, Protocol
from zmq.utils.monitor import recv_monitor_message

from tests.rpc.service import text
from tests.rpc.streaming import (
    CHAT,
    COLLECT,
    COUNT,
    TICKS,
    Reader,
    Streaming,
    count,
    echo,
    join,
    numbers,
    texts,
)
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, FailedPrecondition, Server, SocketOptions
from txzmq.rpc.transport import ZmqNetwork


def handler(request: Any, context: Context) -> Any:
    """Whatever the method is for."""
    if context.method == COLLECT.path:
        return join(request, context)
    return echo(request, context) if context.method == CHAT.path else count(request, context)


def addresses(folder: Path) -> dict[str, tuple[str, str]]:
    """Where to listen, and where to connect if that is not the same."""
    return {
        "tcp": ("tcp://127.0.0.1:*", ""),
        "tcp6": ("tcp://[::1]:*", ""),
        "ipc": (f"ipc://{folder}/server", ""),
        "ipc of any name": ("ipc://*", ""),
        "inproc": ("inproc://server", ""),
        "wildcard": ("tcp://0.0.0.0:*", "127.0.0.1"),
    }


async def all_kinds(loop: Loop, listen: str, host: str) -> None:
    factory = ZmqFactory(loop.reactor)
    server = Server(factory, [Streaming(handler)])
    endpoint = server.listen(listen, insecure=bool(host) or listen == "ipc://*")
    channel = Channel(factory, endpoint.replace("0.0.0.0", host) if host else endpoint)
    readers = [
        Reader(channel.unary_stream(COUNT, text("3000"))),
        Reader(channel.unary_stream(TICKS, text("1"))),
        Reader(channel.stream_stream(CHAT, texts(3000))),
    ]
    collected = await channel.stream_unary(COLLECT, texts(3000))
    for reader in readers:
        await reader.done
        assert reader.ended == "well"
    assert [len(reader.items) for reader in readers] == [3000, 1, 3000]
    assert readers[0].items == readers[2].items == numbers(3000)
    assert collected.value == ",".join(numbers(3000))
    await loop.until(lambda: not server.running)
    channel.close()
    await server.stop(0)
    factory.shutdown()


@pytest.mark.parametrize("how", ["server", "factory"])
def test_the_folder_of_an_ipc_wildcard_is_removed(
    one_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)  # libzmq makes it in the current one, or where TMPDIR says
    monkeypatch.delenv("TMPDIR", raising=False)

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming(handler)])
        endpoint = server.listen("ipc://*", insecure=True)
        made = Path(endpoint.removeprefix("ipc://")).parent
        assert {path.name for path in made.iterdir()} == {"socket", "socket.streams"}
        if how == "server":
            await server.stop(0)
        factory.shutdown()
        await one_loop.until(lambda: not made.exists())

    one_loop.run(main)


@pytest.mark.parametrize("transport", list(addresses(Path())))
def test_every_transport(one_loop: Loop, transport: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    listen, host = addresses(tmp_path)[transport]
    one_loop.run(lambda: all_kinds(one_loop, listen, host))


def test_every_reactor(loop: Loop) -> None:
    loop.run(lambda: all_kinds(loop, "tcp://127.0.0.1:*", ""))


def test_shutting_the_factory_down_ends_all(one_loop: Loop) -> None:
    async def main() -> tuple[object, int]:
        servers, clients = ZmqFactory(one_loop.reactor), ZmqFactory(one_loop.reactor)
        server = Server(servers, [Streaming(handler)])
        channel = Channel(clients, server.listen("tcp://127.0.0.1:*"))
        reader = Reader(channel.unary_stream(COUNT, text("1000000000")))
        await one_loop.until(lambda: reader.items)
        clients.shutdown()
        await reader.done
        await one_loop.until(lambda: not server.running)
        servers.shutdown()
        return reader.ended, server.running

    ended, running = one_loop.run(main)
    assert "CancelledError" in type(ended).__name__
    assert running == 0


@pytest.mark.parametrize("allowed", [True, False])
def test_the_publisher_may_be_elsewhere_if_the_channel_allows_it(
    one_loop: Loop, *, allowed: bool
) -> None:
    async def main() -> Reader:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming(handler)])
        endpoint = server.listen(
            "tcp://127.0.0.1:*",
            publisher="inproc://elsewhere",
            advertise="inproc://elsewhere",
        )
        publishers = ["inproc://elsewhere"] if allowed else []
        channel = Channel(factory, endpoint, publishers=publishers)
        reader = Reader(channel.unary_stream(COUNT, text("3")))
        await reader.done
        channel.close()
        await server.stop(0)
        factory.shutdown()
        return reader

    reader = one_loop.run(main)
    assert reader.items == (["0", "1", "2"] if allowed else [])
    if not allowed:
        assert isinstance(reader.ended, FailedPrecondition)
        for needed in ("tcp://127.0.0.1:", "inproc://elsewhere", "publishers="):
            assert needed in reader.ended.message


def test_a_server_that_names_a_host_stops_nothing(one_loop: Loop) -> None:
    async def main() -> Reader:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming(handler)])
        endpoint = server.listen("tcp://127.0.0.1:*", advertise="tcp://slow.invalid:1")
        channel = Channel(factory, endpoint, publishers=lambda publisher, endpoint: True)
        reader = Reader(channel.unary_stream(COUNT, text("3")))
        await reader.done
        collected = await channel.stream_unary(COLLECT, texts(3), timeout=5)
        assert collected.value == "0,1,2"
        channel.close()
        await server.stop(0)
        factory.shutdown()
        return reader

    ended = one_loop.run(main).ended
    assert isinstance(ended, FailedPrecondition)
    assert "its host is a name" in ended.message


def test_a_server_without_streams_publishes_nothing(one_loop: Loop) -> None:
    async def main() -> int:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [])
        server.listen("tcp://127.0.0.1:*")
        sockets = len(factory.connections)
        await server.stop(0)
        factory.shutdown()
        return sockets

    assert one_loop.run(main) == 1


def test_n11_who_accepts_and_is_no_publisher_is_given_up(one_loop: Loop) -> None:
    class AnotherProtocol(Protocol):
        # Before connectionMade; typed, which Twisted's attribute `transport` is not.
        def makeConnection(self, transport: Any) -> None:
            # libzmq takes it for a peer of before 2011, and waits.
            transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

    class Handler:
        def __init__(self) -> None:
            self.reasons: list[str] = []

        def failed(self, reason: str) -> None:
            self.reasons.append(reason)

    async def main() -> None:
        impostors: Any = Factory.forProtocol(AnotherProtocol)
        impostors.noisy = False
        port = one_loop.reactor.listenTCP(0, impostors, interface="127.0.0.1")
        factory = ZmqFactory(one_loop.reactor)
        network = ZmqNetwork(factory, SocketOptions(handshake_timeout=0.1))
        handler: Any = Handler()
        subscriber = network.subscribe(f"tcp://127.0.0.1:{port.getHost().port}", handler, {})
        await one_loop.until(lambda: handler.reasons)
        (reason,) = handler.reasons
        assert reason.startswith(
            "no ZeroMQ handshake within 0.6 s: something listens there that is"
        )
        subscriber.close()
        await port.stopListening()
        factory.shutdown()

    one_loop.run(main)


def test_a_subscription_that_no_topic_needs_costs_its_sender_the_connection(
    one_loop: Loop,
) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming(handler)])
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        [publisher] = [each for each in factory.connections if each.socketType == zmq.XPUB]
        enemy: zmq.Socket[bytes] = factory.context.socket(zmq.XSUB)
        enemy.setsockopt(zmq.LINGER, 0)
        events = enemy.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        enemy.connect(publisher.lastEndpoint())

        async def next_event() -> int:
            await one_loop.until(lambda: events.poll(0))
            return int(recv_monitor_message(events)["event"])

        assert await next_event() == zmq.EVENT_HANDSHAKE_SUCCEEDED
        enemy.send(b"\1" + b"t" * 100)
        assert await next_event() == zmq.EVENT_DISCONNECTED
        reader = Reader(channel.unary_stream(COUNT, text("3000")))
        await reader.done
        assert (reader.ended, len(reader.items)) == ("well", 3000)
        enemy.disable_monitor()
        enemy.close()
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
