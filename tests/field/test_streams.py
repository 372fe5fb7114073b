"""Streams between processes, whose connections are cut at random.

``make test-streams`` does it with a million items and 200 cuts.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.field.proxy import ProxiedPublishers, Proxy
from tests.programs import Program, running
from tests.rpc.service import text
from tests.rpc.streaming import COUNT, Reader, Streaming
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Liveness, Server, ServerLimits, Unavailable
from txzmq.rpc.transport import SubscriberHandler, SubscriberTransport, ZmqNetwork

ITEMS = int(os.environ.get("TXZMQ_STREAM_ITEMS", "30000"))
CUTS = int(os.environ.get("TXZMQ_STREAM_CUTS", "6"))


class ProxiedNetwork(ProxiedPublishers, ZmqNetwork):
    """Reaches publishers through proxies of the test's own."""


class Cutter:
    """Cuts connections at random moments of a stream."""

    def __init__(self, proxy: Proxy, network: ProxiedNetwork, seed: int) -> None:
        self._random = random.Random(seed)
        self._proxy = proxy
        self._network = network
        self.cuts = 0
        self._moments = sorted(self._random.sample(range(1, ITEMS), CUTS))

    def at(self, item: int) -> None:
        """So many items have arrived."""
        while self._moments and item >= self._moments[0]:
            self._moments.pop(0)
            self.cuts += 1
            publishers = list(self._network.proxies.values())
            for proxy in self._random.choice(
                [[self._proxy], publishers, [self._proxy, *publishers]]
            ):
                self._random.choice([proxy.cut, proxy.reset])()


