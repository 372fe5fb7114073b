"""What calls cost in memory, on each side: ``make bench-memory``.

First, calls in flight: how much a client's and a server's process grow for each, with the size of
the messages above it, and with ``--lines`` the lines that allocate most of it. Then, likewise,
streams of responses that are open and idle, before their first item and after it, and many channels
with a connection each. Then very many
calls of which one in a hundred each fails in one of seven ways: whether either process grows. Fails
where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.interpreter import interpreter

#: The goals: bytes for a call in flight on each side, for an idle stream on the server, and by how
#: many bytes each call may have a process grow that makes many: less than any object has.
_IN_FLIGHT: Final = 2_048
_IDLE: Final = 4_096
_GROWTH: Final = 4.0
#: The part of the calls after which a process counts as warm.
_WARM: Final = 0.25
_SIDES: Final = ("client", "server")

#: What the client process prints.
Sample = dict[str, Any]


@contextmanager
def _server(*, trace: bool) -> Generator[str]:
    """A server process; its endpoint."""
    command = [sys.executable, "-m", "benchmarks.memory.server", *(["--trace"] if trace else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _play(scenario: str, calls: int, *options: str, lines: int = 0) -> Iterator[Sample]:
    """Run a scenario in a client and a server process; what it says, as it says it."""
    command = [sys.executable, "-m", "benchmarks.memory.client", scenario]
    with _server(trace=bool(lines)) as endpoint:
        command += [endpoint, "--calls", str(calls), "--lines", str(lines), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _row(*cells: str) -> None:
    print("".join(f"{cell:>14}" for cell in cells), flush=True)


def in_flight(calls: int) -> list[str]:
    """Measure and print calls in flight; the goals that are missed."""
    (sample,) = _play("in-flight", calls)
    each = _growth("in flight", sample, calls)
    return [
        f"{side}: {size:.0f} bytes for a call, the goal is {_IN_FLIGHT}"
        for side, size in each.items()
        if size > _IN_FLIGHT
    ]


def idle(streams: int) -> list[str]:
    """Measure and print streams that are open and idle; the goal if it is missed."""
    missed: list[str] = []
    for title, option in (("idle at once", "--no-item"), ("after an item", "--item")):
        print()
        (sample,) = _play("idle", streams, option)
        size = _growth(title, sample, streams)["server"]
        if size > _IDLE:
            missed.append(f"server: {size:.0f} bytes for an idle stream, the goal is {_IDLE}")
    return missed


def channels(number: int) -> None:
    """Measure and print channels in one process; they have no goal, libzmq takes most of it."""
    print()
    (sample,) = _play("channels", number)
    _growth("channels", sample, number)


def _growth(title: str, sample: Sample, number: int) -> dict[str, float]:
    """Print how the processes grew by so many calls or streams; bytes for each one, by side."""
    _row(title, "before", "during", "after", "each")
    grown: dict[str, float] = {}
    for side in _SIDES:
        before, during, after = (
            sample[when][side]["resident"] for when in ("before", "during", "after")
        )
        grown[side] = (during - before) / number
        _row(side, _mib(before), _mib(during), _mib(after), f"{grown[side]:.0f} B")
    return grown


def print_lines(scenario: str, number: int, lines: int, *options: str) -> None:
    """Print which lines allocate what the calls in flight, or the idle streams, hold."""
    (sample,) = _play(scenario, number, *options, lines=lines)
    for side in _SIDES:
        before = dict(sample["before"][side]["lines"])
        print(f"\nbytes for each, {scenario}, {side}, by line")
        for line, size in sample["during"][side]["lines"]:
            print(f"{(size - before.get(line, 0)) / number:>14.0f}  {line}")


def failures(calls: int) -> list[str]:
    """Measure and print many calls of which some fail; the goals that are missed."""
    _row("calls", "client", "server")
    samples: list[Sample] = []
    for sample in _play("failures", calls):
        samples.append(sample)
        cells = [_mib(sample[side]["resident"]) for side in _SIDES]
        _row(f"{sample['calls']:,}", *cells)
    ended = samples[-1]["ended"]
    print("ended:", ", ".join(f"{number:,} {kind}" for kind, number in sorted(ended.items())))
    warm = [sample for sample in samples if sample["calls"] >= _WARM * calls]
    missed: list[str] = []
    for side in _SIDES:
        growth = _slope([(one["calls"], one[side]["resident"]) for one in warm])
        print(f"{side}: {growth:+.2f} bytes per call after the first {_WARM:.0%}")
        if growth > _GROWTH:
            missed.append(f"{side}: grows by {growth:.1f} bytes per call, the goal is {_GROWTH}")
    return missed


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line that fits the points best."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    above = sum((x - middle_x) * (y - middle_y) for x, y in points)
    return above / (sum((x - middle_x) ** 2 for x, _ in points) or 1.0)


def main() -> int:
    """Measure, print, and compare with the goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--in-flight", type=int, default=100_000, metavar="CALLS")
    parser.add_argument("--idle", type=int, default=10_000, metavar="STREAMS")
    parser.add_argument("--channels", type=int, default=2_000, metavar="CHANNELS")
    parser.add_argument("--failures", type=int, default=1_000_000, metavar="CALLS")
    parser.add_argument("--lines", type=int, default=0, help="print so many lines that allocate")
    given = parser.parse_args()
    print(interpreter(), end="\n\n", flush=True)
    missed = in_flight(given.in_flight) if given.in_flight else []
    if given.lines and given.in_flight:
        print_lines("in-flight", given.in_flight, given.lines)
    missed += idle(given.idle) if given.idle else []
    if given.lines and given.idle:
        print_lines("idle", given.idle, given.lines, "--item")
    if given.channels:
        channels(given.channels)
    if given.failures:
        print()
        missed += failures(given.failures)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
