"""The rows as plots: the same figures give the same file, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.plots import PAIR, STYLE, end_lines
from benchmarks.scale.axes import Axis
from benchmarks.scale.measure import Row
from benchmarks.scale.report import size

__all__ = ["draw"]

_CLIENT, _SERVER = PAIR


def draw(axis: Axis, rows: Sequence[Row], file: Path) -> None:
    """Write an SVG: calls per second, and CPU time per call of both sides.

    :raises ImportError: if matplotlib is not installed.
    """
    # Any: half of what matplotlib's stubs say is unknown to pyright.
    mpl: Any = import_module("matplotlib")
    figures: Any = import_module("matplotlib.figure")
    values = [row.value for row in rows]
    with mpl.rc_context(STYLE):
        figure = figures.Figure(figsize=(8.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        rates = [row.cost.calls_per_second for row in rows]
        left.plot(values, rates, marker="o", markersize=3, color=_CLIENT)
        left.set_title("calls/s")
        for label, colour, cpu in (
            ("client", _CLIENT, [row.cost.client_cpu * 1e6 for row in rows]),
            ("server", _SERVER, [row.cost.server_cpu * 1e6 for row in rows]),
        ):
            right.plot(values, cpu, marker="o", markersize=3, color=colour, label=label)
        right.set_title("CPU µs per call")
        right.legend()
        for plot in (left, right):
            _scale(plot, axis, values)
        # No date; and no version, which would change the file with nothing else in it.
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    end_lines(file)


def _scale(plot: Any, axis: Axis, values: Sequence[int]) -> None:
    """Logarithmic along the values; upwards only where the figures span as many decades."""
    ticker: Any = import_module("matplotlib.ticker")

    def number(value: float, _position: int) -> str:
        return f"{value:,.0f}"

    plot.set_xscale("log")
    # A label for every second one of many sizes, which are longer than numbers.
    step = 2 if axis.by_byte else 1
    labels = [size(value) if axis.by_byte else f"{value:,}" for value in values]
    plot.set_xticks(values[::step], labels[::step])
    plot.xaxis.set_minor_locator(ticker.NullLocator())
    plot.set_xlabel(axis.unit)
    if axis.by_byte:
        plot.set_yscale("log")
    else:
        plot.set_ylim(0, 1.08 * plot.dataLim.y1)
    plot.yaxis.set_major_formatter(ticker.FuncFormatter(number))
