"""Servers that listen by sockets which they were given, on real sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.rpc.streaming import COUNT, Streaming
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import ClientKeys, CurveClientCredentials, CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Channel, InsecureBindError, Server
from txzmq.rpc._net.given_sockets import accept_no_more, duplicate, endpoint_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can leave connections")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def listening(stack: contextlib.ExitStack, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens at a port which the kernel chooses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = stack.enter_context(socket.socket(family))
    made.bind((host, 0))
    made.listen(64)
    return made


def at_path(stack: contextlib.ExitStack, path: Path) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind(str(path))
    made.listen(64)
    return made


def address_of(made: socket.socket) -> str:
    name: Any = made.getsockname()
    if isinstance(name, str):
        return f"ipc://{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"tcp://{host}:{name[1]}"


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


# -- which address it has ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_the_endpoint_of_tcp(stack: contextlib.ExitStack, host: str) -> None:
    made = listening(stack, host)
    port = made.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    for given in (str(port), "*", "0"):
        assert endpoint_of(made.fileno(), f"tcp://{shown}:{given}", "fd") == address_of(made)
    if host == "0.0.0.0":
        assert endpoint_of(made.fileno(), f"tcp://*:{port}", "fd") == address_of(made)


def test_the_endpoint_of_localhost(stack: contextlib.ExitStack) -> None:
    made = listening(stack)
    port = made.getsockname()[1]
    assert endpoint_of(made.fileno(), f"tcp://localhost:{port}", "fd") == address_of(made)


def test_the_endpoint_of_ipc(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    made = at_path(stack, tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path)
    for address in (f"ipc://{tmp_path}/s", f"ipc://{tmp_path}/link/s"):
        assert endpoint_of(made.fileno(), address, "fd") == f"ipc://{tmp_path}/s"


@linux
def test_the_endpoint_of_an_abstract_socket(stack: contextlib.ExitStack) -> None:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind("")  # a name that the kernel chooses
    made.listen(1)
    name = made.getsockname()[1:].decode()
    assert endpoint_of(made.fileno(), f"ipc://@{name}", "fd") == f"ipc://@{name}"


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:1",
        "tcp://127.0.0.2:*",
        "tcp://*:*",
        "tcp://0.0.0.0:*",
        "tcp://[::1]:*",
        "tcp://eth0:*",
        "ipc:///tmp/x",
        "inproc://x",
    ],
)
def test_another_address_is_refused(stack: contextlib.ExitStack, address: str) -> None:
    made = listening(stack)
    with pytest.raises(ValueError, match=f"listens at {address_of(made)}, and not at"):
        endpoint_of(made.fileno(), address, "fd")


def test_what_does_not_listen_is_refused(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    unbound = stack.enter_context(socket.socket())
    with pytest.raises(ValueError, match="the socket does not listen"):
        endpoint_of(unbound.fileno(), "tcp://127.0.0.1:*", "fd")
    udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    with pytest.raises(ValueError, match="does not listen"):
        endpoint_of(udp.fileno(), "tcp://127.0.0.1:*", "fd")
    with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="it is no socket"):
        endpoint_of(file.fileno(), "tcp://127.0.0.1:*", "fd")
    with pytest.raises(ValueError, match="publisher_fd=9999: it is no socket"):
        endpoint_of(9_999, "tcp://127.0.0.1:*", "publisher_fd")


def test_a_duplicate_is_closed_if_it_was_of_no_use(stack: contextlib.ExitStack) -> None:
    made = listening(stack)
    kept: list[int] = []
    with contextlib.suppress(RuntimeError), duplicate(made.fileno()) as own:
        kept.append(own)
        raise RuntimeError("no")
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(kept[0])
    with duplicate(made.fileno()) as own:
        assert inode(own) == inode(made.fileno())
    os.close(own)
    assert not os.get_blocking(made.fileno()), "for all who have it"


def test_nothing_happens_to_what_libzmq_does_not_watch(stack: contextlib.ExitStack) -> None:
    assert not accept_no_more(listening(stack).fileno())
    assert not accept_no_more(9_999)


# -- servers -------------------------------------------------------------------------------------


def test_a_server_listens_by_a_socket_that_stays_the_callers(
    one_loop: Loop, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    sockets = [listening(stack), listening(stack, "::1"), at_path(stack, tmp_path / "s")]
    tmp_path.chmod(0o700)

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo(), Streaming()])
        for made in sockets:
            before = inode(made.fileno())
            endpoint = server.listen(address_of(made), fd=made.fileno())
            assert endpoint == address_of(made)
            channel = Channel(factory, endpoint)
            assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
            stream = channel.unary_stream(COUNT, text("3"))
            assert [item.value async for item in stream] == ["0", "1", "2"]
            channel.close()
            assert inode(made.fileno()) == before
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
    for made in sockets:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"], "nothing is left of a publisher"


def test_a_publisher_listens_by_a_socket(one_loop: Loop, stack: contextlib.ExitStack) -> None:
    made, publisher = listening(stack), listening(stack)

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming()])
        endpoint = server.listen(
            address_of(made),
            fd=made.fileno(),
            publisher=address_of(publisher),
            publisher_fd=publisher.fileno(),
        )
        channel = Channel(factory, endpoint)
        assert [item.value async for item in channel.unary_stream(COUNT, text("2"))] == ["0", "1"]
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_where_strangers_can_reach_it_the_socket_decides(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    everywhere = listening(stack, "0.0.0.0")

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        with pytest.raises(InsecureBindError):
            server.listen(f"tcp://*:{everywhere.getsockname()[1]}", fd=everywhere.fileno())
        with pytest.raises(ValueError, match="and not at tcp:"):
            server.listen("tcp://127.0.0.1:*", fd=everywhere.fileno())
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


@linux
@pytest.mark.parametrize("kind", ["tcp", "ipc", "keys"])
def test_all_new_connections_are_the_other_servers(
    one_loop: Loop, stack: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    tmp_path.chmod(0o700)
    made = at_path(stack, tmp_path / "s") if kind == "ipc" else listening(stack)
    server_keys, client_keys = CurveKeyPair.generate(), CurveKeyPair.generate()
    known = ClientKeys({client_keys.public_key: "alice"})
    credentials = CurveServerCredentials(server_keys, known) if kind == "keys" else None
    own = None
    if kind == "keys":
        own = CurveClientCredentials(client_keys, server_keys=[server_keys.public_key])

    async def main() -> None:
        factories = [ZmqFactory(one_loop.reactor) for _ in range(3)]
        services = [Echo(), Echo()]
        servers = [
            Server(factory, [service], credentials=credentials)
            for factory, service in zip(factories, services, strict=False)
        ]
        address = servers[0].listen(address_of(made), fd=made.fileno())
        first = Channel(factories[2], address, credentials=own)
        assert (await first.unary_unary(ECHO, text("first"))).value == "first"
        # Of one process, both would publish by the same name.
        publisher = f"{address}.1.streams" if kind == "ipc" else None
        servers[1].listen(address, fd=made.fileno(), publisher=publisher)
        waits: Deferred[None] = servers[0].hand_over()
        channels = [Channel(factories[2], address, credentials=own) for _ in range(20)]
        for number, channel in enumerate([*channels, first]):
            assert (await channel.unary_unary(ECHO, text(str(number)))).value == str(number)
        await waits
        assert services[0].seen == ["first"]
        assert len(services[1].seen) == 21
        for channel in [*channels, first]:
            channel.close()
        await servers[1].stop()
        for factory in factories:
            factory.shutdown()

    one_loop.run(main)
    if kind == "ipc":
        assert (tmp_path / "s").is_socket(), "it belongs to whoever has made it"


@linux
def test_who_comes_while_a_server_drains_waits_for_the_next_one(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    """It is not let in and then lost: what it would send might have been executed."""
    made = listening(stack)

    async def main() -> None:
        factories = [ZmqFactory(one_loop.reactor) for _ in range(3)]
        waiting = Waiting()
        draining = Server(factories[0], [waiting])
        following, other = (Server(factories[1], [Echo()]) for _ in range(2))
        address = draining.listen(address_of(made), fd=made.fileno())
        first = Channel(factories[2], address)
        held = first.unary_unary(ECHO, text("held"))
        await one_loop.until(lambda: draining.running)
        stopped: Deferred[None] = draining.stop()
        channels = [Channel(factories[2], address) for _ in range(20)]
        answers = [channel.unary_unary(ECHO, text("late")) for channel in channels]
        # Whoever connects after them to another server is let in.
        elsewhere = Channel(factories[2], other.listen("tcp://127.0.0.1:*"))
        await elsewhere.unary_unary(ECHO, text("x"))
        assert draining.stats.clients == 1
        waiting.results[0].callback(text("done"))
        assert (await held).value == "done"
        await stopped
        assert not any(answer.called for answer in answers)
        following.listen(address, fd=made.fileno())
        for answer in answers:
            assert (await answer).value == "late"
        await other.stop()
        await following.stop()
        for factory in factories:
            factory.shutdown()

    one_loop.run(main)
