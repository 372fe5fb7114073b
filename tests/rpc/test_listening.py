"""Where a server cannot listen, and what it says of that; what it takes from nobody."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from twisted.internet.error import CannotListenError

from tests.programs import ROOT
from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop
from txzmq import ZmqEndpoint, ZmqEndpointType, ZmqFactory, ZmqPullConnection
from txzmq._listening import cannotListen
from txzmq.rpc import Channel, InsecureBindError, Server
from txzmq.rpc._net import ipc
from txzmq.testing import MemoryNetwork

SUN_PATH = 107


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for its user alone, in which paths are short."""
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(server: Server, address: str, **options: Any) -> str:
    """What is said when a server cannot listen."""
    with pytest.raises(CannotListenError) as raised:
        server.listen(address, **options)
    assert isinstance(raised.value, zmq.ZMQError)  # as it was before, for those who catch it
    error: Any = raised.value  # mypy knows no class that is both
    assert error.errno == error.socketError.errno
    assert str(error).startswith(f"cannot listen at {address}: ")
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None  # no traceback of zmq
    return str(error)


# -- tcp ---------------------------------------------------------------------------------------


def test_a_port_that_another_process_has(factory: ZmqFactory) -> None:
    server = Server(factory, [Echo()])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListenError) as raised:
            server.listen(f"tcp://127.0.0.1:{port}")
        error: Any = raised.value  # Twisted leaves its attributes untyped
        assert (error.interface, error.port) == ("127.0.0.1", port)
        assert error.socketError.errno == errno.EADDRINUSE
        message = refused(server, f"tcp://127.0.0.1:{port}")
    assert f"port {port} is in use" in message
    assert f"ss -ltnp 'sport = :{port}'" in message
    assert not [one for one in factory.connections if one.endpoints]


def test_a_port_that_the_same_factory_has(factory: ZmqFactory) -> None:
    server = Server(factory, [Echo()])
    pull = ZmqPullConnection(factory, ZmqEndpoint(ZmqEndpointType.bind, "inproc://taken"))
    assert "another connection of the same ZmqFactory" in refused(server, "inproc://taken")
    pull.addEndpoints([ZmqEndpoint(ZmqEndpointType.bind, "tcp://127.0.0.1:*")])
    address = pull.lastEndpoint()
    pull.addEndpoints([])
    assert "is in use by another socket, of this process or another" in refused(server, address)


def test_sockets_of_the_application_say_the_same(factory: ZmqFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        for error in (zmq.ZMQError, CannotListenError):
            with pytest.raises(error, match="is in use"):
                ZmqPullConnection(factory, ZmqEndpoint(ZmqEndpointType.bind, address))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://192.0.2.1:5000", "192.0.2.1 is no address of this machine"),
        ("tcp://no-interface:5000", "this machine has no interface 'no-interface', and names"),
        ("ipc://no/such/folder", "there is no folder 'no/such'; make it first"),
    ],
)
def test_what_cannot_be_bound(factory: ZmqFactory, here: Path, address: str, why: str) -> None:
    assert why in refused(Server(factory, [Echo()]), address, insecure=True)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://no-interface:5000", "this machine has no interface 'no-interface', and names"),
        ("ipc://no/such/folder", "there is no folder 'no/such'; make it first"),
    ],
)
def test_insecure_is_not_advised_where_it_would_not_help(
    factory: ZmqFactory, here: Path, address: str, why: str
) -> None:
    assert why in refused(Server(factory, [Echo()]), address)


def test_a_network_in_memory_has_hosts_of_its_own() -> None:
    with pytest.raises(InsecureBindError):
        Server(MemoryNetwork(), [Echo()]).listen("tcp://server:1")


