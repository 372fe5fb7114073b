"""Servers that dial out to a proxy."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.protocol import Factory, Protocol

from tests.programs import Program, running
from tests.rpc.raw import RawClient
from tests.rpc.retried_calls import HEDGE, IDEMPOTENT, config
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, Waiting, text
from tests.rpc.streaming import COUNT, Streaming
from tests.support import Logged, Loop, gather
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    Code,
    ConnectivityState,
    DeadlineExceeded,
    InsecureBindError,
    Method,
    RpcError,
    Server,
    SocketOptions,
    Unavailable,
)
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.transport import ServerTransport, WorkerHandler
from txzmq.testing import MemoryNetwork

ANY_PORT = "tcp://127.0.0.1:*"


class Proxy:
    """A proxy process."""

    def __init__(self, stack: contextlib.ExitStack, servers: str = ANY_PORT) -> None:
        self._stack = stack
        self.clients: str = ANY_PORT
        self.servers: str = servers
        self.start()

    def start(self) -> None:
        """Start it, again where it was."""
        self.program: Program = self._stack.enter_context(
            running("-m", "tests.rpc.plain_proxy", self.clients, self.servers)
        )
        self.clients = self.program.expect("clients at (.*)")[1]
        self.servers = self.program.expect("servers at (.*)")[1]


@pytest.fixture
def stack() -> Generator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def worker(stack: contextlib.ExitStack, proxy: Proxy, seconds: str = "0") -> Program:
    """A server process that dials out."""
    program = stack.enter_context(
        running("-m", "tests.rpc.draining_server", proxy.servers, seconds, "connect")
    )
    program.expect("connected to .*")
    return program


async def call_until(
    channel: Channel, seen: Callable[[], bool], method: Method[StringValue, StringValue] = ECHO
) -> None:
    """Call until the workers are there, which nothing tells."""
    while not seen():
        with contextlib.suppress(DeadlineExceeded, Unavailable):
            await channel.unary_unary(method, text("x"), timeout=0.5)


async def workers(
    channel: Channel,
    factory: ZmqFactory,
    proxy: Proxy,
    services: Sequence[Echo],
    method: Method[StringValue, StringValue] = ECHO,
) -> list[Server]:
    """Servers that dial out, each of which has had a call of the channel."""
    servers = [Server(factory, [service]) for service in services]
    for server in servers:
        server.connect(proxy.servers)
    await call_until(channel, lambda: all(service.seen for service in services), method)
    return servers


def test_calls_pass_through_a_proxy_to_workers(one_loop: Loop, stack: contextlib.ExitStack) -> None:
    proxy = Proxy(stack)
    factory = ZmqFactory(one_loop.reactor)
    services = [Echo(), Echo()]

    async def main() -> None:
        channel = Channel(factory, proxy.clients)
        servers = await workers(channel, factory, proxy, services)
        before = sum(len(service.seen) for service in services)
        calls = [channel.unary_unary(ECHO, text(str(i))) for i in range(1_000)]
        assert [answer.value for answer in await gather(list(calls))] == [
            str(i) for i in range(1_000)
        ]
        assert sum(len(service.seen) for service in services) == before + 1_000
        assert all(len(service.seen) > 400 for service in services)
        assert {context.peer for context in services[0].contexts} == {"127.0.0.1"}
        with pytest.raises(RpcError) as caught:
            await channel.unary_unary(OTHER, text("x"), metadata={"k": "v" * 9_000})
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        channel.close()
        for server in servers:
            await server.stop()
        factory.shutdown()

    one_loop.run(main)


def test_a_worker_that_is_killed_loses_its_calls_and_no_others(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    proxy = Proxy(stack)
    doomed, survivor = worker(stack, proxy, "3600"), worker(stack, proxy)
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        channel = Channel(factory, proxy.clients, service_config=config(HEDGE))
        # Each worker says so with its first call.
        workers = (doomed, survivor)
        await call_until(channel, lambda: all(program.has_said("serving") for program in workers))
        # In turn, one to each; the doomed one never answers.
        lost = [channel.unary_unary(OTHER, text("y"), timeout=2) for _ in range(2)]
        await one_loop.until(lambda: all(program.has_said("executing y") for program in workers))
        doomed.kill()
        ends: list[str] = []
        for call in lost:
            try:
                ends.append((await call).value)
            except DeadlineExceeded as error:
                ends.append(error.message)
        # A proxy does not tell of a loss: only the deadline does.
        assert sorted(end == "y" for end in ends) == [False, True]
        assert any("may have been executed" in end for end in ends)
        # From now on all go to the other one.
        answers = [channel.unary_unary(IDEMPOTENT, text(str(i)), timeout=5) for i in range(100)]
        assert len(await gather(list(answers))) == 100
        factory.shutdown()

    one_loop.run(main)


def test_a_hedge_finds_another_worker(one_loop: Loop, stack: contextlib.ExitStack) -> None:
    proxy = Proxy(stack)
    factory = ZmqFactory(one_loop.reactor)
    services = [Waiting(), Waiting()]

    async def main() -> None:
        channel = Channel(factory, proxy.clients, service_config=config(HEDGE))
        servers = await workers(channel, factory, proxy, services, OTHER)
        answer = channel.unary_unary(IDEMPOTENT, text("x"), timeout=20)
        await one_loop.until(lambda: all(service.results for service in services))
        services[1].results[0].callback(text("second"))
        assert (await answer).value == "second"
        channel.close()
        await gather([server.stop(0) for server in servers])
        factory.shutdown()

    one_loop.run(main)


def test_a_worker_that_shuts_down_finishes_and_the_others_take_over(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    proxy = Proxy(stack)
    factory = ZmqFactory(one_loop.reactor)
    services = [Waiting(), Waiting()]

    async def main() -> None:
        channel = Channel(factory, proxy.clients)
        servers = await workers(channel, factory, proxy, services, OTHER)
        running = [channel.unary_unary(ECHO, text("y"), timeout=20) for _ in range(2)]
        await one_loop.until(lambda: all(service.results for service in services))
        stopped = servers[0].stop(20)
        # One at a time: the proxy gives what was refused to the other worker.
        for number in range(10):
            answer = await channel.unary_unary(OTHER, text(str(number)), timeout=5)
            assert answer.value == f"other {number}"
        assert not stopped.called
        for service in services:
            service.results[0].callback(text("done"))
        assert [answer.value for answer in await gather(list(running))] == ["done", "done"]
        await stopped
        channel.close()
        await servers[1].stop()
        factory.shutdown()

    one_loop.run(main)


def test_a_worker_finds_its_proxy_again_and_its_calls_have_ended(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    proxy = Proxy(stack)
    factory = ZmqFactory(one_loop.reactor)
    service = Waiting()

    async def main() -> None:
        server = Server(factory, [service])
        server.connect(proxy.servers)
        channel = Channel(factory, proxy.clients)
        lost = channel.unary_unary(ECHO, text("x"), wait_for_ready=True, timeout=20)
        await one_loop.until(lambda: bool(service.results))
        proxy.program.kill()
        with pytest.raises(RpcError) as caught:
            await lost
        assert caught.value.code is Code.UNAVAILABLE
        await one_loop.until(lambda: not server.running)
        assert service.contexts[0].cancelled.called
        proxy.start()
        await one_loop.until(lambda: server.counters["connection to a proxy lost"] == 1)
        answer = channel.unary_unary(OTHER, text("y"), wait_for_ready=True, timeout=20)
        assert (await answer).value == "other y"
        channel.close()
        await server.stop()
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize(
    "garbage",
    [
        # A greeting of ZMTP 3, and then a frame that is no command.
        b"\xff" + bytes(8) + b"\x7f\3\0NULL" + bytes(48) + b"\xff" * 64,
        # What libzmq takes for a peer of before 2011, and waits for.
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10,
    ],
    ids=["no command", "another protocol"],
)
def test_n11_a_worker_comes_back_from_a_proxy_that_spoke_garbage(
    one_loop: Loop, stack: contextlib.ExitStack, garbage: bytes
) -> None:
    class Garbage(Protocol):
        # Before connectionMade; typed, which Twisted's attribute `transport` is not.
        def makeConnection(self, transport: Any) -> None:
            transport.write(garbage)

    factory = ZmqFactory(one_loop.reactor)
    service = Echo()

    async def main() -> None:
        impostors: Any = Factory.forProtocol(Garbage)
        impostors.noisy = False
        port = one_loop.reactor.listenTCP(0, impostors, interface="127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port.getHost().port}"
        options = SocketOptions(handshake_timeout=0.1)
        server = Server(factory, [service], socket_options=options)
        server.connect(endpoint)
        await one_loop.until(lambda: server.counters["connection to a proxy lost"] >= 2)
        await port.stopListening()
        proxy = Proxy(stack, endpoint)
        channel = Channel(factory, proxy.clients)
        await call_until(channel, lambda: bool(service.seen))
        channel.close()
        await server.stop()
        factory.shutdown()

    one_loop.run(main)


def test_a_worker_finds_its_proxy_by_name_and_again_when_it_comes_back(
    one_loop: Loop, stack: contextlib.ExitStack
) -> None:
    proxy = Proxy(stack)
    factory = ZmqFactory(one_loop.reactor)
    service = Echo()
    server = Server(factory, [service])

    async def main() -> None:
        channel = Channel(factory, proxy.clients)
        server.connect(f"tcp://localhost:{proxy.servers.rpartition(':')[2]}")
        await call_until(channel, lambda: bool(service.seen))
        proxy.program.kill()
        await one_loop.until(lambda: server.counters["connection to a proxy lost"] > 1)
        service.seen.clear()
        proxy.start()
        await one_loop.until(lambda: channel.state is ConnectivityState.READY)
        await call_until(channel, lambda: bool(service.seen))
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("end", ["stop", "shutdown"])
def test_a_worker_whose_proxy_has_an_unknown_name_tries_on(
    one_loop: Loop, end: str, logged: Logged
) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        server.connect("tcp://no-such-host.invalid:1", insecure=True)
        if end == "stop":
            await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
    assert not logged.failures()


def test_strangers_are_not_dialled_unless_that_is_spelled_out() -> None:
    network = _Dialling()
    server = Server(network, [Echo()])
    with pytest.raises(InsecureBindError, match="refusing to connect to tcp:"):
        server.connect("tcp://192.0.2.1:5000")
    assert network.dialled == 0
    server.connect("tcp://192.0.2.1:5000", insecure=True)
    assert network.dialled == 1
    server.stop(0)
    with pytest.raises(RuntimeError, match="stopped"):
        server.connect(ADDRESS)


class _Dialling(MemoryNetwork):
    """Servers that dial out listen instead, so that a test can play the proxy."""

    def __init__(self) -> None:
        super().__init__()
        self.dialled = 0
        self.handler: WorkerHandler | None = None
        self.refuses = False

    # As the base class, which has no proxies.
    def dial_out(self, address: str, handler: WorkerHandler, options: Mapping[str, int]) -> Any:
        self.dialled += 1
        if self.refuses:
            raise OSError("too many open files")
        self.handler = handler
        transport: ServerTransport = self.listen(address, handler, options)
        return transport


def test_a_connection_that_is_lost_is_made_anew_less_and_less_often() -> None:
    network = _Dialling()
    server = Server(network, [Echo()])
    server.connect(ADDRESS)
    moments: list[float] = []
    network.refuses = True
    assert network.handler is not None
    network.handler.failed("the connection to the proxy was lost")
    for _ in range(1_000):
        before = network.dialled
        network.advance(0.1)
        if network.dialled > before:
            moments.append(network.clock.seconds())
    pauses = [b - a for a, b in itertools.pairwise(moments)]
    assert moments[0] < 0.5
    assert 5 < max(pauses) < 15.2
    network.refuses = False
    network.advance(20)
    client = RawClient(network, ADDRESS)
    network.run()
    number = client.request(RequestHead(ECHO.path, None, ()), text("x").SerializeToString())
    network.run()
    head, body = client.replies()[number]
    assert (head.code, StringValue.FromString(body).value) == (Code.OK, "x")
    client.transport.close()
    server.stop(0)
    network.advance(1)
    assert not network.clock.getDelayedCalls()


@pytest.mark.parametrize(("grace", "dialled"), [(10, 2), (0, 1)])
def test_stopping_while_the_proxy_is_away_leaves_nothing(grace: float, dialled: int) -> None:
    network = _Dialling()
    server = Server(network, [Echo()])
    server.connect(ADDRESS)
    assert network.handler is not None
    network.handler.failed("the connection to the proxy was lost")
    stopped = server.stop(grace)
    network.advance(60)
    assert stopped.called
    assert network.dialled == dialled  # it does while it waits for what the proxy takes
    assert not network.clock.getDelayedCalls()


def test_a_connection_that_is_lost_ends_its_calls_and_no_others() -> None:
    """A proxy that comes back knows its clients by other names: replies would reach nobody."""
    network = _Dialling()
    service = Waiting()
    server = Server(network, [service])
    server.connect(ADDRESS)
    server.listen("inproc://direct")
    lost, direct = RawClient(network, ADDRESS), RawClient(network, "inproc://direct")
    network.run()
    for client in (lost, direct):
        client.request(RequestHead(ECHO.path, None, ()), text("x").SerializeToString())
        network.run()
    assert network.handler is not None
    network.handler.failed("the connection to the proxy was lost")
    network.run()
    assert [result.called for result in service.results] == [True, False], "cancelled"
    lost.transport.close()
    direct.transport.close()
    server.stop(0)
    network.advance(1)
    assert not network.clock.getDelayedCalls()


@pytest.mark.parametrize("end", ["stop", "closed"])
def test_a_loss_that_is_told_after_the_end_dials_nobody(end: str) -> None:
    network = _Dialling()
    server = Server(network, [Echo()])
    server.connect(ADDRESS)
    handler = network.handler
    assert handler is not None
    if end == "stop":
        server.stop(0)
    else:
        handler.closed()
    handler.failed("the connection to the proxy was lost")
    network.advance(30)
    assert network.dialled == 1
    server.stop(0)
    network.advance(1)
    assert not network.clock.getDelayedCalls()


def test_a_stream_cannot_be_opened_through_a_proxy_and_its_client_is_told() -> None:
    network = _Dialling()
    service = Streaming()
    server = Server(network, [service])
    server.connect(ADDRESS)
    client = RawClient(network, ADDRESS)
    network.run()
    head = RequestHead(COUNT.path, None, (), open_stream=OpenStream())
    number = client.request(head, text("3").SerializeToString())
    network.run()
    answer = client.replies()[number][0]
    assert (answer.code, "proxy" in answer.message) == (Code.UNIMPLEMENTED, True)
    assert not service.contexts
    client.transport.close()
    server.stop(0)
    network.advance(1)