def test_nothing_is_lost_doubled_or_reordered_when_connections_break(one_loop: Loop) -> None:
    with running("-m", "tests.field.stream_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("listening at (.*)")[1]

        async def main() -> tuple[int, int]:
            factory = ZmqFactory(one_loop.reactor)
            network = ProxiedNetwork(factory)
            proxy = Proxy(one_loop.reactor, endpoint)
            channel = Channel(network, proxy.endpoint)
            cutter = Cutter(proxy, network, seed=1)
            expected = 0

            def take(item: Any) -> None:
                nonlocal expected
                assert item.value == str(expected)
                expected += 1
                cutter.at(expected)

            try:
                await channel.unary_stream(COUNT, text(str(ITEMS)), wait_for_ready=True).each(take)
            finally:
                channel.close()
                factory.shutdown()
                for each in (proxy, *network.proxies.values()):
                    await each.close()
            return expected, cutter.cuts

        patience = 60 + ITEMS / 2_000 + CUTS * 2
        assert one_loop.run(main, patience=patience) == (ITEMS, CUTS)
        server.expect("done")


def test_a_client_that_is_killed_ends_its_handlers(one_loop: Loop) -> None:
    with running("-m", "tests.field.stream_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("listening at (.*)")[1]
        program = f"""
from twisted.internet import epollreactor
epollreactor.install()
from tests.rpc.service import text
from tests.rpc.streaming import COUNT
from txzmq import ZmqFactory
from txzmq.rpc import Channel
from twisted.internet import reactor
channel = Channel(ZmqFactory(), {endpoint!r})
stream = channel.unary_stream(COUNT, text("1000000000"))
first = stream.__anext__
from twisted.internet.defer import Deferred
Deferred.fromCoroutine(first()).addCallback(lambda item: print("has", item.value, flush=True))
reactor.run()
"""
        with running("-c", program) as client:
            client.expect("has 0")
            client.kill()
        server.expect("cancelled")


def test_s5_a_client_that_is_stopped_ends_its_handlers_that_wait(one_loop: Loop) -> None:
    """Its kernel still answers for it, and all that was published is acknowledged."""

    async def one(request: Any, context: Context) -> AsyncIterator[Any]:
        yield text("0")
        await Deferred()

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        limits = ServerLimits(stream_silence=2)
        server = Server(factory, [Streaming(one)], limits=limits)
        endpoint = server.listen("tcp://127.0.0.1:*")
        program = f"""
from twisted.internet import epollreactor
epollreactor.install()
from tests.rpc.service import text
from tests.rpc.streaming import COUNT
from txzmq import ZmqFactory
from txzmq.rpc import Channel
from twisted.internet import reactor
channel = Channel(ZmqFactory(), {endpoint!r})
has, over = [], []
def got(item):
    has.append(item)
    print(f"has {{len(has)}}", flush=True)
def ended(failure):
    over.append(failure)
    print(f"{{len(over)}} over: {{failure.value.message}}"[:40], flush=True)
for _ in range(3):
    channel.unary_stream(COUNT, text("x")).each(got).addErrback(ended)
reactor.run()
"""
        with running("-c", program) as client:
            await one_loop.until(lambda: client.has_said("has 3"))
            await one_loop.sleep(4)  # twice as long as a client may be silent
            assert server.running == 3
            client.stop()
            await one_loop.until(lambda: not server.running)
            assert server.counters["silent subscriber"] == 3
            client.go_on()
            await one_loop.until(lambda: any(line[:6] == "3 over" for line in said(client)))
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def said(program: Program) -> list[str]:
    """What it has printed by now."""
    program.has_said("")
    return program.output


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_server_that_dies_ends_its_streams(one_loop: Loop, how: str) -> None:
    with running("-m", "tests.field.stream_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("listening at (.*)")[1]

        async def main() -> BaseException | str | None:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, endpoint)
            reader = Reader(channel.unary_stream(COUNT, text("1000000000")))
            await one_loop.until(lambda: reader.items)
            getattr(server, how)()
            ended: Deferred[None] = reader.done
            await ended
            channel.close()
            factory.shutdown()
            return reader.ended

        assert isinstance(one_loop.run(main), Unavailable)


def test_other_streams_cannot_be_listened_to(one_loop: Loop) -> None:
    """A subscription to everything, or to what a topic begins with, is refused."""
    import zmq

    heard: list[bytes] = []

    class Listening(ZmqNetwork):
        def subscribe(
            self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
        ) -> SubscriberTransport:
            stranger: Any = zmq.Socket(zmq.Context.instance(), zmq.SUB)
            stranger.connect(address)
            stranger.subscribe(b"")
            strangers.append(stranger)
            return super().subscribe(address, handler, options)

    strangers: list[Any] = []
    with running("-m", "tests.field.stream_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("listening at (.*)")[1]

        async def main() -> int:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(Listening(factory), endpoint)
            reader = Reader(channel.unary_stream(COUNT, text("1")))
            await one_loop.until(lambda: strangers)
            await one_loop.sleep(0.2)
            second = Reader(channel.unary_stream(COUNT, text("1000")))
            await second.done
            await reader.done
            channel.close()
            factory.shutdown()
            return len(second.items)

        assert one_loop.run(main) == 1000
        for stranger in strangers:
            while stranger.poll(100):
                heard.append(stranger.recv())
            stranger.close(linger=0)
        zmq.Context.instance().term()
    assert heard == []


def test_a_server_that_is_stopped_is_given_up(one_loop: Loop) -> None:
    """Its kernel still answers for it; the channel's pings are what tells."""
    with running("-m", "tests.field.stream_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("listening at (.*)")[1]

        async def main() -> BaseException | str | None:
            factory = ZmqFactory(one_loop.reactor)
            liveness = Liveness(ping_interval=0.4, dead_after=0.8, probe_timeout=0.4)
            channel = Channel(factory, endpoint, liveness=liveness)
            reader = Reader(channel.unary_stream(COUNT, text("1000000000")))
            await one_loop.until(lambda: reader.items)
            server.stop()
            await reader.done
            server.go_on()
            channel.close()
            factory.shutdown()
            return reader.ended

        ended = one_loop.run(main)
        assert isinstance(ended, Unavailable)
        assert "stopped answering" in ended.message
        server.expect("cancelled")
