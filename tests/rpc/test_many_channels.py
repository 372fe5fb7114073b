"""How many channels a process may have, and what it is told past that."""

from __future__ import annotations

import contextlib
import errno
import resource
import sys
from collections.abc import Generator

import pytest
import zmq
from twisted.internet.defer import gatherResults

from tests.programs import succeeds
from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq._backend import noSocket
from txzmq.rpc import Channel, Server

#: File descriptors of a channel with one endpoint, and of the server for it.
_PER_CHANNEL = 8


@contextlib.contextmanager
def descriptors(number: int) -> Generator[int]:
    """Allow so many, or as many as may be allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_channels_in_one_process(one_loop: Loop) -> None:
    with descriptors(20_000) as allowed:
        number = min(2_000, (allowed - 500) // _PER_CHANNEL)

        async def main() -> int:
            factory = ZmqFactory(one_loop.reactor)
            server = Server(factory, [Echo()])
            endpoint = server.listen("tcp://127.0.0.1:*")
            channels = [Channel(factory, endpoint) for _ in range(number)]
            replies = await gatherResults(
                [channel.unary_unary(ECHO, text("x")) for channel in channels]
            )
            for channel in channels:
                channel.close()
            await server.stop(0)
            factory.shutdown()
            return len(replies)

        assert one_loop.run(main, patience=120) == number
        assert number > 340


@pytest.mark.parametrize("sockets", range(7, 10))
def test_past_the_contexts_limit_the_error_names_it(one_loop: Loop, sockets: int) -> None:
    class Few(ZmqFactory):
        maxSockets = sockets

    async def main() -> None:
        factory = Few(one_loop.reactor)
        made: list[Channel] = []

        def fill() -> None:
            while True:
                made.append(Channel(factory, "tcp://127.0.0.1:1"))

        with pytest.raises(zmq.ZMQError, match=rf"all {sockets} sockets .*maxSockets") as raised:
            fill()
        assert raised.value.errno == errno.EMFILE
        assert made
        for channel in made:
            channel.close()
        factory.shutdown()

    one_loop.run(main)


def test_without_descriptors_the_error_names_that_limit() -> None:
    program = """
import errno, resource, zmq
from txzmq import ZmqFactory, ZmqPushConnection
factory = ZmqFactory()
ZmqPushConnection(factory)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    made = [ZmqPushConnection(factory) for _ in range(100)]
except zmq.ZMQError as error:
    print(error.errno == errno.EMFILE, error)
factory.shutdown()
"""
    output = succeeds(["-c", program])
    assert output.startswith("True the process has no file descriptors left: its limit is 40")


def without_descriptors(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the kernel open no more files, for the reason *number*."""

    def refuse(*args: object) -> int:
        raise OSError(number, "no more of them")

    monkeypatch.setattr("os.open", refuse)


def test_where_the_system_has_no_descriptors_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with zmq.Context() as context, monkeypatch.context() as patched:
        without_descriptors(patched, errno.ENFILE)
        error = noSocket(context, zmq.ZMQError(errno.EMFILE))
    assert (error.errno, error.strerror) == (
        errno.ENFILE,
        "the system has no file descriptors left (fs.file-max)",
    )


def test_where_no_limits_can_be_asked_for_the_error_names_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    with zmq.Context() as context, monkeypatch.context() as patched:
        without_descriptors(patched, errno.EMFILE)
        error = noSocket(context, zmq.ZMQError(errno.EMFILE))
    assert str(error.strerror).startswith(
        "the process has no file descriptors left: its limit is reached; raise it"
    )


def test_another_error_of_a_socket_stays_as_it_is() -> None:
    with zmq.Context() as context:
        error = zmq.ZMQError(zmq.ETERM)
        assert noSocket(context, error) is error
