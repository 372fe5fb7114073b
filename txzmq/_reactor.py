"""The slice of Twisted's reactor that txzmq uses, typed so that every checker agrees.

zope interfaces are opaque to pyright and to plain mypy, so parameters are typed with these
protocols: ``twisted.internet.reactor``, any reactor instance and ``task.Clock`` (for
:class:`Clock`) all fit.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

__all__ = [
    "Clock",
    "MonotonicClock",
    "Reactor",
    "ThreadedReactor",
    "Timer",
    "default_reactor",
    "monotonic",
    "new_reactor",
]


class Timer(Protocol):
    """What ``callLater`` returns (``IDelayedCall``).

    Without ``getTime()``, whose time need not be that of the clock which made it.
    """

    def active(self) -> bool:
        """Whether the call was neither made nor cancelled."""
        ...

    def cancel(self) -> None:
        """Do not make the call."""
        ...

    def reset(self, secondsFromNow: float, /) -> None:
        """Make the call that many seconds from now instead."""
        ...


class Clock(Protocol):
    """Time: the part of ``IReactorTime`` that ``task.Clock`` has too."""

    def seconds(self) -> float:
        """The time now, in seconds."""
        ...

    # Any and not object in the callable: a checker must accept a function of any parameters.
    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> Any:  # IDelayedCall, which pyright cannot compare with Timer
        """Call *callable* after *delay* seconds."""
        ...


class Reactor(Clock, Protocol):
    """Time, readers and shutdown: ``IReactorTime``, ``IReactorFDSet`` and ``IReactorCore``."""

    # Any in these: Twisted types readers with zope interfaces.
    def addReader(self, reader: Any, /) -> Any:
        """Call ``reader.doRead()`` when its descriptor is readable."""
        ...

    def removeReader(self, reader: Any, /) -> Any:
        """Stop calling *reader*."""
        ...

    def addSystemEventTrigger(
        self, phase: str, eventType: str, callable: Callable[..., Any], /, *args: object
    ) -> Any:
        """Call *callable* at a phase of an event such as ``shutdown``."""
        ...

    def removeSystemEventTrigger(self, triggerID: Any, /) -> Any:
        """Undo :meth:`addSystemEventTrigger`."""
        ...


class ThreadedReactor(Protocol):
    """The part of a reactor that other threads may use; test doubles lack it."""

    @property
    def running(self) -> bool:
        """Whether the reactor runs."""
        ...

    def callFromThread(self, callable: Callable[..., Any], /, *args: object, **kw: object) -> Any:
        """Call *callable* in the reactor's thread."""
        ...


# Any: reactors are typed with zope interfaces.
def new_reactor() -> Any:
    """A reactor of this platform, not the process's own, that may run in any thread."""
    reactor = _usual_reactor()
    # Or Twisted would take its thread for that of the process's reactor. The name is private.
    reactor._registerAsIOThread = False
    return reactor


# Any: as above.
def _usual_reactor() -> Any:
    """What Twisted would install on this platform."""
    if hasattr(select, "epoll"):
        from twisted.internet.epollreactor import EPollReactor

        return EPollReactor()  # type: ignore[no-untyped-call]  # Twisted's
    if hasattr(select, "poll") and sys.platform != "darwin":
        from twisted.internet.pollreactor import PollReactor

        return PollReactor()  # type: ignore[no-untyped-call]  # Twisted's
    from twisted.internet.selectreactor import SelectReactor

    return SelectReactor()


def default_reactor() -> Reactor:
    """The process's reactor, installed now if none is; importing txzmq never installs one."""
    from twisted.internet import reactor

    return cast(Reactor, reactor)


class MonotonicClock:
    """A reactor's timers, by a clock that nobody sets.

    Twisted's reactors tell the time of day. When that is set forward, their timers run too early,
    which those who compare with this clock notice; when it is set back, they run late.
    """

    def __init__(self, reactor: Clock) -> None:
        self._reactor = reactor

    seconds = staticmethod(time.monotonic)

    # Any, and a parameter of that name, as in Clock.
    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> Any:
        """As the reactor's."""
        return self._reactor.callLater(delay, callable, *args, **kw)

    def __getattr__(self, name: str) -> Any:
        # The rest of the reactor: to ask the DNS takes sockets.
        return getattr(self._reactor, name)


def monotonic(reactor: Clock) -> Clock:
    """A clock of *reactor* that goes only forward; the clock of a test is returned as it is."""
    return MonotonicClock(reactor) if reactor.seconds is time.time else reactor
