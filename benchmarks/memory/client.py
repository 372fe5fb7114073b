"""The client process of the memory benchmark: plays a scenario, prints what it measured as JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.protocols.portforward import ProxyFactory
from twisted.python.failure import Failure

from benchmarks.memory.service import DO, DO_AS_BYTES, TELL, WATCH, Memory, memory, prepare, say
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel, Code, ResponseStream, RpcError

#: Seconds; no call of the benchmark ends by it.
_HOURS = 3600.0


class Sides:
    """Measures this process and the server's."""

    def __init__(self, channel: Channel, *, lines: int) -> None:
        self._channel = channel
        self._lines = lines

    async def measure(self) -> dict[str, Memory]:
        """What each side holds now."""
        request = StringValue(value=str(self._lines))
        reply = await self._channel.unary_unary(TELL, request, timeout=_HOURS)
        return {"client": memory(lines=self._lines), "server": json.loads(reply.value)}


async def in_flight(given: argparse.Namespace, factory: ZmqFactory, pause: Pause) -> None:
    """Have many calls wait at a time."""
    channel = Channel(factory, given.endpoint, timeout=_HOURS)
    sides = Sides(channel, lines=given.lines)

    def wait(number: int) -> list[Deferred[StringValue]]:
        request = StringValue(value="wait")
        return [channel.unary_unary(DO, request) for _ in range(number)]

    calls = wait(100)  # what is loaded and cached at first use does not count
    await channel.unary_unary(DO, StringValue(value="value"))
    before = await sides.measure()
    done = 0
    while done < given.calls:
        # In portions, so that no queue of requests is what is measured.
        calls += wait(1_000)
        done += 1_000
        await channel.unary_unary(DO, StringValue(value="value"))
    during = await sides.measure()
    for call in calls:
        call.addErrback(_cancelled)
        call.cancel()
    del calls[:]
    await channel.unary_unary(DO, StringValue(value="value"))
    after = await sides.measure()
    say(json.dumps({"before": before, "during": during, "after": after}))
    channel.close()


#: Streams that one client has open: fewer than a server allows it.
_STREAMS_OF_A_CHANNEL = 4_000
#: How many are opened at a time, so that no burst of openings is what is measured.
_OPENED_AT_ONCE = 500


async def idle(given: argparse.Namespace, factory: ZmqFactory, pause: Pause) -> None:
    """Have many streams open that nothing comes through, after an item or without."""
    sides = Sides(Channel(factory, given.endpoint, timeout=_HOURS), lines=given.lines)
    count = -(-given.calls // _STREAMS_OF_A_CHANNEL)
    channels = [Channel(factory, given.endpoint, timeout=_HOURS) for _ in range(count)]
    readers: list[Deferred[None]] = []

    async def open_streams(number: int) -> None:
        begun = [_Begun() for _ in range(number)]
        for one in begun:
            channel = channels[len(readers) % len(channels)]
            stream = channel.unary_stream(WATCH, StringValue(value="item" if given.item else ""))
            readers.append(Deferred.fromCoroutine(one.read(stream)))
        if given.item:
            await gatherResults([one.had_item for one in begun])
        else:
            await pause(0.5)

    await open_streams(100 * count)  # what is loaded and cached at first use does not count
    await pause(2.0)
    before = await sides.measure()
    for _ in range(0, given.calls, _OPENED_AT_ONCE):
        await open_streams(_OPENED_AT_ONCE)
    await pause(3.0)  # until the last item is acknowledged
    during = await sides.measure()
    for reader in readers:
        reader.addErrback(_cancelled)
        reader.cancel()
    del readers[:]
    await pause(2.0)
    after = await sides.measure()
    say(json.dumps({"before": before, "during": during, "after": after}))


async def channels(given: argparse.Namespace, factory: ZmqFactory, pause: Pause) -> None:
    """Have many channels, each with a connection of its own that has had a call."""
    first = Channel(factory, given.endpoint, timeout=_HOURS)
    sides = Sides(first, lines=given.lines)

    async def connect(number: int) -> list[Channel]:
        made = [Channel(factory, given.endpoint, timeout=_HOURS) for _ in range(number)]
        await gatherResults([one.unary_unary(DO, StringValue(value="value")) for one in made])
        return made

    opened = await connect(10)  # what is loaded and cached at first use does not count
    before = await sides.measure()
    opened += await connect(given.calls)
    during = await sides.measure()
    for one in opened:
        one.close()
    del opened[:]
    await pause(2.0)
    after = await sides.measure()
    say(json.dumps({"before": before, "during": during, "after": after}))
    first.close()


class _Begun:
    """Reads a stream."""

    def __init__(self) -> None:
        self.had_item: Deferred[None] = Deferred()

    async def read(self, stream: ResponseStream[StringValue]) -> None:
        """Read to the end, which does not come."""
        async for _ in stream:
            self.had_item.callback(None)


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]  # Twisted's


#: One call in a hundred of each, and what it must end with; the rest succeeds.
FAILURES: dict[str, type[Exception] | Code] = {
    "error": Code.NOT_FOUND,
    "crash": Code.UNKNOWN,
    "deadline": Code.DEADLINE_EXCEEDED,
    "cancel": CancelledError,
    "large": Code.RESOURCE_EXHAUSTED,
    "malformed": Code.INTERNAL,
    "lost": Code.UNAVAILABLE,
}
#: How many calls are under way at a time.
_WINDOW = 200
#: How many calls one lost connection ends.
_LOST = 100


