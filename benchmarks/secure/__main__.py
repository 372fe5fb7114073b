"""``python -m benchmarks.secure``: calls, streams and connections with credentials and without.

Variants are measured one right after the other, in several rounds; a ratio is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.interpreter import interpreter
from benchmarks.report import as_text, machine
from benchmarks.run import Plan, run
from benchmarks.secure import connecting
from benchmarks.stacks import STACKS, Stack
from benchmarks.streams.loads import LOADS
from benchmarks.streams.stack import Stack as Streams
from benchmarks.workload import Load

__all__ = ["main"]

_BUILD: Final = Path(__file__).parent.parent.parent / "build" / "benchmarks"
_SECURED: Final = "txzmq, keys"
_TXZMQ: Final = STACKS["txzmq"]
_GRPC: Final = STACKS["grpc.aio"]
CALLS: Final[tuple[Stack, ...]] = (
    replace(_TXZMQ, name=_SECURED, module="benchmarks.peers.txzmq_keys"),
    replace(_TXZMQ, name="txzmq, keys and table", module="benchmarks.peers.txzmq_permissions"),
    _TXZMQ,
    replace(
        _GRPC,
        name="grpc.aio, mutual TLS",
        module="benchmarks.peers.grpc_aio_tls",
        distributions=(*_GRPC.distributions, "trustme"),
    ),
    _GRPC,
)
STREAMS: Final = (
    (_SECURED, "txzmq_", True),
    ("txzmq", "txzmq_", False),
    ("grpc.aio, mutual TLS", "grpc_aio", True),
    ("grpc.aio", "grpc_aio", False),
)
#: What is measured of streams: items from the server, and to it.
STREAM_LOADS: Final = ("server", "client")
PARTS: Final = ("calls", "streams", "connections")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print.

    :returns: the exit status: 1 if a stack failed, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.secure")
    add = parser.add_argument
    add("--seconds", type=float, default=1.0, help="of each measurement (%(default)s)")
    add("--rounds", type=int, default=5, help="how many (%(default)s)")
    add("--clients", type=int, default=1000, help="that connect again (%(default)s)")
    add("--only", action="append", choices=PARTS, help="may be given several times")
    given = parser.parse_args(arguments)
    parts: Sequence[str] = given.only or PARTS
    try:
        return _measure(parts, given.seconds, given.rounds, given.clients)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _measure(parts: Sequence[str], seconds: float, rounds: int, clients: int) -> int:
    status = 0
    print(interpreter(), end="\n\n", flush=True)
    if "calls" in parts:
        plan = Plan(
            loads=(Load(in_flight=1), Load(in_flight=100)),
            seconds=seconds,
            rounds=rounds,
            warm_up=min(Plan.warm_up, seconds),
        )
        where = machine(CALLS)
        results = run(CALLS, _SECURED, plan, _BUILD, lambda _: None)
        print(as_text(where, plan, results), flush=True)
        status = 1 if results.failures else 0
    if "streams" in parts:
        for load in STREAM_LOADS:
            print(_streams(load, seconds, rounds), end="\n\n", flush=True)
    if "connections" in parts:
        rate = connecting.measure_rate(seconds, rounds)
        title = "connect, call once, leave"
        print(connecting.as_text(title, rate, rate=True), end="\n\n", flush=True)
        again = connecting.measure_again(clients, rounds)
        title = f"{clients:,} clients back after a restart"
        print(connecting.as_text(title, again, rate=False), flush=True)
    return status


def _streams(load: str, seconds: float, rounds: int) -> str:
    samples: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in STREAMS}
    with ExitStack() as ends:
        stacks = {name: Streams(module, ends, secured=secured) for name, module, secured in STREAMS}
        for stack in stacks.values():
            stack.measure(load, 0.3)
        for number in range(rounds):
            for name in list(stacks)[:: -1 if number % 2 else 1]:
                samples[name].append(stacks[name].measure(load, seconds))
    title = LOADS[load]
    lines = [f"{title:36}{'items/s':>14}{'client us':>12}{'server us':>11}{'first : this':>14}"]
    lines.append("-" * len(lines[0]))
    first = samples[_SECURED]
    for name, several in samples.items():
        rate, client, server = (
            statistics.median(sample[key] for sample in several)
            for key in ("rate", "client", "server")
        )
        ratios = [a["rate"] / b["rate"] for a, b in zip(first, several, strict=True)]
        lines.append(
            f"{name:36}{rate:>14,.0f}{client:>12.2f}{server:>11.2f}"
            f"{statistics.median(ratios):>13.2f}x"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    # SIGTERM as Ctrl-C, so that the processes of the stacks are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
