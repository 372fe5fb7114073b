"""What verbs do that ask for types alone."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from txzmq._cli.problems import Problem
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target, TypeSources
from txzmq._cli.types import Types

__all__ = ["ask_types"]

#: Shows one symbol, or all where there is none.
Show: TypeAlias = Callable[[Types, str | None], Coroutine[Deferred[Any], Any, None]]


def ask_types(
    make_runtime: Callable[[], Runtime],
    names: tuple[str, ...],
    target: Target,
    sources: TypeSources,
    show: Show,
) -> None:
    """Show something of the types of files, or of a server.

    :param names: the endpoint, which files make needless, and what to show.
    :raises Problem: if there are too few or too many.
    """
    left = [*names]
    endpoint = left.pop(0) if left and ("://" in left[0] or not sources.are_files) else None
    symbol = left.pop(0) if left else None
    if left:
        raise Problem(f"{left[0]} is one argument too many")
    runtime = make_runtime()
    if sources.are_files:
        types = sources.from_files()
        runtime.run(lambda: show(types, symbol))
        return
    if endpoint is None:
        raise Problem("an endpoint is missing", "name the server, for example tcp://127.0.0.1:5000")

    async def ask() -> None:
        with Session(runtime, endpoint, target) as session:
            await session.connect()
            await show(sources.of_server(session, target), symbol)

    runtime.run(ask)
