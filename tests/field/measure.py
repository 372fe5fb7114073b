"""``python -m tests.field.measure``: how soon failures are told and mended; needs root, on Linux.

Prints the milliseconds of each try, with the settings; nothing is asserted.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, TypeAlias

from tests.field import network
from tests.field.namespaces import Wire, why_not, wire
from tests.field.support import EchoServer, History, channel_in, echo_server
from tests.support import Loop, fresh_loop

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


def main() -> None:
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
