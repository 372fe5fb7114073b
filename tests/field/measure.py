"""``python -m tests.field.measure``: how soon failures are told and mended; needs root, on Linux.

Prints the milliseconds of each try, with the settings, and what is lost of the traffic; nothing is
asserted.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from statistics import median
from typing import Any, TypeAlias

from google.protobuf.wrappers_pb2 import StringValue

from benchmarks.interpreter import interpreter
from tests.field import network
from tests.field.namespaces import Wire, why_not, wire
from tests.field.proxy import Proxy
from tests.field.support import EchoServer, History, channel_in, echo_server
from tests.programs import running
from tests.rpc.service import Echo
from tests.support import Loop, fresh_loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    ConnectivityState,
    Context,
    Count,
    IdempotencyLevel,
    Method,
    Server,
    UnaryResult,
    Unavailable,
)

_HOUR = 3600
_CALLS = 100
#: Seconds that one try may take: what the defaults notice latest takes 35 s.
_PATIENCE = 120.0

#: Fills in milliseconds by what was measured.
Try: TypeAlias = Callable[[Loop, Wire, EchoServer, History], Awaitable[dict[str, float]]]


async def _settle(calls: History) -> None:
    calls.call_many(_CALLS, answered=False, timeout=_HOUR)
    await calls.call(timeout=_HOUR)


async def _all_ended(loop: Loop, calls: History) -> None:
    await loop.until(lambda: calls.ends == calls.made)


async def restart(loop: Loop, hosts: Wire, server: EchoServer, calls: History) -> dict[str, float]:
    """Kill the server, and start it again."""
    now = loop.reactor.seconds
    await _settle(calls)
    began = now()
    server.kill()
    await _all_ended(loop, calls)
    told = now()
    server.restart()
    listens = now()
    await calls.call_until_answered()
    return {
        f"kill -9 to the last of {_CALLS} calls told": told - began,
        "listening again to the first answer": now() - listens,
    }


async def cut(loop: Loop, hosts: Wire, server: EchoServer, calls: History) -> dict[str, float]:
    """Lose all packets, both ways, and no more."""
    now = loop.reactor.seconds
    await _settle(calls)
    began = now()
    hosts.server.drop(inbound=True, outbound=True)
    await _all_ended(loop, calls)
    told = now()
    await loop.sleep(5)  # the time of an outage, in which connecting backs off
    hosts.server.heal()
    healed = now()
    await calls.call_until_answered()
    return {
        f"cut to the last of {_CALLS} idle calls told": told - began,
        "healed to the first answer": now() - healed,
    }


async def cut_while_sending(
    loop: Loop, hosts: Wire, server: EchoServer, calls: History
) -> dict[str, float]:
    """Lose all packets while requests are on their way."""
    now = loop.reactor.seconds
    await _settle(calls)
    began = now()
    hosts.server.drop(inbound=True, outbound=True)
    calls.call_many(_CALLS, timeout=_HOUR)
    await _all_ended(loop, calls)
    return {f"cut to the last of {_CALLS} unacknowledged calls told": now() - began}


async def reset(loop: Loop, hosts: Wire, server: EchoServer, calls: History) -> dict[str, float]:
    """Reset the connection, and let the next one through."""
    now = loop.reactor.seconds
    await _settle(calls)
    hosts.server.reset()
    began = now()
    calls.call_many(1, timeout=_HOUR)
    await _all_ended(loop, calls)
    told = now()
    hosts.server.heal()
    healed = now()
    await calls.call_until_answered()
    return {
        f"reset to the last of {_CALLS} calls told": told - began,
        "after the reset to the first answer": now() - healed,
    }


def _measure(measure: Try, *, quick: bool, times: int) -> None:
    figures: dict[str, list[float]] = {}
    for _ in range(times):
        arguments = () if quick else ("--defaults",)
        with (
            fresh_loop("epoll") as loop,
            wire() as hosts,
            echo_server(hosts, *arguments) as server,
            channel_in(loop, hosts.client, server.endpoint, quick=quick) as calls,
        ):

            async def main(
                loop: Loop = loop,
                hosts: Wire = hosts,
                server: EchoServer = server,
                calls: History = calls,
            ) -> dict[str, float]:
                measured = await measure(loop, hosts, server, calls)
                calls.check()
                calls.close()
                return measured

            for name, seconds in loop.run(main, patience=_PATIENCE).items():
                figures.setdefault(name, []).append(seconds * 1000)
    for name, tries in figures.items():
        each = " ".join(f"{figure:.0f}" for figure in tries)
        print(f"  {name:<52} {median(tries):>8.0f} ms   ({each})", flush=True)


# -- traffic ------------------------------------------------------------------------------------

#: Seconds that the traffic goes on after the failure, and between two calls.
_TRAFFIC = 4.0
_PACE = 0.002
#: What a proxy slips into the connection: a frame with flags that there are not.
_GARBAGE = b"\xff" * 64


async def _lose_one(loop: Loop, what: str) -> str:
    """One of two endpoints dies, or breaks the protocol; calls go on at a steady pace."""
    factory = ZmqFactory(loop.reactor)
    with ExitStack() as stack:
        programs = [
            stack.enter_context(running("-m", "tests.field.server", "tcp://127.0.0.1:*"))
            for _ in range(2)
        ]
        endpoints = [program.expect("listening at (.*)")[1] for program in programs]
        proxy = Proxy(loop.reactor, endpoints[0])
        if what == "poisoned":
            endpoints[0] = proxy.endpoint
        channel = Channel(factory, endpoints)
        calls = History(loop, channel, factory)
        ready = ConnectivityState.READY
        await loop.until(lambda: all(one.state is ready for one in channel.endpoints))
        for _ in range(100):
            await calls.call(timeout=_HOUR)
        before, began = calls.made, loop.reactor.seconds()
        if what == "killed":
            programs[0].kill()
        first_second = before
        while (now := loop.reactor.seconds()) < began + _TRAFFIC:
            if what == "poisoned":
                proxy.inject(_GARBAGE, to_client=True)  # each connection that there is, for ever
            calls.call(timeout=_HOUR)
            if now < began + 1:
                first_second = calls.made
            await loop.sleep(_PACE)
        await calls.all_ended()
        calls.check()
        lost = [number for number in calls.errors if number >= before]
        told = sum(number < first_second for number in lost)
        after_a_second = len(lost) - told
        made = calls.made - before
        reconnects = channel.counters[Count.RECONNECT]
        channel.close()
        await proxy.close()
        factory.shutdown()
    return (
        f"{told} of {first_second - before} calls lost in the first second, "
        f"{after_a_second} of {made - (first_second - before)} after it "
        f"({reconnects} connections made anew)"
    )


class _Failing(Echo):
    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        raise Unavailable("as always")


_IDEMPOTENT = Method(
    "/test.Echo/Echo",
    "echo",
    StringValue,
    StringValue,
    idempotency_level=IdempotencyLevel.IDEMPOTENT,
)
_RETRIES: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": "test.Echo"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


async def _always_fail(loop: Loop) -> str:
    """Retries of an idempotent method, at a server that always fails."""
    factory = ZmqFactory(loop.reactor)
    service = _Failing()
    endpoint = Server(factory, [service]).listen("tcp://127.0.0.1:*")
    channel = Channel(factory, endpoint, service_config=_RETRIES)
    calls = History(loop, channel, factory)
    for _ in range(100):
        await calls.call(method=_IDEMPOTENT, timeout=_HOUR)
    calls.check()
    attempts = len(service.seen) / calls.made
    retries = channel.counters[Count.RETRY]
    calls.close()
    return f"{attempts:.2f} attempts per call, of {calls.made} ({retries} retries)"


def _print(name: str, measure: Callable[[Loop], Awaitable[str]]) -> None:
    with fresh_loop("epoll") as loop:

        async def main() -> str:
            return await measure(loop)

        print(f"  {name:<52} {loop.run(main, patience=_PATIENCE)}", flush=True)


def main() -> None:
    print(interpreter())
    print(f"With the defaults, a call each {_PACE * 1000:g} ms for {_TRAFFIC:g} s")
    for what in ("killed", "poisoned"):
        _print(f"one of two endpoints {what}", lambda loop, what=what: _lose_one(loop, what))  # type: ignore[misc]  # a default that is bound now
    _print("a server that always fails, maxAttempts 5", _always_fail)
    if reason := why_not():
        sys.exit(f"cannot measure: {reason}")
    quick: dict[str, Any] = {**network.QUICK, "CONNECT_TIMEOUT of the client": 1_000}
    for title, is_quick in (
        ("the defaults of txzmq.rpc.transport", False),
        (", ".join(f"{name} {value}" for name, value in quick.items()), True),
    ):
        print(f"\nWith {title}: median, and each try", flush=True)
        _measure(restart, quick=is_quick, times=5)
        _measure(reset, quick=is_quick, times=5)
        _measure(cut, quick=is_quick, times=3 if is_quick else 2)
        _measure(cut_while_sending, quick=is_quick, times=3 if is_quick else 2)


if __name__ == "__main__":
    main()
