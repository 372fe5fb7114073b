"""The rig does what the field tests think it does."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone

from tests.field import namespaces
from tests.field.namespaces import Wire, needs_wire, wire
from tests.field.proxy import Proxy
from tests.support import Loop


def pings(hosts: Wire, patience: float = 10.0) -> bool:
    """Whether a connection can be made and used, within *patience* seconds a step."""
    with hosts.server.entered():
        listener = socket.create_server((hosts.server.address, 0))
    with hosts.client.entered():
        client = socket.socket()
    with listener, client:
        client.settimeout(patience)
        listener.settimeout(patience)
        try:
            client.connect(listener.getsockname())
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"x")
                return client.recv(1) == b"x"
        except OSError:
            return False


def test_a_wire_carries_what_its_faults_let_through(hosts: Wire) -> None:
    assert pings(hosts)
    faults: list[Callable[[], None]] = [
        lambda: hosts.server.drop(inbound=True),
        lambda: hosts.client.drop(outbound=True),
        lambda: hosts.server.drop(inbound=True, outbound=True),
        lambda: hosts.server.lose(99),
        hosts.server.reset,
    ]
    for fault in faults:
        fault()
        assert not pings(hosts, patience=0.3)
        hosts.server.heal()
        hosts.client.heal()
        assert pings(hosts)


def test_a_reset_reaches_both_ends(hosts: Wire) -> None:
    with hosts.server.entered():
        listener = socket.create_server((hosts.server.address, 0))
    with hosts.client.entered():
        client = socket.create_connection(listener.getsockname())
    peer, _ = listener.accept()
    with listener, client, peer:
        client.settimeout(5)
        peer.settimeout(5)
        hosts.server.reset()
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        peer.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


def test_two_wires_do_not_meet(hosts: Wire) -> None:
    with wire() as others:
        hosts.server.drop(inbound=True, outbound=True)
        assert not pings(hosts, patience=0.3)
        assert pings(others)


def test_nothing_is_left_behind_not_even_of_a_run_that_was_killed(hosts: Wire) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    orphan = f"txzmq-test-{ended.pid}-1-s"
    subprocess.run(["ip", "netns", "add", orphan], check=True)
    with contextlib.suppress(ZeroDivisionError), wire() as others:
        assert not os.path.exists(f"/run/netns/{orphan}")
        raise ZeroDivisionError
    assert not os.path.exists(f"/run/netns/{others.server.name}")
    assert not os.path.exists(f"/run/netns/{others.client.name}")
    assert os.path.exists(f"/run/netns/{hosts.server.name}")  # this run's own stays


def test_a_process_in_a_namespace_is_the_one_that_signals_reach(hosts: Wire) -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with hosts.server.running("-c", program) as running:
        assert int(running.expect(r"\d+")[0]) == running.process.pid
        running.kill()


def test_why_there_is_no_wire_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_wire()
    without_cache = namespaces.why_not.__wrapped__
    monkeypatch.setenv("PATH", "/nonexistent")
    assert without_cache() == "ip is not installed (Debian: apt-get install iproute2)"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert without_cache() == "making network namespaces takes root"


class Peer(Protocol):
    """Writes down what comes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: Any = None  # the exception, once the connection is gone
        self.link: Any = None

    # Before connectionMade; typed, which Twisted's attribute `transport` is not.
    def makeConnection(self, transport: Any) -> None:
        self.link = transport
        base: Any = super()
        base.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self.lost = reason.value

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


class Connection:
    """A client and a server with a proxy between them."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.server, self.client = Peer(), Peer()
        factory: Any = Factory.forProtocol(lambda: self.server)
        factory.noisy = False
        self.port = loop.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.proxy = Proxy(loop.reactor, f"tcp://127.0.0.1:{self.port.getHost().port}")

    async def connect(self) -> None:
        factory: Any = Factory.forProtocol(lambda: self.client)
        factory.noisy = False
        port = int(self.proxy.endpoint.rpartition(":")[2])
        await HostnameEndpoint(self.loop.reactor, b"127.0.0.1", port).connect(factory)
        await self.loop.until(lambda: self.server.link)

    async def close(self) -> None:
        await self.proxy.close()
        await self.port.stopListening()
        await self.loop.until(lambda: self.server.lost)
        await self.loop.sleep(0.01)


def test_a_proxy_delays_slices_and_holds_back(one_loop: Loop) -> None:
    async def main() -> None:
        connection = Connection(one_loop)
        await connection.connect()
        proxy, server, client = connection.proxy, connection.server, connection.client
        proxy.latency, proxy.jitter = 0.02, 0.01
        began = one_loop.reactor.seconds()
        for i in range(10):
            client.link.write(b"%d" % i)
            await one_loop.sleep(0)
        await one_loop.until(lambda: server.data == b"0123456789")
        assert one_loop.reactor.seconds() - began >= 0.02
        proxy.latency = proxy.jitter = 0
        proxy.slice_size = 1
        server.link.write(b"abc")
        await one_loop.until(lambda: client.data == b"abc")
        assert len(client.pieces) > 1  # two may have come before the client looked
        proxy.black_hole = True
        server.link.write(b"def")
        await one_loop.sleep(0.05)
        assert client.data == b"abc"
        proxy.black_hole = False
        await one_loop.until(lambda: client.data == b"abcdef")
        proxy.inject(b"garbage", to_client=True)
        await one_loop.until(lambda: client.data == b"abcdefgarbage")
        proxy.inject(b"garbage", to_client=False)
        await one_loop.until(lambda: server.data == b"0123456789garbage")
        await connection.close()

    one_loop.run(main)


@pytest.mark.parametrize(
    ("end", "error"), [(Proxy.cut, ConnectionDone), (Proxy.reset, ConnectionLost)]
)
def test_a_proxy_ends_connections(one_loop: Loop, end: Any, error: type[Exception]) -> None:
    async def main() -> None:
        connection = Connection(one_loop)
        await connection.connect()
        end(connection.proxy)
        await one_loop.until(lambda: connection.client.lost and connection.server.lost)
        assert isinstance(connection.client.lost, error)
        assert isinstance(connection.server.lost, error)
        await connection.close()

    one_loop.run(main)


def test_a_proxy_refuses_and_takes_connections_again(one_loop: Loop) -> None:
    async def main() -> None:
        connection = Connection(one_loop)
        endpoint = connection.proxy.endpoint
        await connection.proxy.refuse()
        with pytest.raises(Exception, match="refused"):
            await connection.connect()
        connection.proxy.listen()
        assert connection.proxy.endpoint == endpoint
        await connection.connect()
        assert connection.proxy.accepted == 1
        await connection.close()

    one_loop.run(main)
