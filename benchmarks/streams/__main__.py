"""``python -m benchmarks.streams``: a table of txzmq's streams beside grpc.aio's.

Pair after pair, in several rounds, each stack with a server and a client process of its own; a
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import IO, Final

from benchmarks.streams.loads import BURST, FEW, LOADS, MANY, SUBSCRIBERS, Figures, Order

_STACKS: Final = ("txzmq_", "grpc_aio")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Stack:
    """A server and a client."""

    def __init__(self, name: str, ends: ExitStack) -> None:
        self.name = name
        self._ends = ends
        self._server = self._start("serve")
        address = self._read(self._server)
        self._client = self._start("drive", address)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.streams.{self.name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        return process

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{process.args!r} ended")
        return line.strip()

    def _server_cpu(self) -> float:
        with open(f"/proc/{self._server.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def measure(
        self, load: str, seconds: float, subscribers: int = SUBSCRIBERS, burst: int = BURST
    ) -> dict[str, float]:
        """Rate, and processor time per item of both sides in microseconds."""
        stdin: IO[str] | None = self._client.stdin
        assert stdin is not None
        before = self._server_cpu()
        order = Order(load=load, seconds=seconds, subscribers=subscribers, burst=burst)
        print(json.dumps(order), file=stdin, flush=True)
        figures: Figures = json.loads(self._read(self._client))
        server = self._server_cpu() - before
        count = max(1, figures["count"])
        return {
            "rate": count / figures["seconds"],
            "client": figures["cpu"] / count * 1e6,
            "server": server / count * 1e6,
            "p50": figures["p50"],
        }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("--load", action="append", choices=list(LOADS), help="instead of all")
    parser.add_argument("--many", action="store_true", help="costs by the number of subscribers")
    parsed = parser.parse_args()
    with ExitStack() as ends:
        stacks = [Stack(name, ends) for name in _STACKS]
        loads: list[str] = parsed.load or ([] if parsed.many else list(LOADS))
        for load in loads:
            samples: dict[str, list[dict[str, float]]] = {name: [] for name in _STACKS}
            for stack in stacks:
                stack.measure(load, 0.3)
            for number in range(parsed.rounds):
                for stack in stacks[:: -1 if number % 2 else 1]:
                    samples[stack.name].append(stack.measure(load, parsed.seconds))
            _print(load, samples)
        if parsed.many or not parsed.load:
            _print_many(stacks, parsed.seconds)


def _print_many(stacks: list[Stack], seconds: float) -> None:
    """What an event costs the publisher, by the number of subscribers."""
    print(f"\nthe publisher's microseconds per event, {FEW * 100} events/s")
    print("  subscribers " + "".join(f"{stack.name:>12}" for stack in stacks) + "       ratio")
    for subscribers in MANY:
        costs: list[float] = []
        for stack in stacks:
            stack.measure("fan-out", 0.5, subscribers, FEW)
            figures = stack.measure("fan-out", 2 * seconds, subscribers, FEW)
            costs.append(figures["server"] * subscribers)
        ours, theirs = costs
        bars = "#" * max(1, round(ours / 100)) + " | " + "#" * max(1, min(60, round(theirs / 100)))
        print(f"  {subscribers:11} {ours:11,.0f} {theirs:11,.0f} {theirs / ours:11.1f}  {bars}")


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
    ours, theirs = (samples[name] for name in _STACKS)
    ratios = [a["rate"] / b["rate"] for a, b in zip(ours, theirs, strict=True)]
    if ours[0]["p50"]:
        trips = [b["p50"] / a["p50"] for a, b in zip(ours, theirs, strict=True)]
        print(f"  ratio      {statistics.median(trips):.1f} of the medians of round trips")
    print(
        f"  ratio      {statistics.median(ratios):.1f}"
        f"  (from {min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
