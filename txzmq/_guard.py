"""Who may use a socket: the reactor's thread, in the process that made it.

libzmq's sockets belong to one thread, and Twisted's reactor does, too; libzmq aborts the process
where it notices that another one got in. In a forked child, libzmq's own threads are missing, and
the descriptors are the parent's.
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
    """Something of the reactor's was used in another thread; nothing was done.

    Only the reactor's thread may use factories, connections, channels and servers. Others use
    ``reactor.callFromThread``, or :class:`txzmq.rpc.Blocking` for calls.
    """


class ForkedError(RuntimeError):
    """Something was used in a forked child that its parent made; nothing was done.

    The child makes a :class:`~txzmq.ZmqFactory`, and all that hangs on it, of its own.
    """


class Guard:
    """Says whether the current thread may go on.

    Any thread may until the reactor runs, because the one that it will run in is not known
    before. From then on it is the reactor's, even when the reactor has stopped, for as long as
    that thread lives.
    """

    __slots__ = ("_forked", "_reactor", "thread")

    def __init__(self, reactor: Callable[[], object] | None = None) -> None:
        """
        :param reactor: gives the reactor; called when one has run in this process. None for what
            any thread may use.
        """
        #: The reactor's thread as far as it is known. Hot code compares it with ``get_ident()``
        #: and calls :meth:`check_anew` where they differ.
        self.thread: int | None = None
        self._reactor = reactor
        self._forked = False

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that this belongs to."""
        return self._forked

    def fork(self) -> None:
        """Refuse everything from now on, in a child."""
        self._forked = True
        self.thread = None

    def check(self) -> None:
        """Raise unless the current thread may go on.

        :raises WrongThreadError: if it is not the reactor's.
        :raises ForkedError: if this is a forked child.
        """
        if self.thread != get_ident():
            self.check_anew()

    def check_anew(self) -> None:
        """As :meth:`check`, without the short cut."""
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

    def hands_over(self, failed: Callable[..., object], *args: object) -> bool:
        """Have the reactor go on where a Deferred of its was fired in another thread.

        :param failed: called in the reactor's thread, with *args* and a Failure that tells it.
        :return: whether this is another thread.
        :raises ForkedError: if this is a forked child.
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

        :raises ValueError: if there is none, as with connections in memory.
        """
        if self._reactor is None:
            raise ValueError("there is no reactor here that has a thread")
        return cast("ThreadedReactor", self._reactor())

    def is_owner(self) -> bool:
        """Whether the current thread is the reactor's, or no thread is."""
        me = get_ident()
        # Looking the reactor up installs one, which is the application's to do.
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
