"""``txzmq top``: what servers do, by their methods, as it changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import click
from twisted.internet.defer import CancelledError, Deferred

from txzmq._cli.admin_service import admin_problem
from txzmq._cli.output import Output
from txzmq._cli.problems import FAILED
from txzmq._cli.quantities import duration
from txzmq._cli.runtime import Runtime
from txzmq._cli.screen import Screen
from txzmq._cli.servers import Servers, ServerView
from txzmq._cli.session import Session, Target, target_options
from txzmq._cli.top_table import SORTS, Shown, columns_of, fitted, heads, json_of, rows_of
from txzmq.rpc.watching import ConnectivityState

__all__ = ["command"]

#: Seconds that servers may take for an answer, at least and at most.
_LEAST: Final = 1.0
_MOST: Final = 5.0
#: How often is looked, in the first second, whether all servers are there.
_LOOKS: Final = 20
_ON_THE_WAY: Final = (ConnectivityState.IDLE, ConnectivityState.CONNECTING)
_FOOT: Final = "q quit  s sort: {}  e {}"


@click.command("top")
@click.argument("endpoint", metavar="ENDPOINT[,ENDPOINT...]")
@click.option("--each", is_flag=True, help="Show the methods of each server, not their sums.")
@click.option(
    "--interval",
    callback=duration,
    default="2s",
    show_default=True,
    metavar="DURATION",
    help="How often the servers are asked; rates and latencies are those of this time.",
)
@click.option(
    "--sort",
    type=click.Choice([*SORTS]),
    default="calls",
    show_default=True,
    help="By what methods are sorted.",
)
@click.option("--once", is_flag=True, help="Print one table, after one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@target_options
@click.pass_obj
def command(
    runtime: Callable[[], Any],
    endpoint: str,
    each: bool,
    interval: float,
    sort: str,
    once: bool,
    as_json: bool,
    target: Target,
) -> int:
    """Show what servers do, by their methods, until Ctrl-C.

    They need the Admin service. The methods of several servers are added up. On a terminal the
    table is drawn over; elsewhere one is printed after another.
    """
    made: Runtime = runtime()
    output = Output()
    console = output.console
    is_live = console.is_terminal and not (console.is_dumb_terminal or once or as_json)
    screen = Screen(console) if is_live else None
    timeout = max(_LEAST, min(_MOST, interval))

    async def run() -> int:
        servers = Servers(made, endpoint, target, timeout)
        with servers.session as session:
            await session.connect_well()
            await _settle(made, session)
            first = await servers.ask()
            _check(first)
            top = _Top(made, servers, interval, sort, each)
            if screen is not None:
                await top.live(screen, first)
                return 0
            return await top.print(output, once, as_json)

    # Around all of it: a second Ctrl-C does not wait for the coroutine.
    shown: AbstractContextManager[object] = nullcontext() if screen is None else screen
    with shown:
        return made.run(run)


async def _sleep(runtime: Runtime, seconds: float) -> None:
    over: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = runtime.clock.callLater(seconds, over.callback, None)
    await over


async def _settle(runtime: Runtime, session: Session) -> None:
    """Wait for the other servers, too, when one is there; not for long."""
    for _ in range(_LOOKS):
        if not any(each.state in _ON_THE_WAY for each in session.channel.endpoints):
            return
        await _sleep(runtime, _LEAST / _LOOKS)


def _check(views: list[ServerView]) -> None:
    """Say why none of them tells anything, if it is always the same.

    :raises Problem: if none does.
    """
    problems = [view.error and admin_problem(view.error) for view in views]
    if problems and all(problems):
        raise next(filter(None, problems))


class _Top:
    def __init__(
        self, runtime: Runtime, servers: Servers, interval: float, sort: str, each: bool
    ) -> None:
        self._runtime = runtime
        self._servers = servers
        self._interval = interval
        self._sort = sort
        self._each = each
        self._views: list[ServerView] = []
        self._is_over = False

    def _shown(self) -> Shown:
        return Shown(self._views, self._sort, self._each)

    async def _next(self) -> bool:
        """Wait, and ask again; whether there is any time left."""
        left = self._servers.session.left(None)
        seconds = self._interval if left is None else max(0.0, min(self._interval, left))
        await _sleep(self._runtime, seconds)
        if left is not None and left <= self._interval:
            return False
        self._views = await self._servers.ask()
        return True

    # -- for pipes ---------------------------------------------------------------------------

    async def print(self, output: Output, once: bool, as_json: bool) -> int:
        """Print a table after each interval; the exit status."""
        number = 0
        while await self._next():
            shown = self._shown()
            if as_json:
                output.json(json_of(shown, self._interval))
            else:
                if number:
                    output.line("")
                for line in heads(shown):
                    output.line(line)
                output.table(columns_of(shown), rows_of(shown))
            number += 1
            if once:
                return FAILED if all(view.trouble for view in self._views) else 0
        return 0

    # -- for a terminal ----------------------------------------------------------------------

    async def live(self, screen: Screen, first: list[ServerView]) -> None:
        """Show it until somebody presses q."""
        self._views = first

        def draw() -> None:
            self._draw(screen)

        screen.show()
        screen.watch(self._runtime, draw)
        draw()
        asking = Deferred.fromCoroutine(self._ask(draw))
        reading = Deferred.fromCoroutine(self._read(screen, draw, asking.cancel))
        try:
            await asking
        except CancelledError:
            if not self._is_over:
                raise
        finally:
            reading.addErrback(lambda _: None)
            reading.cancel()

    async def _ask(self, draw: Callable[[], None]) -> None:
        while await self._next():
            draw()

    async def _read(
        self, screen: Screen, draw: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """Do what keys say."""
        if not screen.has_keys:
            return
        sorts = [*SORTS]
        async for keys in self._runtime.standard_input():
            for key in keys.decode("ascii", "ignore"):
                if key in "qQ":
                    self._is_over = True
                    end()
                    return
                if key in "sS":
                    self._sort = sorts[(sorts.index(self._sort) + 1) % len(sorts)]
                elif key in "eE":
                    self._each = not self._each
            draw()

    def _draw(self, screen: Screen) -> None:
        shown = self._shown()
        width, _ = screen.size
        table = fitted(columns_of(shown), rows_of(shown), width)
        foot = ""
        if screen.has_keys:
            what = "all servers" if self._each else "each server"
            foot = _FOOT.format(self._sort, what)
        screen.draw(heads(shown), table, foot)
