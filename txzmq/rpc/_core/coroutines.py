"""What runs a coroutine for as long as a stream lives.

As ``Deferred.fromCoroutine`` does, but in a fraction of the memory: streams are many, and most of
them are idle. One function is told the end, in place of a Deferred.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["CoroutineRunner", "close_source"]

T = TypeVar("T")


class CoroutineRunner(Generic[T]):
    """Runs a coroutine that awaits Deferreds, to its end."""

    __slots__ = (
        "_at_once",
        "_awaited",
        "_cancelled",
        "_coroutine",
        "_ended",
        "_subject",
        "_surroundings",
    )

    def __init__(
        self,
        # Any: what it sends is the result of what the coroutine awaits.
        coroutine: Coroutine[object, Any, None],
        surroundings: contextvars.Context,
        ended: Callable[[Failure | None, T], object],
        subject: T,
    ) -> None:
        """
        :param surroundings: what the coroutine runs in, and nothing else at the same time.
        :param ended: called once, with a Failure or None and with *subject*, in the thread where
            the last Deferred was fired.
        """
        self._coroutine = coroutine
        self._surroundings = surroundings
        self._ended = ended
        self._subject = subject
        # What the coroutine waits for; None while it runs, and when it has ended.
        self._awaited: Deferred[Any] | None = None
        # The result of what it did not have to wait for.
        self._at_once: tuple[object] | None = None
        # What it waits for next is to be cancelled.
        self._cancelled = False

    def start(self) -> None:
        """Run it until it waits for the first time."""
        self._run(None)

    def cancel(self) -> None:
        """Cancel what the coroutine waits for; while it runs, what it waits for next.

        Where a canceller raises, that counts as the end. The coroutine goes on should it be able
        to, and nobody is told of its own end.
        """
        awaited = self._awaited
        if awaited is None:
            self._cancelled = True
            return
        try:
            awaited.cancel()
        except Exception:  # noqa: BLE001 - whatever a user's canceller raises
            self._end(Failure())  # type: ignore[no-untyped-call]  # Twisted's

    # This is the callback itself, as a bound method for each would be more memory.
    def __call__(self, result: object) -> None:
        """What the coroutine waits for is there."""
        if self._awaited is None:
            self._at_once = (result,)
        else:
            self._run(result)

    def _run(self, result: object) -> None:
        """Run it until it has to wait; a loop, as what is there at once may follow without end."""
        self._awaited = None
        while True:
            try:
                awaited = self._step(result)
            except StopIteration:
                self._end(None)
                return
            except BaseException:  # noqa: BLE001 - whatever a handler raises is how it ends
                self._end(Failure())  # type: ignore[no-untyped-call]  # Twisted's
                return
            if not isinstance(awaited, Deferred):
                text = (
                    f"a handler can await Deferreds, not what gives a {type(awaited).__qualname__}"
                )
                result = Failure(TypeError(text))  # type: ignore[no-untyped-call]  # Twisted's
                continue
            awaited.addBoth(self)  # pyright: ignore[reportUnknownMemberType]  # a user's
            if self._at_once is None:
                break
            (result,), self._at_once = self._at_once, None
        self._awaited = awaited
        if self._cancelled:
            self._cancelled = False
            self.cancel()

    def _step(self, result: object) -> object:
        if isinstance(result, Failure):
            # What Twisted has for it: the traceback shows where it comes from.
            throw = cast("Callable[[object], object]", result.throwExceptionIntoGenerator)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
            return self._surroundings.run(throw, self._coroutine)
        return self._surroundings.run(self._coroutine.send, result)

    def _end(self, result: Failure | None) -> None:
        ended, self._ended = self._ended, _nobody
        ended(result, self._subject)


def _nobody(result: Failure | None, subject: object) -> None:
    """Nobody is told any more."""


async def close_source(source: Any) -> None:
    """Have what gave items clean up: a generator, for instance, that is not at its end."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
        return
    close = getattr(source, "close", None)
    if close is not None:
        close()
