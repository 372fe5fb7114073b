"""The rows as tables, for a terminal and for the documentation: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scale.axes import AXES, Axis
from benchmarks.scale.measure import Plan, Row, growth

__all__ = ["as_markdown", "as_text", "cells", "header", "size", "verdict"]

_US = 1e6
_NS = 1e9
_MIB = 1 << 20


def header(where: Mapping[str, Any], plan: Plan) -> str:
    """What was measured, with what."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return (
        f"{where['python']}, {where['system']}, {where['cpus']} CPUs, load {where['load']} at the "
        f"beginning; {versions}; unary calls over tcp on 127.0.0.1, client and server a process "
        f"each; medians of {plan.rounds} rounds of {plan.seconds:g} s."
    )


def size(number: int) -> str:
    """Bytes, in the largest unit that divides them."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= factor and number % factor == 0:
            return f"{number // factor} {unit}"
    return f"{number} B"


def cells(axis: Axis, rows: Sequence[Row]) -> list[list[str]]:
    """The table of an axis, its first line the titles."""
    lines = [[axis.unit, "calls/s", "client CPU µs/call", "server CPU µs/call"]]
    for value, cost in rows:
        line = [
            size(value) if axis.by_byte else f"{value:,}",
            f"{cost.calls_per_second:,.0f}",
            f"{cost.client_cpu * _US:,.1f}",
            f"{cost.server_cpu * _US:,.1f}",
        ]
        if axis.by_byte:
            line += [
                f"{cost.calls_per_second * value / _MIB:,.1f}",
                f"{cost.client_cpu / value * _NS:,.2f}",
                f"{cost.server_cpu / value * _NS:,.2f}",
            ]
        lines.append(line)
    if axis.by_byte:
        lines[0] += ["MiB/s each way", "client CPU ns/byte", "server CPU ns/byte"]
    return lines


def verdict(axis: Axis, rows: Sequence[Row]) -> str:
    """Whether what should stay flat does, in a sentence."""
    divisors = [value if axis.by_byte else 1 for value, _ in rows]
    client = growth([row.cost.client_cpu / by for row, by in zip(rows, divisors, strict=True)])
    server = growth([row.cost.server_cpu / by for row, by in zip(rows, divisors, strict=True)])
    last = size(rows[-1].value) if axis.by_byte else f"{rows[-1].value:,} {axis.unit}"
    what = "byte" if axis.by_byte else "call"
    return (
        f"CPU time per {what} at {last}, in terms of the lowest before it: "
        f"client {client:.2f} x, server {server:.2f} x."
    )


def as_text(axis: Axis, rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = cells(axis, rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    title = f"{axis.title}: {axis.fixed}"
    return "\n".join([title, "", *text, "", verdict(axis, rows)])


def as_markdown(introduction: str, measured: Mapping[str, Sequence[Row]]) -> str:
    """For the documentation, with the plots that :mod:`benchmarks.scale.plots` draws."""
    blocks = ["<!-- Written by make bench-scale. -->", introduction]
    for name, rows in measured.items():
        axis = AXES[name]
        titles, *lines = cells(axis, rows)
        table = [titles, ["---:"] * len(titles), *lines]
        blocks += [
            f"### {axis.title}",
            f"{axis.fixed[0].upper()}{axis.fixed[1:]}.",
            f"![{axis.title}: calls per second, and CPU time per call](scale-{name}.svg)",
            "\n".join(f"| {' | '.join(line)} |" for line in table),
            verdict(axis, rows),
        ]
    return "\n\n".join(blocks) + "\n"