@pytest.mark.parametrize(
    ("address", "number", "why"),
    [
        ("tcp://10.0.0.7:80", errno.EACCES, "ports below 1024 such as 80 are for root"),
        ("tcp://10.0.0.7:8080", errno.EACCES, "Permission denied"),
        ("ipc:///run/greeter", errno.EACCES, "Permission denied"),
        ("ipc://file/socket", errno.ENOTDIR, "there is no folder 'file'"),
        ("ipc:///run/greeter", errno.EROFS, "Read-only file system"),
        ("ipc:///run/greeter", errno.EADDRINUSE, "in use by another socket"),
        ("tcp://10.0.0.7:80", errno.EADDRINUSE, "another connection of the same ZmqFactory"),
    ],
)
def test_what_the_system_may_say(address: str, number: int, why: str) -> None:
    other: Any = SimpleNamespace(endpoints=[("bind", "tcp://10.0.0.7:80"), ("connect", address)])
    error = cannotListen(address, zmq.ZMQError(number), [other])
    assert isinstance(error, CannotListenError)
    assert why in str(error)


def test_an_error_that_is_not_about_the_address_stays_as_it_is() -> None:
    error = zmq.ZMQError(zmq.ETERM)
    assert cannotListen("tcp://10.0.0.7:80", error, []) is error


def test_a_range_is_for_clients(factory: ZmqFactory) -> None:
    with pytest.raises(ValueError, match="is for clients"):
        Server(factory, [Echo()]).listen("tcp://127.0.0.1:5000-5003")


# -- ipc ---------------------------------------------------------------------------------------


def test_the_path_of_a_server_that_listens_is_not_taken(one_loop: Loop, here: Path) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        first, second = Server(factory, [Echo()]), Server(factory, [Echo()])
        endpoint = first.listen("ipc://socket")
        message = refused(second, endpoint)
        assert "in use: a server listens there" in message
        # Nor that of its publisher.
        message = str(
            _error(lambda: second.listen("ipc://other", publisher="ipc://socket.streams"))
        )
        assert "cannot listen at ipc://socket.streams: it is in use" in message
        channel = Channel(factory, endpoint)
        assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        channel.close()
        await first.stop(0)
        factory.shutdown()

    one_loop.run(main)


def _error(call: Any) -> CannotListenError:
    with pytest.raises(CannotListenError) as raised:
        call()
    return raised.value


