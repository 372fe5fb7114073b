"""What ``txzmq top`` shows: lines above, and a table of methods that fits the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from txzmq._cli.rates import MethodRates, added_up
from txzmq._cli.servers import ServerView
from txzmq._cli.units import seconds_of
from txzmq._escape import escaped

__all__ = ["SORTS", "Shown", "columns_of", "fitted", "heads", "json_of", "rows_of"]

#: By what methods are sorted, the largest first, but for the names.
SORTS: Final[dict[str, Callable[[MethodRates], float]]] = {
    "calls": lambda each: each.calls or 0.0,
    "errors": lambda each: each.errors or 0.0,
    "in-flight": lambda each: each.in_flight,
    "queued": lambda each: each.queued,
    "p50": lambda each: each.quantile(0.5),
    "p99": lambda each: each.quantile(0.99),
    "name": lambda each: 0.0,
}
_COLUMNS: Final = ("METHOD", ">CALLS/S", ">ERRORS/S", ">IN FLIGHT", ">QUEUED", ">P50", ">P99")
#: Which columns go where there is no room, the first one first.
_FIRST_TO_GO: Final = (">P50", ">QUEUED", ">IN FLIGHT", ">ERRORS/S", ">P99")
_BETWEEN: Final = 2
#: Characters of a method's name for which other columns go.
_LEAST: Final = 18
#: Characters for each cell that are looked at where a text is cut off.
_NARROW: Final = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown: the servers at one moment, and how.

    :ivar sort: one of :data:`SORTS`.
    :ivar each: whether the methods of each server are shown apart.
    """

    servers: Sequence[ServerView]
    sort: str
    each: bool

    @property
    def methods(self) -> list[tuple[str, MethodRates]]:
        """The methods in their order, each with the address of its server, or nothing."""
        if self.each:
            found = [(one.address, each) for one in self.servers for each in one.methods]
        else:
            found = [("", each) for each in added_up(one.methods for one in self.servers)]
        key = SORTS[self.sort]
        return sorted(found, key=lambda one: (-key(one[1]), one[1].path, one[0]))


def heads(shown: Shown, now: float | None = None) -> list[str]:
    """Lines on the servers: all together, those that tell nothing, and each on its own.

    :param now: seconds since 1970.
    """
    servers = shown.servers
    answering = [one for one in servers if not one.trouble]
    lines: list[str] = []
    if len(servers) == 1:
        lines.append("  ".join(filter(None, (servers[0].address, *_who(servers[0], now)))))
    else:
        lines.append(f"{len(answering)} of {len(servers)} servers")
    if answering:
        methods = added_up(one.methods for one in answering)
        lines.append(_sums(answering, methods))
    lines += [f"{one.address}  {escaped(one.trouble)}" for one in servers if one.trouble]
    if shown.each and len(servers) > 1:
        for one in answering:
            who = "  ".join((one.address, *_who(one, now)))
            lines.append(f"{who}  {_sums([one], one.methods)}")
    return lines


def _who(view: ServerView, now: float | None) -> list[str]:
    server = view.server
    if server is None:
        return []
    up = (time.time() if now is None else now) - server.since.ToNanoseconds() / 1e9
    name = " ".join(filter(None, (server.name, server.version)))
    return [*([escaped(name)] if name else []), f"up {seconds_of(max(1.0, up))}"]


def _sums(servers: Sequence[ServerView], methods: Sequence[MethodRates]) -> str:
    told = [one.server for one in servers if one.server is not None]
    parts: list[str] = []
    if told:
        running = sum(one.running for one in told)
        limit = sum(one.running_limit for one in told)
        parts += [
            f"running {running:,}/{limit:,}",
            f"queued {sum(one.queued for one in told):,}",
            f"streams {sum(one.streams for one in told):,}",
            f"clients {sum(one.peers for one in told):,}",
        ]
    for what, values in (
        ("calls/s", [each.calls for each in methods if each.calls is not None]),
        ("errors/s", [each.errors for each in methods if each.errors is not None]),
    ):
        if values:
            parts.append(f"{what} {_rate(sum(values))}")
    return "  ".join(parts)


# -- the table --------------------------------------------------------------------------------


def columns_of(shown: Shown) -> list[str]:
    """The columns' names; ``>`` stands before those of numbers."""
    return [*(["SERVER"] if shown.each else []), *_COLUMNS]


def rows_of(shown: Shown) -> list[list[str]]:
    """What stands in the columns, a row for each method."""
    return [[*([address] if shown.each else []), *_row(each)] for address, each in shown.methods]


def _row(method: MethodRates) -> Iterator[str]:
    yield method.path.removeprefix("/")
    yield _rate(method.calls)
    yield _rate(method.errors)
    yield f"{method.in_flight:,}"
    yield f"{method.queued:,}"
    yield seconds_of(method.quantile(0.5))
    yield seconds_of(method.quantile(0.99))


def _rate(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 10 or not number else f"{number:.1f}"


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table whose lines have so many characters at most, the head first.

    Where there is no room, columns are left out, and then names are cut off in front.
    """
    kept = [*range(len(columns))]
    table = [[name.lstrip(">") for name in columns], *(map(escaped, row) for row in rows)]
    cells = [[*row] for row in table]
    widths: list[int] = [
        max(cell_len(row[place]) for row in cells) for place in range(len(columns))
    ]
    name = columns.index("METHOD")

    def room() -> int:
        """What is left for the name."""
        others: list[int] = [widths[place] + _BETWEEN for place in kept if place != name]
        return width - sum(others)

    for going in _FIRST_TO_GO:
        if room() >= min(widths[name], _LEAST):
            break
        kept = [place for place in kept if columns[place] != going]
    widths[name] = max(1, min(widths[name], room()))
    lines: list[str] = []
    for row in cells:
        parts = [
            _justified(row[place], widths[place], right=columns[place].startswith(">"))
            for place in kept
        ]
        lines.append(set_cell_size((" " * _BETWEEN).join(parts), width).rstrip())
    return lines


def _justified(text: str, width: int, *, right: bool) -> str:
    if cell_len(text) > width:
        # A peer's text may be very long, and nearly all characters have a width.
        text = text[-_NARROW * width :]
        while text and cell_len(text) > width - 1:
            text = text[1:]
        text = f"\u2026{text}"
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


# -- for programs -----------------------------------------------------------------------------


def json_of(shown: Shown, interval: float) -> str:
    """As an object; rates are null where the interval is not known, times are in seconds.

    :param interval: seconds between two looks.
    """
    # Any: of JSON.
    document: dict[str, Any] = {
        "time": time.time(),
        "interval": interval,
        "servers": [_server_json(one) for one in shown.servers],
        "methods": [
            {
                **({"server": address} if shown.each else {}),
                "path": each.path,
                "calls_per_second": each.calls,
                "errors_per_second": each.errors,
                "in_flight": each.in_flight,
                "queued": each.queued,
                "seconds_p50": each.quantile(0.5) if each.counts else None,
                "seconds_p99": each.quantile(0.99) if each.counts else None,
            }
            for address, each in shown.methods
        ],
    }
    return json.dumps(document)


# Any: of JSON.
def _server_json(view: ServerView) -> dict[str, Any]:
    server, told = view.server, dict[str, Any]()
    if server is not None:
        told = {
            "instance": server.instance,
            "name": server.name,
            "version": server.version,
            "since": server.since.ToNanoseconds() / 1e9,
            "running": server.running,
            "running_limit": server.running_limit,
            "queued": server.queued,
            "streams": server.streams,
            "clients": server.peers,
        }
    return {"address": view.address, "trouble": view.trouble, **told}
