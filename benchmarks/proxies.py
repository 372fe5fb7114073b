"""``python -m benchmarks.proxies``: calls through a relay, through a plain proxy, and direct ones.

Each is measured one right after the other, in several rounds; a ratio is the median of the rounds'
ratios. Server, proxies and client are processes of one machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred

from benchmarks.interpreter import interpreter
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel, Context, Kind, RawMessage, Server, ServerLimits, Service, raw_method
from txzmq.rpc.method_sources import ServedMethods
from txzmq.rpc.proxy import Proxy
from txzmq.rpc.relay import Relay

__all__ = ["main"]

ECHO: Final = raw_method("/bench.Echo/Echo")
ITEMS: Final = raw_method("/bench.Echo/Items", Kind.UNARY_STREAM)
_SERVICE: Final = Service("bench.Echo", (ECHO, ITEMS))
_MESSAGE: Final = RawMessage(bytes(100))
_ANY: Final = "tcp://127.0.0.1:*"
_IN_FLIGHT: Final = 100
_LIMITS: Final = ServerLimits(running_per_peer=4_096)


class Echo:
    """Gives back what it gets; of a stream, for as long as somebody reads."""

    __txzmq_service__: ClassVar[Service] = _SERVICE

    def Echo(self, request: RawMessage, context: Context) -> RawMessage:
        """The request."""
        return request

    def Items(self, request: RawMessage, context: Context) -> Iterator[RawMessage]:
        """The request, again and again."""
        while True:
            yield request


def _serve(role: str, address: str) -> None:
    """Be one of the processes, until it is killed; say where it is."""
    factory = ZmqFactory()
    if role == "server":
        server = Server(factory, [Echo()], limits=_LIMITS)
        print(server.listen(_ANY), flush=True)
    elif role == "relay":
        channel = Channel(factory, address, timeout=None, wait_for_ready=True)
        relay = Relay(channel, ServedMethods([_SERVICE]))
        print(Server(factory, [], fallback=relay.find).listen(_ANY), flush=True)
    elif role == "proxy":
        proxy = Proxy(factory, _ANY, _ANY)
        print(proxy.clients, proxy.workers, flush=True)
    else:
        Server(factory, [Echo()], limits=_LIMITS).connect(address)
        print("connected", flush=True)
    reactor: Any = default_reactor()
    reactor.run()


def _started(stack: ExitStack, role: str, address: str = "") -> list[str]:
    """Start one of the processes; where it is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.proxies", "--role", role, "--address", address],
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    return process.stdout.readline().split()


async def _calls(channel: Channel, seconds: float) -> float:
    """Calls each second."""
    end = time.perf_counter() + seconds
    done = 0

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await channel.unary_unary(ECHO, _MESSAGE)
            done += 1

    started = time.perf_counter()
    for each in [Deferred.fromCoroutine(call()) for _ in range(_IN_FLIGHT)]:
        await each
    return done / (time.perf_counter() - started)


async def _one_by_one(channel: Channel, seconds: float) -> float:
    """Seconds that a call takes, of one at a time."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await channel.unary_unary(ECHO, _MESSAGE)
        took.append(time.perf_counter() - before)
    return statistics.median(took)


async def _items(channel: Channel, seconds: float) -> float:
    """Items of one stream each second."""
    end = time.perf_counter() + seconds
    read = 0
    started = time.perf_counter()
    async with channel.unary_stream(ITEMS, _MESSAGE) as stream:
        async for _ in stream:
            read += 1
            if not read % 1_000 and time.perf_counter() > end:
                break
    return read / (time.perf_counter() - started)


async def _measure(channels: dict[str, Channel], rounds: int, seconds: float) -> None:
    for what, measure, unit, factor in (
        ("calls", _calls, "/s", 1.0),
        ("one at a time", _one_by_one, " us", 1e6),
        ("items of a stream", _items, "/s", 1.0),
    ):
        # A plain proxy has no streams.
        names = [name for name in channels if measure is not _items or name != "plain proxy"]
        found: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            await measure(channels[name], seconds / 4)  # warm
        for _ in range(rounds):
            for name in names:
                found[name].append(await measure(channels[name], seconds))
        for name in names:
            pairs = zip(found[name], found["direct"], strict=True)
            ratio = statistics.median(mine / its for mine, its in pairs)
            value = statistics.median(found[name]) * factor
            print(f"{what:18} {name:12} {value:10,.0f}{unit}  {ratio:5.2f} of direct", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.role:
        _serve(given.role, given.address)
        return 0
    print(interpreter(), flush=True)
    reactor: Any = default_reactor()
    factory = ZmqFactory(reactor)
    with ExitStack() as stack:
        (server,) = _started(stack, "server")
        (relay,) = _started(stack, "relay", server)
        clients, workers = _started(stack, "proxy")
        _started(stack, "worker", workers)
        places = {"direct": server, "relay": relay, "plain proxy": clients}
        results: list[object] = []

        def start() -> None:
            channels = {
                name: Channel(factory, place, wait_for_ready=True) for name, place in places.items()
            }
            measured = Deferred.fromCoroutine(_measure(channels, given.rounds, given.seconds))
            measured.addErrback(results.append)
            measured.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(start)
        reactor.run()
        factory.shutdown()
    for failure in results:
        print(failure, file=sys.stderr)
    return len(results)


if __name__ == "__main__":
    sys.exit(main())