class Soak:
    """Makes very many calls, some of which fail, and counts how they end."""

    def __init__(self, given: argparse.Namespace, factory: ZmqFactory) -> None:
        self._channel = Channel(factory, given.endpoint, timeout=_HOURS)
        port = int(given.endpoint.rpartition(":")[2])
        self._proxy = _Proxy("127.0.0.1", port)
        reactor: Any = factory.reactor
        self._listener = reactor.listenTCP(0, self._proxy, interface="127.0.0.1")
        address = f"tcp://127.0.0.1:{self._listener.getHost().port}"
        self._lossy = Channel(factory, address, timeout=_HOURS, wait_for_ready=True)
        self._clock: Any = reactor
        self.ended: Counter[str] = Counter()

    async def run(self, calls: int) -> None:
        """Make so many calls, and wait until all have ended."""
        numbers = iter(range(calls))
        workers = [Deferred.fromCoroutine(self._work(numbers)) for _ in range(_WINDOW)]
        await gatherResults([*workers, Deferred.fromCoroutine(self._lose(calls // 100))])

    async def _work(self, numbers: Iterator[int]) -> None:
        kinds = list(FAILURES)
        for number in numbers:
            kind = kinds[number % 100] if number % 100 < len(kinds) else "value"
            if kind != "lost":
                await self._end(kind, self._call(kind))

    def _call(self, kind: str) -> Deferred[Any]:
        if kind == "malformed":
            return self._channel.unary_unary(DO_AS_BYTES, BytesValue(value=b"\xff"))
        waits = kind in ("deadline", "cancel")
        request = StringValue(value="wait" if waits else kind)
        timeout = 0.05 if kind == "deadline" else None
        call = self._channel.unary_unary(DO, request, timeout=timeout)
        if kind == "cancel":
            self._clock.callLater(0.01, call.cancel)
        return call

    async def _lose(self, calls: int) -> None:
        """Have so many calls wait for their reply when their connection breaks."""
        for _ in range(0, calls, _LOST):
            await self._lossy.unary_unary(DO, StringValue(value="value"))
            waiting = [self._lossy.unary_unary(DO, StringValue(value="wait")) for _ in range(_LOST)]
            await self._lossy.unary_unary(DO, StringValue(value="value"))
            self._proxy.cut()
            for call in waiting:
                await self._end("lost", call)

    async def _end(self, kind: str, call: Deferred[Any]) -> None:
        expected = FAILURES.get(kind)
        try:
            await call
        except CancelledError:
            got: object = CancelledError
        except RpcError as error:
            got = error.code
        else:
            got = None
        if got is not expected:
            raise AssertionError(f"{kind} ended with {got}")
        self.ended[kind] += 1

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self._channel.close()
        self._lossy.close()
        self._listener.stopListening()
        self._proxy.cut()


class _Proxy(ProxyFactory):
    """A TCP proxy whose connections can be broken."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._connections: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        """Remember the connection."""
        protocol: Any = super().buildProtocol(addr)
        self._connections.append(protocol)
        return protocol

    def cut(self) -> None:
        """Reset every connection."""
        connections, self._connections = self._connections, []
        for protocol in connections:
            if protocol.transport is not None:
                protocol.transport.abortConnection()


async def failures(given: argparse.Namespace, factory: ZmqFactory, pause: Pause) -> None:
    """Make calls of which one in a hundred each fails in one way."""
    soak = Soak(given, factory)
    channel = Channel(factory, given.endpoint, timeout=_HOURS)
    sides = Sides(channel, lines=given.lines)
    portion = given.calls // given.samples
    for number in range(1, given.samples + 1):
        await soak.run(portion)
        await pause(0.2)  # the last cancellations
        measured = await sides.measure()
        say(json.dumps({"calls": number * portion, **measured, "ended": soak.ended}))
    soak.close()
    channel.close()


class Pause:
    """Waits in the reactor."""

    def __init__(self, clock: Any) -> None:  # Any: the reactor is typed with zope interfaces
        self._clock = clock

    async def __call__(self, seconds: float) -> None:
        """Wait so many seconds."""
        pause: Deferred[None] = Deferred()
        self._clock.callLater(seconds, pause.callback, None)
        await pause


SCENARIOS: dict[str, Callable[..., Coroutine[Deferred[Any], Any, None]]] = {
    "in-flight": in_flight,
    "idle": idle,
    "channels": channels,
    "failures": failures,
}


def main() -> None:
    """Play the scenario that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("endpoint")
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--item", action=argparse.BooleanOptionalAction)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--lines", type=int, default=0)
    given = parser.parse_args()
    prepare(trace=bool(given.lines))
    reactor: Any = default_reactor()
    factory = ZmqFactory()
    factory.registerForShutdown()
    failures: list[Failure] = []

    def start() -> None:
        played = Deferred.fromCoroutine(SCENARIOS[given.scenario](given, factory, Pause(reactor)))
        played.addErrback(failures.append)
        played.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()
    for failure in failures:
        failure.raiseException()


if __name__ == "__main__":
    main()
