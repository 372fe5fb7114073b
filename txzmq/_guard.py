"""Who may use a socket: the reactor's thread, in the process that made it.

A socket of libzmq belongs to one thread, as Twisted's reactor does; libzmq aborts the process where
it notices the use from another. In a forked child, libzmq's own threads are missing, and the
descriptors are shared with the parent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import cast

from twisted.python import threadable
from twisted.python.failure import Failure

from txzmq._reactor import ThreadedReactor

__all__ = ["ForkedError", "Guard", "WrongThreadError"]


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

    __slots__ = ("_forked", "_reactor", "thread")

    def __init__(self, reactor: Callable[[], object] | None = None) -> None:
        """
        :param reactor: returns the reactor; called once one has run in this process. None to let
            any thread pass.
        """
        #: The reactor's thread as far as it is known. Hot code compares it with ``get_ident()``
        #: and calls :meth:`check_anew` where they differ.
        self.thread: int | None = None
        self._reactor = reactor
        self._forked = False

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child of the one that the guard was made in."""
        return self._forked

    def fork(self) -> None:
        """Refuse everything from now on; called in a forked child."""
        self._forked = True
        self.thread = None

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


def _last_reactors_thread() -> int | None:
    return cast("int | None", threadable.ioThread)  # Twisted leaves it untyped


def _is_alive(ident: int | None) -> bool:
    return any(thread.ident == ident for thread in threading.enumerate())
