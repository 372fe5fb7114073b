"""Servers with another security mechanism, which close the connection before they say so.

libzmq's sockets do, in a process of their own, when they have read the client's greeting before
their own is sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from tests.auth.support import ALICE, BOB, SERVER, knowing
from tests.rpc.service import ECHO, text
from tests.rpc.trusted import failure
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Code
from txzmq.rpc._net.greeting import GreetingProbe

SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
VERSION = 11  # bytes up to it
WHOLE = 64


def greeting(mechanism: str) -> bytes:
    return SIGNATURE + b"\x03\x01" + mechanism.encode().ljust(20, b"\0") + bytes(32)


class Peer(Protocol):
    """Sends a part of its greeting, and the others when it knows the client's version."""

    transport: Any  # Any: Twisted types it by interfaces

    def __init__(self, parts: tuple[bytes, ...], *, is_hasty: bool) -> None:
        """:param is_hasty: whether it closes at once when it has read a whole greeting."""
        self.parts = list(parts)
        self.is_hasty = is_hasty
        self.received = b""

    def send(self, number: int) -> None:
        for part in self.parts[:number]:
            self.transport.write(part)
        del self.parts[:number]

    def connectionMade(self) -> None:
        self.send(1)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= WHOLE and self.is_hasty:
            self.transport.loseConnection()
        elif len(self.received) >= VERSION:
            self.send(len(self.parts))


class Peers(Factory):
    """A port where each connection is of such a peer."""

    def __init__(self, *parts: bytes, is_hasty: bool = False) -> None:
        self.parts = parts
        self.is_hasty = is_hasty
        self.made: list[Peer] = []

    def buildProtocol(self, addr: Any) -> Peer:
        self.made.append(Peer(self.parts, is_hasty=self.is_hasty))
        return self.made[-1]


class Port:
    """Listens with a factory, by tcp or ipc."""

    def __init__(self, loop: Loop, peers: Peers, path: Path | None = None) -> None:
        reactor: Any = loop.reactor  # Any: Twisted types it by interfaces
        if path is None:
            self.port = reactor.listenTCP(0, peers, interface="127.0.0.1")
            self.address = f"tcp://127.0.0.1:{self.port.getHost().port}"
        else:
            self.port = reactor.listenUNIX(str(path), peers)
            self.address = f"ipc://{path}"

    async def close(self) -> None:
        await self.port.stopListening()


def parts(mechanism: str) -> tuple[bytes, bytes]:
    """What a socket sends before it knows the client's version, and after."""
    whole = greeting(mechanism)
    return whole[:VERSION], whole[VERSION:]


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize(
    ("mechanism", "keys", "words"),
    [
        ("CURVE", None, "the server asks for a key, and this client has no credentials"),
        ("NULL", (SERVER,), "the server has no credentials, and this client asks for them"),
        ("NULL", (BOB, SERVER), "the server has no credentials, and this client asks for them"),
        ("CURVE", (SERVER,), "its key may be another than the server_keys"),
    ],
    ids=["no key", "no key of the server", "nor another one", "wrong key"],
)
def test_a_server_that_closes_before_it_says_which_mechanism_it_has(
    one_loop: Loop, tmp_path: Path, transport: str, mechanism: str, keys: Any, words: str
) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        peers = Peers(*parts(mechanism), is_hasty=True)
        port = Port(one_loop, peers, tmp_path / "socket" if transport == "ipc" else None)
        credentials = None if keys is None else knowing(ALICE, *keys)
        channel = Channel(factory, port.address, credentials=credentials)
        for _ in range(2):
            error = await failure(channel.unary_unary(ECHO, text("x"), timeout=20))
            assert error.code is Code.UNAUTHENTICATED
            assert words in str(error)
        await one_loop.until(lambda: len(peers.made) >= 5)  # further attempts
        probes = [peer for peer in peers.made if len(peer.received) == VERSION]
        assert len(probes) == 1, "it is asked once"
        channel.close()
        factory.shutdown()
        await port.close()

    one_loop.run(main)


def test_what_is_no_server_of_the_kind_is_no_refusal(one_loop: Loop) -> None:
    """The mechanism is the client's: something else is wrong, and nobody knows what."""
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        port = Port(one_loop, Peers(*parts("NULL"), is_hasty=True))
        channel = Channel(factory, port.address)
        error = await failure(channel.unary_unary(ECHO, text("x"), timeout=20))
        assert error.code is Code.UNAVAILABLE
        assert "the connection was closed before the handshake was done" in str(error)
        channel.close()
        factory.shutdown()
        await port.close()

    one_loop.run(main)


@pytest.mark.parametrize(
    ("sent", "mechanism"),
    [
        (parts("CURVE"), "CURVE"),
        (parts("PLAIN"), "PLAIN"),
        (tuple(bytes([byte]) for byte in greeting("NULL")), "NULL"),
        ((greeting("CURVE"), b"more"), "CURVE"),
        ((b"\xff" * WHOLE,), "\N{REPLACEMENT CHARACTER}" * 20),
        ((b"HTTP/1.1 400 Bad Request\r\n" * 9,), ""),
        ((b"HTTP",), ""),
        ((b"\xff", b"\xff"), ""),
        ((), ""),
    ],
)
def test_a_probe_tells_the_mechanism_or_nothing(
    one_loop: Loop, sent: tuple[bytes, ...], mechanism: str
) -> None:
    async def main() -> None:
        told: list[str] = []
        peers = Peers(*sent)
        port = Port(one_loop, peers)
        GreetingProbe(one_loop.reactor, port.address, told.append)
        assert not told
        await one_loop.until(lambda: told)
        assert told == [mechanism]
        if not sent:
            await one_loop.until(lambda: peers.made)
            assert peers.made[0].received == b"", "it does not speak first"
        await port.close()

    one_loop.run(main)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ipc:///no/such/socket", "inproc://x"])
def test_a_probe_of_nobody_tells_nothing(one_loop: Loop, address: str) -> None:
    async def main() -> None:
        told: list[str] = []
        GreetingProbe(one_loop.reactor, address, told.append)
        assert not told
        await one_loop.until(lambda: told)
        assert told == [""]

    one_loop.run(main)


def test_a_probe_that_is_stopped_tells_nothing(one_loop: Loop) -> None:
    async def main() -> None:
        told: list[str] = []
        peers = Peers()
        port = Port(one_loop, peers)
        probe = GreetingProbe(one_loop.reactor, port.address, told.append)
        await one_loop.until(lambda: peers.made)
        probe.stop()
        probe.stop()
        assert probe.fileno() == -1
        await port.close()
        assert not told

    one_loop.run(main)


def test_who_listens_there_later_is_asked_anew(one_loop: Loop) -> None:
    """A server gets keys and is started again: the client is told what is true now."""
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        port = Port(one_loop, Peers(*parts("NULL"), is_hasty=True))
        address = port.address
        channel = Channel(factory, address)
        error = await failure(channel.unary_unary(ECHO, text("x"), timeout=20))
        assert error.code is Code.UNAVAILABLE
        await port.close()
        await one_loop.until(lambda: "connecting failed" in channel.endpoints[0].reason)
        peers = Peers(*parts("CURVE"), is_hasty=True)
        reactor: Any = one_loop.reactor  # Any: Twisted types it by interfaces
        again = reactor.listenTCP(int(address.rpartition(":")[2]), peers, interface="127.0.0.1")
        await one_loop.until(lambda: "asks for a key" in channel.endpoints[0].reason)
        channel.close()
        factory.shutdown()
        await again.stopListening()

    one_loop.run(main)
