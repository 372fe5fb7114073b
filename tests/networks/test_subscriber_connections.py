"""A publisher knows by which connection a subscription came, and can end it: a contract."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.networks.support import Publisher, Rig, Subscriber, rig_of
from txzmq.rpc._net.accepted import accepted
from txzmq.rpc.transport import SubscriberConnection


@pytest.fixture(params=["memory", "tcp", "ipc"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Rig]:
    tmp_path.chmod(0o700)
    with rig_of(request.param, tmp_path) as rig:
        yield rig


async def subscribed(
    rig: Rig, publisher: Publisher, subscriber: Subscriber, tag: bytes
) -> SubscriberConnection | None:
    """Subscribe; the connection by which the publisher hears of it."""
    subscriber.transport.subscribe(tag)
    await rig.until(lambda: ("subscribed", tag) in publisher)
    return publisher.connection


def test_a_connection_is_known_and_told_from_others(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        one, two = (Subscriber(rig, publisher.transport.endpoint) for _ in range(2))
        first = await subscribed(rig, publisher, one, b"a")
        other = await subscribed(rig, publisher, two, b"b")
        again = await subscribed(rig, publisher, one, b"c")
        assert first is not None
        assert other is not None
        assert first == again != other
        assert hash(first) == hash(again)
        assert first.is_open()
        assert other.is_open()
        one.transport.unsubscribe(b"a")
        await rig.until(lambda: publisher.left)
        assert publisher.left == [first]
        one.transport.close()
        await rig.until(lambda: ("unsubscribed", b"c") in publisher)
        assert publisher.left == [first, None]
        assert not first.is_open()
        assert other.is_open()

    rig.run(main)


def test_a_connection_that_is_ended_is_made_again(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        one, two = (Subscriber(rig, publisher.transport.endpoint) for _ in range(2))
        await subscribed(rig, publisher, two, b"b")
        connection = await subscribed(rig, publisher, one, b"a")
        assert connection is not None
        del publisher[:], one[:], two[:]
        connection.end()
        await rig.until(lambda: one == ["disconnected", "connected"])
        await rig.until(lambda: ("subscribed", b"a") in publisher)
        assert publisher == [("unsubscribed", b"a"), ("subscribed", b"a")]
        assert not connection.is_open()
        assert publisher.connection != connection
        connection.end()  # the new one is none of its business
        await subscribed(rig, publisher, one, b"c")
        assert one == ["disconnected", "connected"]
        assert two == []

    rig.run(main)


def test_what_a_subscriber_has_taken_is_known_of_tcp_only(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = Subscriber(rig, publisher.transport.endpoint)
        connection = await subscribed(rig, publisher, subscriber, b"a")
        assert connection is not None
        before = connection.taken()
        if not publisher.transport.endpoint.startswith("tcp:"):
            assert before is None
            return
        assert before is not None
        assert publisher.transport.high_water_mark == 10_000
        publisher.transport.publish(b"a" * 100_000)
        await rig.until(lambda: (connection.taken() or 0) >= before + 100_000)
        subscriber.transport.close()
        await rig.until(lambda: not connection.is_open())
        assert connection.taken() is None

    rig.run(main)


@pytest.mark.parametrize("kind", ["silent memory", "inproc"])
def test_inproc_has_no_connections_to_know(kind: str, tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        publisher = Publisher(rig)
        subscriber = Subscriber(rig, publisher.transport.endpoint)
        assert await subscribed(rig, publisher, subscriber, b"a") is None
        subscriber.transport.unsubscribe(b"a")
        await rig.until(lambda: publisher.left == [None])

    with rig_of(kind, tmp_path) as rig:
        rig.run(lambda: main(rig))


# -- what else may have the descriptor -----------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host", "listens", "is_ended"),
    [
        (socket.AF_INET, "127.0.0.1", "tcp://127.0.0.1:{port}", True),
        (socket.AF_INET, "127.0.0.1", "tcp://0.0.0.0:{port}", True),
        (socket.AF_INET6, "::1", "tcp://[::1]:{port}", True),
        (socket.AF_INET6, "::1", "tcp://[::]:{port}", True),
        (socket.AF_INET, "127.0.0.1", "tcp://127.0.0.2:{port}", False),
        (socket.AF_INET, "127.0.0.1", "tcp://127.0.0.1:1", False),
        (socket.AF_INET, "127.0.0.1", "ipc:///nowhere", False),
        (socket.AF_INET, "127.0.0.1", "inproc://x", False),
    ],
)
def test_only_a_connection_to_the_endpoint_is_ended(
    family: socket.AddressFamily, host: str, listens: str, is_ended: bool
) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port)) as peer, listener.accept()[0] as ours:
            connection = accepted(ours.fileno(), listens.format(port=port))
            assert connection is not None
            connection.end()
            peer.settimeout(30 if is_ended else 0)
            if is_ended:
                assert peer.recv(1) == b""
            else:
                with pytest.raises(BlockingIOError):
                    peer.recv(1)


def test_an_abstract_name_is_an_endpoint_too() -> None:
    name = f"txzmq-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind(f"\0{name}")
        listener.listen()
        peer.connect(f"\0{name}")
        with listener.accept()[0] as ours:
            connection = accepted(ours.fileno(), f"ipc://@{name}")
            assert connection is not None
            connection.end()
            assert peer.recv(1) == b""


def test_a_descriptor_that_is_used_anew_is_left_alone() -> None:
    one, two = socket.socketpair()
    connection = accepted(one.fileno(), "ipc://")
    assert connection is not None
    assert connection.is_open()
    other, fourth = socket.socketpair()
    with one, two, other, fourth:
        os.dup2(other.fileno(), one.fileno())
        assert not connection.is_open()
        connection.end()
        fourth.sendall(b"x")
        assert one.recv(1) == b"x"
    with open(os.devnull) as file:
        at_a_file = accepted(file.fileno(), "tcp://127.0.0.1:1")
        assert at_a_file is not None
        at_a_file.end()
    assert accepted(10**6, "tcp://127.0.0.1:1") is None
    assert accepted(None, "tcp://127.0.0.1:1") is None


def test_a_system_that_counts_no_bytes_knows_nothing() -> None:
    # Where a subscription has come, the peer has taken our handshake: 0 is no count.
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        peer, _ = server.accept()
        connection = accepted(peer.fileno(), "tcp://127.0.0.1:*")
        assert connection is not None
        with peer:
            assert connection.taken() is None
            peer.sendall(b"x")
            assert client.recv(1) == b"x"
            client.sendall(b"y")  # and acknowledges the x
            assert peer.recv(1) == b"y"
            assert connection.taken() is not None
