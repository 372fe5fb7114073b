"""Runs the coroutine of a stream's handler, in less memory than ``Deferred.fromCoroutine``.

A server has many streams, and most of them are idle. Instead of a Deferred that fires, one function
is called when the coroutine ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["CoroutineRunner", "close_source", "ending_error"]

T = TypeVar("T")
#: What Python takes for the end of an iterator or of a generator, whoever raised it.
_ENDS: Final = (StopIteration, StopAsyncIteration, GeneratorExit)


class CoroutineRunner(Generic[T]):
    """Runs a coroutine, which may await Deferreds, until it ends."""

    __slots__ = (
        "_awaited",
        "_cancelled",
        "_context",
        "_coroutine",
        "_ended",
        "_fired_result",
        "_subject",
    )

    def __init__(
        self,
        # Any: the coroutine is sent the results of the Deferreds that it awaits.
        coroutine: Coroutine[object, Any, None],
        context: contextvars.Context,
        ended: Callable[[Failure | None, T], object],
        subject: T,
    ) -> None:
        """
        :param context: the context in which the coroutine runs; nothing else may run in it at the
            same time.
        :param ended: called once, with a Failure or None, and *subject*. It is called in the thread
            where the last Deferred was fired.
        """
        self._coroutine = coroutine
        self._context = context
        self._ended = ended
        self._subject = subject
        # What the coroutine waits for; None while it runs, and when it has ended.
        self._awaited: Deferred[Any] | None = None
        # The result of a Deferred that had fired before the coroutine awaited it.
        self._fired_result: tuple[object] | None = None
        # Whether to cancel what the coroutine waits for next.
        self._cancelled = False

    def start(self) -> None:
        """Run the coroutine until it waits for the first time."""
        self._run(None)

    def cancel(self) -> None:
        """Cancel what the coroutine waits for; while it runs, what it waits for next.

        If a canceller raises, the coroutine counts as ended with that exception. It may go on
        afterwards, but its own end is not reported.
        """
        awaited = self._awaited
        if awaited is None:
            self._cancelled = True
            return
        try:
            awaited.cancel()
        except BaseException:  # noqa: BLE001 - whatever a user's canceller raises
            self._end(Failure())  # type: ignore[no-untyped-call]  # Twisted's

    # The runner itself is the callback: a bound method for each Deferred would take more memory.
    def __call__(self, result: object) -> None:
        """Take the result of the Deferred that the coroutine awaits."""
        if self._awaited is None:
            self._fired_result = (result,)
        else:
            self._run(result)

    def _run(self, result: object) -> None:
        """Run the coroutine until it has to wait.

        This is a loop, not a recursion, since any number of Deferreds may have fired already.
        """
        self._awaited = None
        while True:
            try:
                awaited = self._step(result)
            except StopIteration:
                self._end(None)
                return
            except BaseException:  # noqa: BLE001 - whatever a handler raises is its result
                self._end(Failure())  # type: ignore[no-untyped-call]  # Twisted's
                return
            if not isinstance(awaited, Deferred):
                name = type(awaited).__qualname__
                text = f"a handler can await Deferreds, not an object that yields {name}"
                result = Failure(TypeError(text))  # type: ignore[no-untyped-call]  # Twisted's
                continue
            awaited.addBoth(self)  # pyright: ignore[reportUnknownMemberType]  # a user's
            if self._fired_result is None:
                break
            (result,), self._fired_result = self._fired_result, None
        self._awaited = awaited
        if self._cancelled:
            self._cancelled = False
            self.cancel()

    def _step(self, result: object) -> object:
        if isinstance(result, Failure):
            # Twisted's method keeps the traceback of the Failure.
            throw = cast("Callable[[object], object]", result.throwExceptionIntoGenerator)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
            return self._context.run(throw, self._coroutine)
        return self._context.run(self._coroutine.send, result)

    def _end(self, result: Failure | None) -> None:
        ended, self._ended = self._ended, _nobody
        ended(result, self._subject)


def _nobody(result: Failure | None, subject: object) -> None:
    """Do nothing: the end was reported already."""


def ending_error(error: BaseException, whose: str) -> BaseException:
    """The error with which a call or stream ends, where a user's code has raised *error*.

    It is *error* itself, unless whoever gets it would take it for the end of an iterator: then it
    is a RuntimeError, which Python itself makes of a StopIteration that leaves a generator.

    :param whose: for the text, as in "the requests of /service/Method".
    """
    if not isinstance(error, _ENDS):
        return error
    try:
        raise RuntimeError(f"{whose} raised {type(error).__name__}") from error
    except RuntimeError as ending:
        return ending


async def close_source(source: Any) -> None:
    """Close an iterator that may not be at its end, such as a generator, so that it cleans up."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
        return
    close = getattr(source, "close", None)
    if close is not None:
        close()
