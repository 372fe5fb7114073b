"""What it takes to open many streams at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.streams.stack import STACKS, THEIRS, Stack

__all__ = ["STREAMS", "Opening", "as_table", "measure", "write"]

#: Streams that are opened at once.
STREAMS: Final = 10_000
#: What a user may set for the sockets of a channel; ZeroMQ drops what is past it.
_LOW_MARK: Final = 10


class Opening(NamedTuple):
    """Seconds until all streams had begun, and of processor time of client and server."""

    what: str
    seconds: float
    client: float
    server: float


def measure(streams: int, rounds: int) -> list[Opening]:
    """Medians of some rounds, in which the stacks take turns."""
    with ExitStack() as ends:
        ours, theirs = (Stack(name, ends) for name in STACKS)
        tries = [
            ("txzmq", ours, 0),
            (f"txzmq, SNDHWM {_LOW_MARK}", ours, _LOW_MARK),
            (THEIRS.replace("_", "."), theirs, 0),
        ]
        samples: dict[str, list[tuple[float, float, float]]] = {what: [] for what, _, _ in tries}
        for number in range(rounds):
            for what, stack, mark in tries[:: -1 if number % 2 else 1]:
                samples[what].append(stack.measure_openings(streams, mark))
    return [
        Opening(what, *map(statistics.median, zip(*several, strict=True)))
        for what, several in samples.items()
    ]


def as_table(openings: Sequence[Opening]) -> str:
    """For people who look at a terminal, and for Markdown."""
    lines = ["| | all had begun after, s | CPU of the client, s | CPU of the server, s |"]
    lines.append("| --- | ---: | ---: | ---: |")
    lines += [
        f"| {each.what} | {each.seconds:.2f} | {each.client:.2f} | {each.server:.2f} |"
        for each in openings
    ]
    return "\n".join(lines)


def write(folder: Path, introduction: str, table: str) -> None:
    """Write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = f"<!-- Written by make bench-streams. -->\n\n{introduction}\n\n{table}\n"
    (folder / "openings.md").write_text(page, encoding="utf-8")
