"""The mistakes that people make with addresses: each is told at once, in words that help.

Each row says the type of the error, and words of it. Every form of an address is in
test_addresses.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.rpc.mistaken import Mistake, told
from tests.rpc.service import Echo
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server


def connect(address: Any) -> Callable[[ZmqFactory], object]:
    return lambda factory: Channel(factory, address)


def listen(address: Any, **options: Any) -> Callable[[ZmqFactory], object]:
    return lambda factory: Server(factory, [Echo()]).listen(address, **options)


ADDRESSES: Final = {
    "a port that is too large": Mistake(
        connect("tcp://127.0.0.1:99999"),
        ValueError,
        "endpoint='tcp://127.0.0.1:99999': '99999' is no port: it is over 65535. Use tcp://",
    ),
    "a port that is too large, to listen": Mistake(
        listen("tcp://127.0.0.1:99999"), ValueError, "'99999' is no port: it is over 65535"
    ),
    "a port with letters": Mistake(
        listen("tcp://127.0.0.1:45567abc"), ValueError, "'45567abc' is no port, a number from 1"
    ),
    "a port with a fraction": Mistake(
        connect("tcp://127.0.0.1:45567.5"), ValueError, "'45567.5' is no port, a number from 1"
    ),
    "a port past the largest by its digits": Mistake(
        listen("tcp://127.0.0.1:111103"), ValueError, "'111103' is no port: it is over 65535"
    ),
    "no scheme": Mistake(
        listen("127.0.0.1:5555"),
        ValueError,
        "address='127.0.0.1:5555': it has no scheme; tcp://127.0.0.1:5555 perhaps",
    ),
    "no port to listen at": Mistake(
        listen("tcp://127.0.0.1"), ValueError, "address='tcp://127.0.0.1': the port is missing"
    ),
    "no port to connect to": Mistake(
        connect("tcp://127.0.0.1"), ValueError, "endpoint='tcp://127.0.0.1': the port is missing"
    ),
    "a wildcard to connect to": Mistake(
        connect("tcp://*:5555"), ValueError, "'*' as host is for listening; name the host"
    ),
    "another protocol": Mistake(
        connect("http://x:1"), ValueError, "txzmq speaks ZeroMQ there, not HTTP"
    ),
    "bytes": Mistake(
        connect(b"tcp://127.0.0.1:1"), TypeError, "endpoint must be an address, several of them"
    ),
    "bytes to listen at": Mistake(
        listen(b"tcp://127.0.0.1:1"), TypeError, "address must be a str, not bytes"
    ),
    "None": Mistake(connect(None), TypeError, "or a resolver, not NoneType (None)"),
    "a number": Mistake(listen(5555), TypeError, "address must be a str, not int (5555)"),
    "a NUL": Mistake(connect("tcp://127.0.0.1:1\0"), ValueError, r"it contains '\x00'"),
    "no address at all": Mistake(connect([]), ValueError, "a channel needs an endpoint"),
    "a path that is too long": Mistake(
        listen("ipc:///" + "x" * 120), ValueError, "the path is too long: it has 121 bytes"
    ),
    "a path that is too long with its suffix": Mistake(
        listen("ipc:///" + "x" * 100), ValueError, "and '.streams' behind it for the publisher"
    ),
    "a range to listen at": Mistake(
        listen("tcp://127.0.0.1:5000-5003"), ValueError, "call listen() for each"
    ),
    "a range from high to low": Mistake(
        connect("tcp://127.0.0.1:5003-5000"), ValueError, "is reversed: use 5000-5003"
    ),
}


@pytest.mark.parametrize("mistake", ADDRESSES)
def test_a_mistake_in_an_address(factory: ZmqFactory, mistake: str) -> None:
    told(ADDRESSES[mistake], factory)
    assert not factory.connections
