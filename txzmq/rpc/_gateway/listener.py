"""What takes calls for a gateway, until it is stopped or the reactor is."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._reactor import Reactor
from txzmq.rpc._gateway.readiness import Readiness

__all__ = ["Listener"]


class Listener:
    """A server that takes calls for a gateway."""

    def __init__(
        self,
        end: Callable[[float], Deferred[None]],
        grace: float,
        reactor: Reactor,
        readiness: Readiness,
    ) -> None:
        """
        :param end: ends the server, whose calls go on for so many seconds; it may be called again.
        :param grace: seconds for which calls may go on when the reactor stops.
        :param readiness: is told when it begins, and when it begins to stop.
        """
        self._end = end
        self._grace = grace
        self._reactor = reactor
        self._readiness: Readiness | None = readiness
        readiness.listens()
        self._forked = False
        self._trigger = reactor.addSystemEventTrigger("before", "shutdown", self._stopping)
        _listeners.add(self)

    def stop(self, grace: float = 0.0) -> Deferred[None]:
        """Take no more calls, and end those that go on when *grace* is over.

        :param grace: seconds. It may be called again with fewer.
        :return: fires when all calls have ended.
        :raises ValueError: if *grace* is negative, or TypeError if it is no number.
        """
        _check.number("grace", grace)
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        return self._stop(grace)

    def _stop(self, grace: float) -> Deferred[None]:
        readiness, self._readiness = self._readiness, None
        if readiness is not None:
            readiness.listens_no_more()
        return self._end(grace)

    def _stopping(self) -> Deferred[None] | None:
        """The reactor is about to stop."""
        self._trigger = None
        # A forked child may stop the reactor that it has from its parent; the server is not its.
        return None if self._forked else self._stop(self._grace)

    def forked(self) -> None:
        """This is a forked child, and the server is its parent's; txzmq calls this."""
        self._forked = True


# -- forked children -------------------------------------------------------------------------------

_listeners: Final[weakref.WeakSet[Listener]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for listener in list(_listeners):
        listener.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
