"""Calls over real sockets: each transport, each reactor, and a server process that is killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError

from tests.programs import Program, running
from tests.rpc.service import ECHO, OTHER, Echo, Waiting, text
from tests.support import Loop, gather
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    DeadlineExceeded,
    InsecureBindError,
    ResourceExhausted,
    Server,
    ServerLimits,
    Unavailable,
)


@pytest.fixture
def factory(loop: Loop) -> Iterator[ZmqFactory]:
    factory = ZmqFactory(loop.reactor)
    yield factory
    factory.shutdown()  # where a failed test did not


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:*",
        "ipc": f"ipc://{tmp_path}/socket",
        "inproc": "inproc://echo",
    }[request.param]


@pytest.fixture
def server_process() -> Iterator[Program]:
    with running("-m", "tests.rpc.echo_server", "tcp://127.0.0.1:*") as program:
        yield program


def test_calls_over_every_transport_and_reactor(
    loop: Loop, factory: ZmqFactory, address: str
) -> None:
    service = Waiting()

    async def main() -> None:
        server = Server(factory, [service])
        channel = Channel(factory, server.listen(address))
        answers = [channel.unary_unary(OTHER, text(str(i))) for i in range(2500)]
        assert [answer.value for answer in await gather(list(answers))] == [
            f"other {i}" for i in range(2500)
        ]
        with pytest.raises(DeadlineExceeded):
            await channel.unary_unary(ECHO, text("late"), timeout=0.05)
        cancelled = channel.unary_unary(ECHO, text("cancelled"))
        await loop.until(lambda: service.seen[-1] == "cancelled")
        cancelled.cancel()
        with pytest.raises(CancelledError):
            await cancelled
        await loop.until(lambda: not server.running)
        channel.close()
        await server.stop()
        factory.shutdown()

    loop.run(main)


def test_l6_large_messages_and_the_limit_for_them(
    loop: Loop, factory: ZmqFactory, address: str
) -> None:
    class Doubling(Echo):
        def echo(self, request: StringValue, context: object) -> StringValue:
            return text(request.value * 2)

    async def main() -> None:
        server = Server(factory, [Doubling()], limits=ServerLimits(message_size=1_000_000))
        channel = Channel(factory, server.listen(address))
        answer = await channel.unary_unary(ECHO, text("x" * 499_000))
        assert len(answer.value) == 998_000
        with pytest.raises(ResourceExhausted, match="ServerLimits"):
            await channel.unary_unary(ECHO, text("x" * 600_000))
        with pytest.raises(ResourceExhausted, match="client's limit"):
            await channel.unary_unary(ECHO, text("x" * 5_000_000))
        assert (await channel.unary_unary(ECHO, text("x"))).value == "xx"
        channel.close()
        await server.stop()
        factory.shutdown()

    loop.run(main)


def test_calls_over_ipv6(one_loop: Loop) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        server = Server(factory, [Echo()])
        endpoint = server.listen("tcp://[::1]:*")
        assert endpoint.startswith("tcp://[::1]:")
        answer = await Channel(factory, endpoint).unary_unary(ECHO, text("x"))
        assert answer.value == "x"
        factory.shutdown()

    one_loop.run(main)


def test_n1_a_killed_server_ends_its_calls(
    loop: Loop, factory: ZmqFactory, server_process: Program
) -> None:
    endpoint = server_process.expect("listening at (.*)")[1]

    async def main() -> None:
        channel = Channel(factory, endpoint)
        # A timeout that the test could not wait for: the calls must not end by it.
        waiting = [channel.unary_unary(OTHER, text(str(i)), timeout=3600) for i in range(100)]
        assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        server_process.process.kill()
        for deferred in waiting:
            with pytest.raises(Unavailable, match="may have been executed"):
                await deferred
        with pytest.raises(Unavailable, match="was not sent"):
            await channel.unary_unary(ECHO, text("x"), timeout=3600)
        factory.shutdown()

    loop.run(main)


def test_n2_a_client_that_goes_ends_its_handlers(
    loop: Loop, factory: ZmqFactory, server_process: Program
) -> None:
    endpoint = server_process.expect("listening at (.*)")[1]

    async def main() -> None:
        channel = Channel(factory, endpoint)
        answer = channel.unary_unary(OTHER, text("a"))
        assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        factory.shutdown()  # without closing the channel
        with pytest.raises(CancelledError):
            await answer

    loop.run(main)
    server_process.expect("executing a")
    server_process.expect("a: the client has gone")


def test_nothing_listens(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and does not listen: the port is refused, and nobody's
            channel = Channel(factory, f"tcp://127.0.0.1:{bound.getsockname()[1]}")
            with pytest.raises(Unavailable, match=r"not sent .*connecting failed"):
                await channel.unary_unary(ECHO, text("x"), timeout=3600)
            factory.shutdown()

    loop.run(main)


def test_a_server_comes_back_at_its_address(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        server = Server(factory, [Echo()])
        endpoint = server.listen("tcp://127.0.0.1:*")
        channel = Channel(factory, endpoint)
        await channel.unary_unary(ECHO, text("1"))
        await server.stop()
        again = Server(factory, [Echo()])

        def listens() -> bool:
            # libzmq gives an address back in a thread of its own, a moment after the close.
            with suppress(zmq.ZMQError):
                return bool(again.listen(endpoint))
            return False

        await loop.until(listens)
        answer = None
        while answer is None:
            with suppress(Unavailable):  # sent into the old connection before its end was known
                answer = await channel.unary_unary(ECHO, text("2"), wait_for_ready=True)
        assert answer.value == "2"
        factory.shutdown()

    loop.run(main)


def test_an_address_in_use_leaves_the_server_as_it_was(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        first, second = Server(factory, [Echo()]), Server(factory, [Echo()])
        endpoint = first.listen("tcp://127.0.0.1:*")
        with pytest.raises(zmq.ZMQError, match="in use"):
            second.listen(endpoint)
        channel = Channel(factory, second.listen("tcp://127.0.0.1:*"))
        assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:0",
        "tcp://0.0.0.0:0",
        "tcp://[::]:0",
        "tcp://192.0.2.1:0",
        "ipc://@abstract",
        "ipc:///socket-in-a-folder-for-all",
    ],
)
def test_a_server_does_not_listen_where_strangers_are(one_loop: Loop, address: str) -> None:
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Echo()])
    with pytest.raises(InsecureBindError, match="insecure=True"):
        server.listen(address)
    factory.shutdown()


def test_of_an_abstract_socket_no_folder_is_spoken(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    with pytest.raises(InsecureBindError, match="an abstract socket has no permissions"):
        Server(factory, [Echo()]).listen("ipc://@abstract")
    factory.shutdown()


@pytest.mark.parametrize("way", ["a link", "dots"])
def test_a_private_folder_on_the_way_to_one_for_all_keeps_nobody_out(
    one_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Echo()])
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)  # so that the paths are short
    Path("link").symlink_to("/")
    for_all = "link" if way == "a link" else os.path.relpath("/", tmp_path)
    with pytest.raises(InsecureBindError, match="no folder above the socket"):
        server.listen(f"ipc://{for_all}/socket-in-a-folder-for-all")
    assert server.listen(f"ipc://{tmp_path}/socket")
    factory.shutdown()


def test_a_server_listens_there_when_told_to(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        server = Server(factory, [Echo()])
        assert server.listen("tcp://*:*", insecure=True).startswith("tcp://0.0.0.0:")
        await server.stop()
        factory.shutdown()

    one_loop.run(main)
