"""How a server runs the coroutines of its user: as coroutines of Twisted's, or otherwise.

``task_handlers`` has the other way, and is loaded where somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from txzmq.rpc._core.coroutines import CoroutineRunner

__all__ = ["TWISTED", "HandlerStyle", "Runner"]

F = TypeVar("F", bound=Callable[..., Any])


class Runner(Protocol):
    """Runs a coroutine until it ends."""

    def start(self) -> None:
        """Begin."""
        ...

    def cancel(self) -> None:
        """Have it end."""
        ...


class HandlerStyle(NamedTuple):
    """How coroutines run.

    :ivar wrap: makes of a user's function one that returns a Deferred in place of a coroutine, or
        leaves it to whoever calls it.
    :ivar runner: makes what runs the coroutine of a stream; its arguments are those of a
        :class:`~txzmq.rpc._core.coroutines.CoroutineRunner`.
    """

    wrap: Callable[[Any], Any]
    runner: Callable[..., Runner]


def _unchanged(function: F) -> F:
    return function


TWISTED: Final = HandlerStyle(_unchanged, CoroutineRunner)
