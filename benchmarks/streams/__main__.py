"""``python -m benchmarks.streams``: a table of txzmq's streams beside grpc.aio's.

Pair after pair, in several rounds, each stack with a server and a client process of its own; a
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.interpreter import interpreter
from benchmarks.report import machine
from benchmarks.stacks import BASELINE
from benchmarks.stacks import STACKS as COMPARED
from benchmarks.streams import openings
from benchmarks.streams.audience import AUDIENCES, as_table, measure, redraw, write
from benchmarks.streams.loads import LOADS
from benchmarks.streams.openings import STREAMS
from benchmarks.streams.stack import BARE, BARE_LOAD, STACKS, THEIRS, Stack

_DOCS: Final = Path(__file__).parent.parent.parent / "docs" / "performance"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams")
    add = parser.add_argument
    add("--seconds", type=float, default=1.0, help="of each (%(default)s)")
    add("--rounds", type=int, default=5, help="how many (%(default)s)")
    add("--load", action="append", choices=list(LOADS), help="instead of all")
    add("--many", action="store_true", help="costs by the number of subscribers")
    add("--openings", action="store_true", help="what it takes to open many at once")
    add("--streams", type=int, default=STREAMS, help="opened at once (%(default)s)")
    add("--write", action="store_true", help="and write these into the documentation")
    add("--docs", type=Path, metavar="FOLDER", default=_DOCS, help="where (docs/performance)")
    add("--most", type=int, default=AUDIENCES[-1], help="subscribers at most (%(default)s)")
    add("--redraw", action="store_true", help="write page and plot from the last run's figures")
    parsed = parser.parse_args()
    if parsed.redraw:
        redraw(parsed.docs)
        return
    some = parsed.load or parsed.many or parsed.openings
    loads: list[str] = parsed.load or ([] if some else list(LOADS))
    print(interpreter(), flush=True)
    with ExitStack() as ends:
        compared = [Stack(name, ends) for name in STACKS] if loads else []
        bare = [Stack(BARE, ends)] if BARE_LOAD in loads else []
        for load in loads:
            stacks = [*compared, *bare] if load == BARE_LOAD else compared
            samples: dict[str, list[dict[str, float]]] = {stack.name: [] for stack in stacks}
            for stack in stacks:
                stack.measure(load, 0.3)
            for number in range(parsed.rounds):
                for stack in stacks[:: -1 if number % 2 else 1]:
                    samples[stack.name].append(stack.measure(load, parsed.seconds))
            _print(load, samples)
    if parsed.openings or not some:
        _measure_openings(parsed)
    if parsed.many or not some:
        _measure_audiences(parsed)


def _where(parsed: argparse.Namespace) -> str:
    """Where this runs, and how often."""
    where = machine([COMPARED[BASELINE], COMPARED["grpc.aio"]])
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return (
        f"{where['python']}, {where['system']}, {where['cpus']} CPUs, load {where['load']} at the "
        f"beginning; {versions}; medians of {parsed.rounds} rounds"
    )


def _measure_openings(parsed: argparse.Namespace) -> None:
    """What it takes to open many streams at once."""
    introduction = (
        f"{_where(parsed)}. {parsed.streams:,} streams opened at once by one client over tcp; "
        "seconds until the first item of each was there, and seconds of CPU time."
    )
    print(f"\nmany streams at once\n{introduction}\n", flush=True)
    table = openings.as_table(openings.measure(parsed.streams, parsed.rounds))
    print(table)
    if parsed.write:
        openings.write(parsed.docs, introduction, table)


def _measure_audiences(parsed: argparse.Namespace) -> None:
    """What an event costs the publisher, by the number of subscribers."""
    audiences = [number for number in AUDIENCES if number <= parsed.most]
    seconds = 3 * parsed.seconds
    introduction = (
        f"{_where(parsed)} of {seconds:g} s. 500 events of 100 bytes a second, or fewer where "
        "there would be more than 10,000 deliveries a second; µs of the publisher's CPU time for "
        "each."
    )
    print(f"\nthe publisher's CPU time per event\n{introduction}\n", flush=True)
    costs = measure(seconds, parsed.rounds, audiences)
    print(as_table(costs))
    if parsed.write:
        write(parsed.docs, introduction, costs)
        print(f"\nwritten: {parsed.docs}")


def _print(load: str, samples: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{LOADS[load]}")
    for name, several in samples.items():
        rate, client, server, p50 = (
            statistics.median(sample[key] for sample in several)
            for key in ("rate", "client", "server", "p50")
        )
        trip = f"   p50 {p50:,.0f} us" if p50 else ""
        print(
            f"  {name:10} {rate:12,.0f}/s   client {client:7.2f} us   server {server:7.2f} us{trip}"
        )
    theirs = samples[THEIRS]
    for name in samples:
        if name == THEIRS:
            continue
        ours = samples[name]
        ratios = [a["rate"] / b["rate"] for a, b in zip(ours, theirs, strict=True)]
        trip = ""
        if ours[0]["p50"]:
            trips = [b["p50"] / a["p50"] for a, b in zip(ours, theirs, strict=True)]
            trip = f", {statistics.median(trips):.1f} of the medians of round trips"
        print(
            f"  {name} : {THEIRS}  {statistics.median(ratios):.1f} x"
            f"  (from {min(ratios):.1f} to {max(ratios):.1f}){trip}"
        )


if __name__ == "__main__":
    main()
