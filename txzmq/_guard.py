"""Who may use a socket: the reactor's thread, in the process that made it.

A socket of libzmq belongs to one thread, as Twisted's reactor does; libzmq aborts the process where
it notices the use from another. In a forked child, libzmq's own threads are missing, and the
descriptors are shared with the parent.
"""

from __future__ import annotations

import atexit
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from threading import get_ident
from typing import Protocol, cast

from twisted.python import threadable
from twisted.python.failure import Failure

from txzmq._reactor import ThreadedReactor

__all__ = [
    "ForkedError",
    "Guard",
    "Guarded",
    "WrongThreadError",
    "never_mind_the_reactor",
    "refuse_to_block",
]


class WrongThreadError(RuntimeError):
    """A factory, connection, channel or server was used outside of the reactor's thread.

    Nothing was done. Other threads use ``reactor.callFromThread``, or
    :class:`txzmq.rpc.Blocking` for calls.
    """


class ForkedError(RuntimeError):
    """A forked child used a factory, or something made with it, of its parent.

    Nothing was done. The child must make a :class:`~txzmq.ZmqFactory`, and its connections,
    channels and servers, of its own.
    """


class Guard:
    """Tells whether the current thread may use what is guarded.

    Any thread may until the reactor runs, since nobody knows before which thread it will run in.
    From then on only that thread may, for as long as it lives, even when the reactor has stopped.
    """

    __slots__ = ("_forked", "_is_owned", "_reactor", "thread")

    def __init__(self, reactor: Callable[[], object] | None = None) -> None:
        """
        :param reactor: returns the reactor; called once one has run in this process. None to let
            any thread pass.
        """
        #: The reactor's thread as far as it is known. Hot code compares it with ``get_ident()``
        #: and calls :meth:`check_anew` where they differ.
        self.thread: int | None = None
        self._reactor = reactor
        self._forked = self._is_owned = False

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child of the one that the guard was made in."""
        return self._forked

    @property
    def has_reactor(self) -> bool:
        """Whether there is a reactor, whose thread is the one; a network in memory has none."""
        return self._reactor is not None

    def fork(self) -> None:
        """Refuse everything from now on; called in a forked child."""
        self._forked = True
        self.thread = None

    def own(self) -> None:
        """This thread is the reactor's: for a reactor that is not the process's own."""
        self.thread = get_ident()
        self._is_owned = True

    def check(self) -> None:
        """Raise unless the current thread may use what is guarded.

        :raises WrongThreadError: in another thread than the reactor's.
        :raises ForkedError: in a forked child.
        """
        if self.thread != get_ident():
            self.check_anew()

    def check_anew(self) -> None:
        """As :meth:`check`, without its short cut by :attr:`thread`."""
        if self._forked:
            raise ForkedError(
                "this belongs to the parent of this forked process and cannot be used here: make "
                "a ZmqFactory, and what hangs on it, after the fork"
            )
        if not self.is_owner():
            raise WrongThreadError(
                "only the reactor's thread may use this, and "
                f"{threading.current_thread().name!r} is another: use reactor.callFromThread(), "
                "or for calls txzmq.rpc.Blocking"
            )

    def check_call(self) -> None:
        """As :meth:`check_anew`, for a call that is made.

        Before the reactor runs, it may be that it never will. That is said when the process ends;
        and now, if asyncio's loop runs in its place.
        """
        self.check_anew()
        if self.has_reactor and self.thread is None:
            # Of who calls the method of a client.
            _warn_of_asyncio(stacklevel=6)
            _tell_at_exit("calls were made")

    def check_server(self) -> None:
        """As :meth:`check_call`, for a server that begins to take calls."""
        self.check_anew()
        if self.has_reactor and self.thread is None:
            _warn_of_asyncio(stacklevel=4)
            _tell_at_exit("a server was to answer")

    def report_wrong_thread(self, failed: Callable[..., object], *args: object) -> bool:
        """Report that a user's Deferred was fired outside of the reactor's thread.

        For callbacks, which do nothing more then. In the reactor's thread nothing is reported.

        :param failed: called in the reactor's thread, with *args* and a Failure of
            :class:`WrongThreadError`.
        :return: whether this is the wrong thread.
        :raises ForkedError: in a forked child.
        """
        try:
            self.check()
        except WrongThreadError:
            failure = Failure()  # type: ignore[no-untyped-call]  # Twisted's
            self.reactor().callFromThread(failed, *args, failure)
            return True
        return False

    def reactor(self) -> ThreadedReactor:
        """The reactor.

        :raises ValueError: if there is none, as with a network in memory.
        """
        if self._reactor is None:
            raise ValueError("a network in memory has no reactor that runs in a thread")
        return cast("ThreadedReactor", self._reactor())

    def is_owner(self) -> bool:
        """Whether the current thread is the reactor's, or no thread is."""
        me = get_ident()
        if self._is_owned:
            return self.thread == me
        # Before self._reactor(), which installs a reactor if there is none: only the application
        # should do that.
        last = _last_reactors_thread()
        if self._reactor is None or last is None:
            return True
        if getattr(self._reactor(), "running", False):
            if last == me:
                self.thread = me
            return self.thread == me
        return self.thread in (None, me) or not _is_alive(self.thread)


class Guarded(Protocol):
    """A factory, or a channel of either kind: it knows the thread of its reactor."""

    @property
    def guard(self) -> Guard:
        """Says which thread it is."""
        ...


def refuse_to_block() -> None:
    """Raise in the thread in which the process's reactor runs, which a wait would stop.

    :raises WrongThreadError: there.
    """
    if _last_reactors_thread() == get_ident():
        reactor = sys.modules.get("twisted.internet.reactor")
        if getattr(reactor, "running", False):
            raise WrongThreadError(
                "Twisted's reactor runs in this thread, and would stand still during the wait: "
                "await calls of a txzmq.rpc.Channel here, or wait in another thread, by "
                "deferToThread()"
            )


def _warn_of_asyncio(*, stacklevel: int) -> None:
    """Warn where asyncio's loop runs in this thread, and no reactor on it."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    reactor = sys.modules.get("twisted.internet.reactor")
    # The name is private to Twisted; who installs the reactor on this loop may start it later.
    if getattr(reactor, "_asyncioEventloop", None) is loop:
        return
    warnings.warn(
        "asyncio's loop runs here, and Twisted's reactor does not: nothing is sent. Run the "
        "program by txzmq.rpc.aio.run(main); where something else runs the loop, begin with "
        "asyncioreactor.install(asyncio.get_running_loop()), of twisted.internet, and "
        "reactor.startRunning(installSignalHandlers=False)",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


@cache
def _tell_at_exit(what: str) -> None:
    """Have it said when the process ends that something was done, and no reactor has run."""
    atexit.register(_warn_of_no_reactor, what)


def never_mind_the_reactor() -> None:
    """Have the end of the process not say that no reactor ran: something else does, and why."""
    atexit.unregister(_warn_of_no_reactor)


def _warn_of_no_reactor(what: str) -> None:
    ended_by_exception = hasattr(sys, "last_value")  # whose traceback says why it never ran
    if _last_reactors_thread() is None and not ended_by_exception:
        warnings.warn(
            f"{what}, and the reactor never ran: nothing was sent. Run it, by "
            "reactor.run() or twisted.internet.task.react(main)",
            RuntimeWarning,
            stacklevel=1,
        )


def _last_reactors_thread() -> int | None:
    return cast("int | None", threadable.ioThread)  # Twisted leaves it untyped


def _is_alive(ident: int | None) -> bool:
    return any(thread.ident == ident for thread in threading.enumerate())
