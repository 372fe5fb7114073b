"""Peers that are none, or too many; by the rows of reliability's table of failures."""

from __future__ import annotations

import os
import resource
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet.protocol import Factory, Protocol

from tests.field.namespaces import Wire
from tests.field.network import QuickNetwork
from tests.field.proxy import Proxy
from tests.field.support import QUICK, History, channel_in
from tests.programs import running
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, EndpointChange, Observer

HOUR = 3600
READY = ConnectivityState.READY


class Reasons(Observer):
    """Keeps why endpoints could not be reached."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.ready = 0

    def endpoint_changed(self, source: object, change: EndpointChange) -> None:
        self.reasons.append(change.reason)
        self.ready += change.state is ConnectivityState.READY


def test_n16_a_client_that_reaches_itself_is_not_ready_and_leaves_the_port(
    one_loop: Loop, hosts: Wire
) -> None:
    """A client's port may be the one that it connects to, where nobody listens."""
    host = hosts.server
    host.limit_ports(40_000, 40_001)
    reasons = Reasons()

    async def main() -> None:
        with channel_in(one_loop, host, "tcp://127.0.0.1:40000", observer=reasons) as calls:
            await one_loop.until(lambda: any("itself" in reason for reason in reasons.reasons))
            await calls.call(timeout=HOUR)
            assert "was not sent" in calls.errors[0].message
            assert not reasons.ready
            host.limit_ports(40_000, 40_009)  # the server's streams take one, too
            with host.running("-m", "tests.field.server", "tcp://127.0.0.1:40000") as server:
                server.expect("listening at .*")
                await calls.call_until_answered()
                calls.check()
                calls.close()

    one_loop.run(main)


# -- what answers is no such server ---------------------------------------------------------------

GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10,
    "a greeting and no more sense": b"\xff" + bytes(8) + b"\x7f\x03" + b"?" * 100,
    # The greeting of ZMTP 3.0 with the NULL mechanism, and a READY of a PUB socket.
    "another type of socket": b"\xff" + bytes(8) + b"\x7f\x03\0NULL" + bytes(48)
    + b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB",
    # A greeting, an acceptable READY, and a frame with flags that there are not.
    "a bad frame": b"\xff" + bytes(8) + b"\x7f\x03\0NULL" + bytes(48)
    + b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER" + b"\xff" * 20,
}  # fmt: skip


class _Impostor(Protocol):
    def __init__(self, garbage: bytes) -> None:
        self._garbage = garbage

    def connectionMade(self) -> None:
        transport = cast("Any", self.transport)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        transport.write(self._garbage)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_n11_an_endpoint_that_speaks_garbage_gets_no_calls_until_it_comes_back_right(
    one_loop: Loop, garbage: bytes
) -> None:
    impostors: Any = Factory.forProtocol(lambda: _Impostor(garbage))

    async def main() -> None:
        port = one_loop.reactor.listenTCP(0, impostors, interface="127.0.0.1")
        poisoned = f"tcp://127.0.0.1:{port.getHost().port}"
        with running("-m", "tests.field.server", "tcp://127.0.0.1:*") as good:
            endpoint = good.expect("listening at (.*)")[1]
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(QuickNetwork(factory), [poisoned, endpoint], liveness=QUICK)
            calls = History(one_loop, channel, factory)
            await one_loop.until(lambda: any(one.state is READY for one in channel.endpoints))
            for _ in range(100):
                await calls.call(timeout=HOUR)
                await one_loop.sleep(0.005)
            assert len(calls.answers) == 100
            await port.stopListening()
            with running("-m", "tests.field.server", poisoned) as repentant:
                repentant.expect("listening at (.*)")
                await one_loop.until(lambda: all(one.state is READY for one in channel.endpoints))
                calls.call_many(20, timeout=HOUR)
                await calls.all_ended()
                assert len(calls.answers) == 120
                calls.check()
                calls.close()

    one_loop.run(main)


def test_n11_a_connection_that_turns_to_garbage_ends_its_calls_and_the_others_serve(
    one_loop: Loop,
) -> None:
    async def main() -> None:
        with (
            running("-m", "tests.field.server", "tcp://127.0.0.1:*") as one,
            running("-m", "tests.field.server", "tcp://127.0.0.1:*") as two,
        ):
            proxy = Proxy(one_loop.reactor, one.expect("listening at (.*)")[1])
            endpoint = two.expect("listening at (.*)")[1]
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, [proxy.endpoint, endpoint], liveness=QUICK)
            calls = History(one_loop, channel, factory)
            await one_loop.until(lambda: all(each.state is READY for each in channel.endpoints))
            calls.call_many(20, answered=False, timeout=HOUR)  # half of them to each
            await calls.call(timeout=HOUR)
            await calls.call(timeout=HOUR)
            proxy.inject(b"\xff" * 64, to_client=True)
            await one_loop.until(lambda: len(calls.errors) == 10)
            calls.check_lost(10)
            for _ in range(50):
                await calls.call(timeout=HOUR)
            assert len(calls.answers) == 52
            await one_loop.until(lambda: all(each.state is READY for each in channel.endpoints))
            two.kill()
            await calls.all_ended()
            calls.check_lost(20)
            await calls.call(timeout=HOUR)  # the first is used again
            assert len(calls.answers) == 53
            calls.check()
            calls.close()
            await proxy.close()

    one_loop.run(main)