def test_a_full_backlog_is_a_server_that_listens(factory: ZmqFactory, here: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind("socket")
        busy.listen(0)
        client.connect("socket")
        assert "a server listens there" in refused(Server(factory, [Echo()]), "ipc://socket")


def test_a_stale_socket_is_replaced(one_loop: Loop, here: Path) -> None:
    for name in ("socket", "socket.streams"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        channel = Channel(factory, server.listen("ipc://socket"))
        assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_whatever_else_is_there_stays(factory: ZmqFactory, here: Path) -> None:
    server = Server(factory, [Echo()])
    Path("file").write_text("content")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("link").symlink_to("file")
    Path("dangling").symlink_to("nowhere")
    for name, kind in (
        ("file", "a regular file"),
        ("folder", "a folder"),
        ("pipe", "a pipe"),
        ("link", "a link"),
        ("dangling", "a link"),
    ):
        assert f"{kind} is there, and no socket" in refused(server, f"ipc://{name}")
    assert Path("file").read_text() == "content"
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert os.path.islink("dangling")
    # Nor is anything in the publisher's place deleted.
    Path("socket.streams").write_text("content")
    error = _error(lambda: server.listen("ipc://socket"))
    assert "ipc://socket.streams: a regular file is there" in str(error)
    assert Path("socket.streams").read_text() == "content"


def test_a_file_that_has_the_name_of_an_abstract_socket_stays(
    factory: ZmqFactory, here: Path
) -> None:
    Path("@greeter").write_text("content")
    server = Server(factory, [Echo()])
    assert "would delete the file '@greeter'" in refused(server, "ipc://@greeter", insecure=True)
    assert Path("@greeter").read_text() == "content"
    name = f"ipc://@txzmq-test-{os.getpid()}"
    server.listen(name, insecure=True)
    assert "is in use" in refused(server, name, insecure=True)


def test_a_socket_of_another_kind_is_not_taken(factory: ZmqFactory, here: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind("socket")
        assert "in use by a socket that cannot be asked" in refused(
            Server(factory, [Echo()]), "ipc://socket"
        )


def test_a_path_is_too_long_before_anything_is_made(factory: ZmqFactory, here: Path) -> None:
    server = Server(factory, [Echo()])
    with pytest.raises(ValueError, match=r"has 100 bytes, and '.streams' behind it .* is 107"):
        server.listen("ipc://" + "x" * (SUN_PATH - 7))
    assert not list(here.iterdir())
    assert not factory.connections
    server.listen("ipc://" + "x" * (SUN_PATH - 8))
    server.listen("ipc://" + "y" * SUN_PATH, publisher="ipc://z")
    with pytest.raises(ValueError, match="has 108 bytes, and the"):
        server.listen("ipc://socket", publisher="ipc://" + "z" * (SUN_PATH + 1))


# -- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_link_in_a_folder_that_others_write_to_is_refused(
    factory: ZmqFactory, here: Path, mode: int
) -> None:
    Path("real").mkdir(0o700)
    Path("shared").mkdir()
    Path("shared/link").symlink_to("../real")
    Path("to").symlink_to("shared/link")  # which is in our own folder, and leads over the other
    Path("shared").chmod(mode)
    server = Server(factory, [Echo()])
    for insecure in (True, False):
        for way in ("shared/link", "to", "real/../shared/./link"):
            with pytest.raises(InsecureBindError, match="link in a folder that others") as raised:
                server.listen(f"ipc://{way}/socket", insecure=insecure)
            assert f"Use ipc://{here}/real/socket" in str(raised.value)
    assert not list(Path("real").iterdir())
    Path("shared").chmod(0o755)
    server.listen("ipc://to/socket")
    assert Path("real/socket").is_socket()


def test_an_absolute_path_needs_no_current_folder(
    factory: ZmqFactory, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    server = Server(factory, [Echo()])
    assert server.listen(f"ipc://{here}/server") == f"ipc://{here}/server"
    server.stop(0)


@pytest.mark.parametrize("address", ["ipc://server", "ipc://./below/server"])
def test_a_relative_path_needs_a_current_folder(
    factory: ZmqFactory, here: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    server = Server(factory, [Echo()])
    for use in (
        lambda: server.listen(address),
        lambda: server.listen(address, insecure=True),
        lambda: server.listen("tcp://127.0.0.1:*", publisher=address),
        lambda: server.connect(address),
        lambda: server.connect(address, insecure=True),
        lambda: Channel(factory, address),
        lambda: Channel(factory, "inproc://x", publishers=[address]),
    ):
        with pytest.raises(ValueError, match="its path is relative, and the current folder was"):
            use()
    assert not factory.connections


def test_links_in_a_circle_end(factory: ZmqFactory, here: Path) -> None:
    Path("one").symlink_to("two")
    Path("two").symlink_to("one")
    with pytest.raises((CannotListenError, zmq.ZMQError)):
        Server(factory, [Echo()]).listen("ipc://one/socket", insecure=True)


# -- several at once -----------------------------------------------------------------------------


def test_one_claims_a_path_at_a_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    times = iter(range(100))
    monkeypatch.setattr(ipc, "_PATIENCE", 3.0)
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(times)))
    with ipc.claim("ipc://one"):
        with ipc.claim("ipc://two"):  # it has waited, and goes on: nobody keeps a server down
            pass
        assert len(waits) == 2
        with ipc.claim("ipc://*"), ipc.claim("ipc://@one"), ipc.claim("tcp://127.0.0.1:1"):
            pass
    waits.clear()
    with ipc.claim("ipc://two"):
        assert not waits
    with ipc.claim("ipc://no/such/folder"):
        assert not waits


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:*", "tcp://10.0.0.7:5000", "ipc:///tmp/socket"])
def test_who_listens_where_strangers_are_is_told_which_page_shows_keys(
    one_loop: Loop, address: str
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Echo()])

    async def main() -> None:
        with pytest.raises(InsecureBindError) as raised:
            server.listen(address)
        page = re.search(r"credentials= \((\S+) shows how\)", str(raised.value))
        assert page
        assert "## Two machines in ten minutes" in (ROOT / page[1]).read_text("utf-8")
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
