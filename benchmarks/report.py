"""The results as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.figures import Figures
from benchmarks.interpreter import interpreter
from benchmarks.run import Plan, Result, Results
from benchmarks.stacks import Stack

__all__ = ["as_json", "as_text", "machine"]

_FIGURES: Final = ("calls/s", "p50 µs", "p99 µs", "client CPU µs", "server CPU µs")
_RATIOS: Final = ("calls/s", "p50", "p99", "client CPU", "server CPU")


def machine(stacks: Iterable[Stack]) -> dict[str, Any]:
    """Where this runs, and on what."""
    versions: dict[str, str] = {}
    for stack in stacks:
        versions.update(stack.versions())
    return {
        "python": interpreter(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def as_text(where: Mapping[str, Any], plan: Plan, results: Results) -> str:
    """All that a person wants to read."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    header = (
        f"{where['python']}, {where['system']}, {where['cpus']} CPUs, load {where['load']}",
        versions,
        "unary calls over tcp on 127.0.0.1",
        f"client and server a process each; medians of {plan.rounds} rounds of {plan.seconds:g} s",
    )
    blocks = ["\n".join(header)]
    for result in results.by_load:
        blocks += _load_as_text(result, results.baseline)
    blocks += [f"FAILED {reason}" for reason in results.failures.values()]
    return "\n\n".join(blocks) + "\n"


def _load_as_text(result: Result, baseline: str) -> Iterable[str]:
    title = str(result.load)
    if result.samples:
        yield _table(title, _FIGURES, result.figures(), _figures_as_text)
    if result.ratios:
        title = f"{baseline} : other"
        yield _table(title, _RATIOS, result.median_ratios(), _ratios_as_text)


def _figures_as_text(figures: Figures) -> Sequence[str]:
    return [
        f"{figures.calls_per_second:,.0f}",
        *(f"{seconds * 1e6:,.1f}" for seconds in figures[1:]),
    ]


def _ratios_as_text(ratios: Figures) -> Sequence[str]:
    """Large ones as ``15.2 x``, small ones as ``1/20.3``, so that both can be compared."""
    return [f"{each:.2f} x" if each >= 1 or not each else f"1/{1 / each:.2f}" for each in ratios]


def _table(
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Figures],
    as_cells: Callable[[Figures], Sequence[str]],
) -> str:
    lines = [[title, *columns], *([name, *as_cells(figures)] for name, figures in rows.items())]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    widths[0] = max(widths[0], 24)  # so that the tables below one another line up
    widths[1:] = [max(width, 13) for width in widths[1:]]
    text = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in lines
    ]
    text.insert(1, "-" * len(text[0]))
    return "\n".join(text)


def as_json(where: Mapping[str, Any], plan: Plan, results: Results) -> dict[str, Any]:
    """Everything, with the single measurements; times are in seconds."""
    return {
        "machine": where,
        "plan": {
            "seconds": plan.seconds,
            "rounds": plan.rounds,
        },
        "baseline": results.baseline,
        "loads": [
            {
                "in_flight": result.load.in_flight,
                "message_bytes": result.load.message_bytes,
                "at_once": result.load.at_once,
                "figures": _dicts(result.figures()),
                "ratios": _dicts(result.median_ratios()),
                "samples": {
                    name: [each._asdict() for each in several]
                    for name, several in result.samples.items()
                },
            }
            for result in results.by_load
        ],
        "failures": results.failures,
    }


def _dicts(rows: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    return {name: figures._asdict() for name, figures in rows.items()}