class _Closing(Protocol):
    """Accepts, and closes at once."""

    visits = 0

    def connectionMade(self) -> None:
        type(self).visits += 1
        transport = cast("Any", self.transport)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        transport.loseConnection()


def test_n15_who_accepts_and_closes_is_visited_seldom_and_used_when_it_is_right(
    one_loop: Loop,
) -> None:
    closing: Any = Factory.forProtocol(_Closing)

    async def main() -> None:
        port = one_loop.reactor.listenTCP(0, closing, interface="127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port.getHost().port}"
        factory = ZmqFactory(one_loop.reactor)
        calls = History(one_loop, Channel(factory, endpoint, liveness=QUICK), factory)
        await one_loop.sleep(4)
        # 0.05, 0.08, 0.13, 0.2, 0.33, 0.5, 0.5 s ..., where libzmq alone comes back at once.
        assert 4 <= _Closing.visits <= 20
        await calls.call(timeout=HOUR)
        assert "was not sent" in calls.errors[0].message
        await port.stopListening()
        with running("-m", "tests.field.server", endpoint) as server:
            server.expect("listening at (.*)")
            await calls.call(timeout=HOUR, wait_for_ready=True)
            assert calls.answers == {1: "1"}
            calls.check()
            calls.close()

    one_loop.run(main)


# -- many clients at once -----------------------------------------------------------------------


def test_n14_a_hundred_clients_come_back_to_a_server_that_restarts(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        with ExitStack() as stack:
            server = stack.enter_context(running("-m", "tests.field.server", "tcp://127.0.0.1:*"))
            endpoint = server.expect("listening at (.*)")[1]
            clients = [
                History(one_loop, Channel(factory, endpoint, liveness=QUICK)) for _ in range(100)
            ]
            for client in clients:
                client.call(timeout=HOUR, wait_for_ready=True)
            for client in clients:
                await client.all_ended()
                client.call_many(5, answered=False, timeout=HOUR)
            await one_loop.sleep(0.1)  # they are sent
            server.kill()
            for client in clients:
                await client.all_ended()
                client.check_lost(5)
            server = stack.enter_context(running("-m", "tests.field.server", endpoint))
            server.expect("listening at (.*)")
            for client in clients:
                client.call(timeout=HOUR, wait_for_ready=True)
            for client in clients:
                await client.all_ended()
                assert len(client.answers) == 2
                client.check()
                client.close()
            factory.shutdown()

    one_loop.run(main)


def test_n14_clients_draw_when_to_come_back() -> None:
    """Libzmq's own backoff is the same in all processes."""
    from txzmq.rpc.transport import ZmqNetwork

    factory = ZmqFactory()
    network: Any = ZmqNetwork(factory)
    handler: Any = SimpleNamespace(failed=None)  # of which nothing is told
    sockets = [network.connect("inproc://nowhere", handler, {}) for _ in range(50)]
    names = ("RECONNECT_IVL", "RECONNECT_IVL_MAX")
    drawn = {tuple(one.socketOptions[name] for name in names) for one in sockets}
    for one in sockets:
        one.close()
    factory.shutdown()
    assert len(drawn) > 40


# -- descriptors --------------------------------------------------------------------------------


@contextmanager
def no_descriptors() -> Generator[None]:
    """This process can open no more of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
    try:
        while True:  # what is free below the highest
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_l9_a_client_without_descriptors_tells_its_calls_and_recovers(one_loop: Loop) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            server = stack.enter_context(running("-m", "tests.field.server", "tcp://127.0.0.1:*"))
            endpoint = server.expect("listening at (.*)")[1]
            factory = ZmqFactory(one_loop.reactor)
            calls = History(one_loop, Channel(factory, endpoint, liveness=QUICK), factory)
            await calls.call(timeout=HOUR)
            calls.call_many(5, answered=False, timeout=HOUR)
            await one_loop.sleep(0.1)  # they are sent
            server.kill()
            server = stack.enter_context(running("-m", "tests.field.server", endpoint))
            server.expect("listening at (.*)")
            with no_descriptors():
                await calls.all_ended()  # the loss is seen now at the earliest
                calls.check_lost(5)
                for _ in range(20):
                    await calls.call(timeout=HOUR)
                    await one_loop.sleep(0.02)
                unsent = [error for number, error in calls.errors.items() if number > 5]
                assert all("was not sent" in error.message for error in unsent)
            await calls.call_until_answered()
            calls.check()
            calls.close()

    one_loop.run(main)
