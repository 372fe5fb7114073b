"""The server's side of a call."""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

__all__ = ["Context", "StreamResult", "UnaryResult"]

T = TypeVar("T")

#: What a handler of a method with one response may return: the response, a Deferred of it, or a
#: coroutine (an ``async def`` handler).
UnaryResult: TypeAlias = T | Deferred[T] | Coroutine[Deferred[Any], Any, T]
#: What a handler of a method with a stream of responses may return; an async generator is one.
StreamResult: TypeAlias = Iterable[T] | AsyncIterable[T]


class Context:
    """What a handler may know and do about the call that it serves."""
