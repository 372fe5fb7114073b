"""Calls through a plain ROUTER-DEALER proxy, to workers that dial out to it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.programs import Program, running
from tests.rpc.service import ECHO, OTHER, Echo, Waiting, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    NotFound,
    ResponseMetadata,
    Server,
    UnaryResult,
    Unavailable,
)
from txzmq.testing import MemoryNetwork


class Proxy:
    """A proxy process."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.clients = program.expect("clients at (.*)")[1]
        self.workers = program.expect("workers at (.*)")[1]


@contextmanager
def proxy(
    clients: str = "tcp://127.0.0.1:*", workers: str = "tcp://127.0.0.1:*"
) -> Generator[Proxy]:
    with running("-m", "tests.rpc.plain_proxy", clients, workers) as program:
        yield Proxy(program)


class Refusing(Echo):
    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        context.set_trailing_metadata({"worker": "refusing"})
        raise NotFound(f"no {request.value}")


def worker(factory: ZmqFactory, at: Proxy, service: Echo) -> Server:
    server = Server(factory, [service])
    assert server.connect(at.workers) == at.workers
    return server


async def all_serve(loop: Loop, channel: Channel, *services: Echo) -> None:
    """Wait until the proxy knows the workers."""
    while not all(service.seen for service in services):
        calls = [channel.unary_unary(OTHER, text("?"), wait_for_ready=True) for _ in services]
        for call in calls:
            await call
    for service in services:
        service.seen.clear()


def test_calls_reach_all_workers_and_replies_their_callers(one_loop: Loop) -> None:
    async def main() -> None:
        with proxy() as at:
            factory = ZmqFactory(one_loop.reactor)
            services = [Echo(), Echo()]
            workers = [worker(factory, at, service) for service in services]
            channels = [Channel(factory, at.clients) for _ in range(2)]
            for channel in channels:
                await all_serve(one_loop, channel, *services)
            calls = [channels[n % 2].unary_unary(ECHO, text(str(n))) for n in range(1000)]
            for number, call in enumerate(calls):
                assert (await call).value == str(number)
            assert sorted(map(len, (service.seen for service in services))) == [500, 500]
            for channel in channels:
                channel.close()
            for server in workers:
                await server.stop(0)
            factory.shutdown()

    one_loop.run(main)


def test_errors_metadata_and_deadlines_pass(one_loop: Loop) -> None:
    async def main() -> None:
        with proxy() as at:
            factory = ZmqFactory(one_loop.reactor)
            service = Refusing()
            server = worker(factory, at, service)
            channel = Channel(factory, at.clients)
            await all_serve(one_loop, channel, service)
            with ResponseMetadata() as metadata, pytest.raises(NotFound, match="no x"):
                await channel.unary_unary(ECHO, text("x"), timeout=60, metadata={"k": "v"})
            assert metadata.trailing == (("worker", "refusing"),)
            context = service.contexts[-1]
            assert context.metadata == (("k", "v"),)
            left = context.time_remaining()
            assert left is not None
            assert 0 < left <= 60
            channel.close()
            await server.stop(0)
            factory.shutdown()

    one_loop.run(main)


def test_a_killed_workers_calls_end_in_time_and_the_other_serves(one_loop: Loop) -> None:
    async def main() -> None:
        with proxy() as at, running("-m", "tests.field.server", "--proxy", at.workers) as victim:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, at.clients)
            first = channel.unary_unary(OTHER, text("1"), timeout=3, wait_for_ready=True)
            await one_loop.sleep(0.1)  # it is sent
            victim.expect("executing 1")
            service = Echo()
            server = worker(factory, at, service)
            victim.kill()
            # The proxy knows of no calls, so nobody can say that this one's worker has gone.
            with pytest.raises(DeadlineExceeded, match="may have been executed"):
                await first
            await all_serve(one_loop, channel, service)
            calls = [channel.unary_unary(ECHO, text(str(n))) for n in range(100)]
            for call in calls:
                await call
            assert len(service.seen) == 100
            channel.close()
            await server.stop(0)
            factory.shutdown()

    one_loop.run(main)


def test_a_worker_that_stops_ends_what_runs_and_the_rest_goes_to_the_other(one_loop: Loop) -> None:
    async def main() -> None:
        with proxy() as at:
            factory = ZmqFactory(one_loop.reactor)
            leaving, staying = Waiting(), Echo()
            server, other = worker(factory, at, leaving), worker(factory, at, staying)
            channel = Channel(factory, at.clients)
            await all_serve(one_loop, channel, leaving, staying)
            calls = [channel.unary_unary(ECHO, text(str(n))) for n in range(10)]
            await one_loop.until(lambda: len(leaving.results) == 5)
            stopped = server.stop(10)
            for number in range(10):  # refused by the one, made again, and the proxy takes turns
                await channel.unary_unary(ECHO, text(f"late {number}"))
            assert channel.counters["sent again"] == 10
            for result, value in zip(leaving.results, leaving.seen, strict=True):
                result.callback(text(value))
            for number, call in enumerate(calls):
                assert (await call).value == str(number)
            await stopped
            channel.close()
            await other.stop(0)
            factory.shutdown()

    one_loop.run(main)


def test_a_proxy_that_goes_ends_what_came_through_it_and_may_come_back(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        service = Waiting()
        channels: list[Channel] = []
        with proxy() as at:
            server = worker(factory, at, service)
            channels.append(Channel(factory, at.clients))
            await all_serve(one_loop, channels[0], service)
            call = channels[0].unary_unary(ECHO, text("x"), timeout=60)
            await one_loop.until(lambda: service.results)
            at.program.kill()
            with pytest.raises(Unavailable, match="may have been executed"):
                await call
            await one_loop.until(lambda: service.results[0].called)  # it was cancelled
            assert server.running == 0
        with proxy(at.clients, at.workers):
            service.seen.clear()
            await all_serve(one_loop, channels[0], service)
        channels[0].close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_in_memory_there_are_no_proxies() -> None:
    with pytest.raises(OSError, match="no proxy"):
        Server(MemoryNetwork(), [Echo()]).connect("tcp://127.0.0.1:1")


def test_a_server_that_was_stopped_does_not_connect(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        await server.stop(0)
        with pytest.raises(RuntimeError, match="stopped"):
            server.connect("tcp://127.0.0.1:1")
        factory.shutdown()

    one_loop.run(main)
