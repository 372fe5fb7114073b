"""How long a thread waits for what happens in the reactor's: never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from txzmq._reactor import ThreadedReactor
from txzmq.rpc.errors import DeadlineExceeded, RpcError, Unavailable

__all__ = ["GivenUp", "Patience"]

#: Seconds after which a waiting thread checks again whether the reactor runs.
_POLL: Final = 0.1
#: Seconds, 30 years: a longer timeout is none.
_LONGEST: Final = 1e9
#: Seconds after which a waiting thread checks again whether the reactor is blocked.
_ASK: Final = 1.0


class GivenUp(NamedTuple):
    """A thread waits no more.

    :ivar error: the type of the error that it gets.
    :ivar reason: in words.
    """

    error: type[RpcError]
    reason: str

    def error_with(self, more: str) -> RpcError:
        """The error, with what becomes of the call behind the reason."""
        make = cast("Callable[[str], RpcError]", self.error)  # of a subclass that has its code
        return make(f"{self.reason}; {more}")


class Patience:
    """Waits in a thread, for one call, as long as there is hope."""

    def __init__(self, reactor: ThreadedReactor, timeout: object, patience: float | None) -> None:
        """
        :param timeout: the call's own, in seconds; anything else for none, and so are numbers that
            the call refuses, or that are over at once.
        :param patience: how many seconds to wait for a reactor that is blocked: beyond the timeout,
            or without one since it last did anything. None for the defaults.
        """
        self._reactor = reactor
        self._timeout: float | None = None
        if isinstance(timeout, int | float) and 0 <= timeout < _LONGEST:
            self._timeout = timeout
            patience = 1 + timeout / 10 if patience is None else patience
            self._end = time.monotonic() + timeout + patience
        self._patience = 30.0 if patience is None else patience
        # Whether the reactor has run a function since it was last asked to, and when that was.
        self._answered = True
        self._asked = 0.0

    def ask(self, function: Callable[[], object]) -> None:
        """Have the reactor call a function, by which it answers that it is not blocked."""
        self._asked, self._answered = time.monotonic(), False
        self._reactor.callFromThread(self._answer, function)

    def _answer(self, function: Callable[[], object]) -> None:
        self._answered = True
        function()

    def wait(self, for_it: Callable[[float], bool]) -> GivenUp | None:
        """Wait until something has happened; why there is no hope, if there is none.

        :param for_it: waits for so many seconds, and returns whether it has happened.
        """
        if self._answered:
            self._asked = time.monotonic()
        while not for_it(self._pause()):
            given_up = self._look()
            if given_up is not None:
                return None if for_it(0) else given_up
        return None

    def _pause(self) -> float:
        if self._timeout is not None:
            return max(0.0, min(_POLL, self._end - time.monotonic()))
        return min(_POLL, self._patience / 4)

    def _look(self) -> GivenUp | None:
        """Whether the reactor is still to be waited for."""
        if not self._reactor.running:
            return GivenUp(Unavailable, "the reactor has stopped")
        now = time.monotonic()
        if self._timeout is not None:
            if now < self._end:
                return None
            return GivenUp(
                DeadlineExceeded,
                f"the call's timeout of {self._timeout} s was over {self._patience} s ago, and the "
                "reactor is blocked",
            )
        if not self._answered:
            if now - self._asked > self._patience:
                return GivenUp(Unavailable, f"the reactor has been blocked for {self._patience} s")
        elif now - self._asked > _ASK:
            self.ask(_nothing)
        return None


def _nothing() -> None:
    """The reactor is not blocked: it has called this."""
