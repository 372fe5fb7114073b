"""How a user's code may end, and what becomes of its call or stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.rpc.streaming import StreamWorld
from tests.support import error_of
from txzmq.rpc import Cancelled, NotFound, Unknown

#: How a user's code may end, besides well.
KINDS: Final[dict[str, Callable[[], BaseException]]] = {
    "Exception": lambda: ZeroDivisionError("user"),
    "RpcError": lambda: NotFound("user"),
    "asyncio.CancelledError": asyncio.CancelledError,
    "CancelledError": CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
}
#: What a generator or iterator may not raise: others would take it for their own end.
ENDS: Final = (StopIteration, StopAsyncIteration, GeneratorExit)
#: Seconds that no end may take, and the timeout of every call.
SOON: Final = 0.2
TIMEOUT: Final = 5.0


class Outcome:
    """How a call or stream has ended, once."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.ends: list[object] = []
        deferred.addCallbacks(self.ends.append, self._failed)

    def _failed(self, failure: Failure) -> None:
        self.ends.append(error_of(failure))

    @property
    def end(self) -> object:
        (end,) = self.ends
        return end


def read(stream: Any) -> Outcome:
    """Read a stream; the outcome is the list of its items, or its error."""

    async def items() -> list[str]:
        return [item.value async for item in stream]

    return Outcome(Deferred.fromCoroutine(items()))


def go_on(world: StreamWorld, seconds: float = SOON) -> None:
    """Let time pass; a KeyboardInterrupt is for the process, which these tests have it survive."""
    for _ in range(4):
        with suppress(KeyboardInterrupt):
            world.network.advance(seconds / 4)


def local(kind: Callable[[], BaseException]) -> type[BaseException]:
    """What a caller gets for what its own code raised."""
    error = kind()
    return RuntimeError if isinstance(error, ENDS) else type(error)


def remote(kind: Callable[[], BaseException]) -> type[BaseException]:
    """What a caller gets for what the server's code raised."""
    error = kind()
    if isinstance(error, NotFound):
        return NotFound
    return Cancelled if isinstance(error, (CancelledError, asyncio.CancelledError)) else Unknown
