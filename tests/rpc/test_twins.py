"""Sockets that are libzmq's are looked at, and stay what they are."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import ROOT
from txzmq.rpc._net.accepted import accepted
from txzmq.rpc._net.twin import Twin, place_of

Pair = tuple[socket.socket, socket.socket]


def connected(family: socket.AddressFamily, address: object) -> Pair:
    """A connection: the end that was accepted, and the other one."""
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]  # of whatever family
        listener.listen()
        client = socket.socket(family)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    return server, client


@pytest.fixture(params=["tcp", "tcp6", "ipc", "abstract ipc"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = {
        "tcp": lambda: connected(socket.AF_INET, ("127.0.0.1", 0)),
        "tcp6": lambda: connected(socket.AF_INET6, ("::1", 0)),
        "ipc": lambda: connected(socket.AF_UNIX, str(tmp_path / "s")),
        "abstract ipc": lambda: connected(socket.AF_UNIX, f"\0{tmp_path}"),
    }[request.param]()
    yield made
    for end in made:
        end.close()


def endpoint_of(end: socket.socket) -> str:
    name = end.getsockname()
    if end.family == socket.AF_UNIX:
        return "ipc://" + (os.fsdecode(name).replace("\0", "@", 1))
    host = f"[{name[0]}]" if end.family == socket.AF_INET6 else name[0]
    return f"tcp://{host}:{name[1]}"


def test_libzmqs_thread_would_not_wait_in_it(pair: Pair) -> None:
    server, _ = pair
    connection = accepted(server.fileno(), endpoint_of(server))
    assert connection is not None
    connection.taken()
    with Twin(server.fileno()) as twin:
        twin.name()
        twin.option(socket.SOL_SOCKET, socket.SO_ERROR, 4)
    assert not os.get_blocking(server.fileno())


def test_its_addresses_are_those_that_python_tells(pair: Pair) -> None:
    server, client = pair
    with Twin(server.fileno()) as twin:
        name, peer = place_of(twin.name()), twin.peer()
    if server.family == socket.AF_UNIX:
        assert os.fsencode(server.getsockname()) == name
    else:
        assert server.getsockname()[:2] == name
        assert client.getsockname()[:2] == place_of(peer)


def test_it_is_ended_where_it_is_what_it_was(pair: Pair) -> None:
    server, client = pair
    elsewhere = accepted(server.fileno(), "tcp://127.0.0.2:1")
    assert elsewhere is not None
    elsewhere.end()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    connection = accepted(server.fileno(), endpoint_of(server))
    assert connection is not None
    connection.end()
    assert client.recv(1) == b""


def test_an_option_is_set() -> None:
    with socket.socket() as end:
        with Twin(end.fileno()) as twin:
            linger = struct.pack("ii", 1, 7)
            twin.set_option(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            assert twin.option(socket.SOL_SOCKET, socket.SO_LINGER, 8) == linger
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == linger


def test_errors_are_the_systems() -> None:
    with socket.socket() as end, Twin(end.fileno()) as twin:
        with pytest.raises(OSError, match="not connected"):
            twin.peer()
        with pytest.raises(OSError, match=r"."):
            twin.option(socket.SOL_SOCKET, 0x7FFFFFFF, 4)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Twin(2**30)


def test_nobody_makes_a_socket_of_python_from_a_descriptor() -> None:
    """On PyPy it would be a blocking one from then on, also for libzmq."""
    for path in (ROOT / "txzmq").rglob("*.py"):
        if path.name != "twin.py":
            assert not re.search(r"\bfromfd\(|socket\(fileno=", path.read_text("utf-8")), path


@given(st.binary(max_size=128))
def test_whatever_the_system_says_is_a_place_or_none(address: bytes) -> None:
    place = place_of(address)
    assert place is None or isinstance(place, (bytes, tuple))
