"""What an event costs its publisher, by the number of subscribers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.plots import PAIR, STYLE, end_lines
from benchmarks.streams.stack import STACKS, Stack

__all__ = ["AUDIENCES", "BURSTS", "Costs", "as_table", "measure", "pause_of", "redraw", "write"]

#: Numbers of subscribers.
AUDIENCES: Final = (1, 3, 10, 30, 100, 300, 1_000)
#: Events that come together, and how that is called.
BURSTS: Final = {1: "one by one", 10: "ten at a time"}
#: Of each stack; the subscribers are spread over them.
_CLIENTS: Final = 4
#: Deliveries per second that all can keep up with, and events per second at most.
_DELIVERIES: Final = 10_000
_EVENTS: Final = 500
_NAMES: Final = ("txzmq", "grpc.aio")


class Costs(NamedTuple):
    """The publisher's microseconds of processor time per event, in the order of the bursts."""

    subscribers: int
    ours: list[float]
    theirs: list[float]


def pause_of(subscribers: int, burst: int) -> int:
    """Milliseconds between two bursts of events."""
    return round(1000 * burst / min(_EVENTS, _DELIVERIES / subscribers))


def measure(seconds: float, rounds: int, audiences: Sequence[int] = AUDIENCES) -> list[Costs]:
    """Medians of some rounds, in which the stacks take turns."""
    with ExitStack() as ends:
        stacks = [Stack(name, ends, _CLIENTS) for name in STACKS]
        samples: dict[tuple[str, int, int], list[float]] = {}
        for number in range(rounds):
            for subscribers, burst in product(audiences, BURSTS):
                for stack in stacks[:: -1 if number % 2 else 1]:
                    pause = pause_of(subscribers, burst)
                    cost = stack.measure_audience(subscribers, burst, pause, seconds)
                    samples.setdefault((stack.name, subscribers, burst), []).append(cost * 1e6)

    def medians(name: str, subscribers: int) -> list[float]:
        return [round(statistics.median(samples[name, subscribers, each]), 1) for each in BURSTS]

    return [Costs(each, *(medians(name, each) for name in STACKS)) for each in audiences]


_OURS: Final = attrgetter("ours")
_THEIRS: Final = attrgetter("theirs")


def _cells(costs: Sequence[Costs]) -> list[list[str]]:
    columns = [f"{burst}: {name}" for burst in BURSTS.values() for name in (*_NAMES, "ratio")]
    rows = [["subscribers", *columns]]
    for subscribers, *both in costs:
        row = [f"{subscribers:,}"]
        for ours, theirs in zip(*both, strict=True):
            row += [f"{ours:,.0f}", f"{theirs:,.0f}", f"{theirs / ours:,.1f}"]
        rows.append(row)
    return rows


def as_table(costs: Sequence[Costs]) -> str:
    """For people who look at a terminal, and for Markdown."""
    head, *rows = _cells(costs)
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(folder: Path, introduction: str, costs: Sequence[Costs]) -> None:
    """Write the page, the plot, and the figures that they are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    alternative = "The publisher's CPU time per event, by the number of subscribers"
    plot = f"![{alternative}](streams-audience.svg)"
    page = f"<!-- Written by make bench-streams. -->\n\n{introduction}\n\n{plot}\n\n"
    (folder / "streams.md").write_text(f"{page}{as_table(costs)}\n", encoding="utf-8")
    figures = {"introduction": introduction, "costs": [each._asdict() for each in costs]}
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    (folder / "streams.json").write_text(text + "\n", encoding="utf-8")
    _draw(costs, folder / "streams-audience.svg")


def redraw(folder: Path) -> None:
    """Write page and plot anew, from the figures of the last run."""
    kept = json.loads((folder / "streams.json").read_text(encoding="utf-8"))
    write(folder, kept["introduction"], [Costs(**each) for each in kept["costs"]])


def _number(value: float, _position: int) -> str:
    return f"{value:,g}"


def _draw(costs: Sequence[Costs], file: Path) -> None:
    # Any: half of what matplotlib's stubs say is unknown to pyright.
    mpl: Any = import_module("matplotlib")
    figures: Any = import_module("matplotlib.figure")
    ticker: Any = import_module("matplotlib.ticker")
    audiences = [each.subscribers for each in costs]
    with mpl.rc_context(STYLE):
        figure = figures.Figure(figsize=(8.2, 3.0), layout="constrained")
        plots = figure.subplots(1, 2, sharey=True)
        plots[0].set_ylabel("publisher's CPU µs per event")
        for number, (plot, burst) in enumerate(zip(plots, BURSTS.values(), strict=True)):
            for name, colour, values in zip(_NAMES, PAIR, (_OURS, _THEIRS), strict=True):
                cost = [values(each)[number] for each in costs]
                plot.plot(audiences, cost, marker="o", markersize=3, color=colour, label=name)
            plot.set_title(f"events {burst}")
            plot.legend()
            plot.set_xscale("log")
            plot.set_yscale("log")
            plot.set_xticks(audiences, [f"{value:,}" for value in audiences])
            plot.xaxis.set_minor_locator(ticker.NullLocator())
            plot.yaxis.set_major_formatter(ticker.FuncFormatter(_number))
            plot.set_xlabel("subscribers")
        # No date; and no version, which would change the file with nothing else in it.
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    end_lines(file)
