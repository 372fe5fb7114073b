"""The ZeroMQ context of an application, and all its connections."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq
from twisted.logger import Logger

from txzmq._guard import Guard
from txzmq._reactor import Reactor, default_reactor

if TYPE_CHECKING:
    from txzmq.connection import ZmqConnection

__all__ = ["ZmqFactory"]

_log = Logger()

#: Seconds beyond the linger period in which libzmq should have closed a context: it takes 5 ms, and
#: 15 on a busy machine.
_CLOSING_TIME = 0.25


class _DefaultReactor:
    """``factory.reactor`` until somebody sets it: the process's reactor, looked up when used.

    Not a data descriptor, so that ``factory.reactor = r`` and ``reactor = r`` in a subclass
    both win over it.
    """

    def __get__(self, instance: object, owner: type) -> Reactor:
        return default_reactor()


class _Context(zmq.Context[zmq.Socket[bytes]]):
    """A context that may be forgotten, or be the parent's of a forked child."""

    # Class attributes, because zmq.Context takes other names for options.
    #: Whether a socket was made: only then libzmq has started its threads.
    used = False
    #: Whether this is a child, which has not got these threads and leaves the context alone.
    forked = False

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        self.used = True
        return super().socket(*args, **kwargs)

    def __del__(self) -> None:
        if self.forked or self.closed or sys.is_finalizing():
            return
        if not self.used:
            self.term()
            return
        warnings.warn("a ZmqFactory was not shut down", ResourceWarning, stacklevel=2, source=self)
        # Not here, as zmq.Context does: it waits for the sockets, which are garbage too, and may be
        # closed only after this. Not a threading.Thread, whose locks may be held here.
        _thread.start_new_thread(self.term, ())


class ZmqFactory:
    """Owns a ZeroMQ context and keeps track of the connections that use it.

    An application needs one. Set :attr:`ioThreads` in a subclass, the others there or on the
    instance before making connections.

    Once the reactor runs, only its thread may use a factory and its connections; others get
    :class:`~txzmq.WrongThreadError`. A forked child gets :class:`~txzmq.ForkedError`, and makes a
    factory of its own. A factory that has had no connection before the fork (such as that of a
    ``.tac`` file, which twistd reads before it forks) can be used in the child.

    :ivar connections: all connections that are open.
    :ivar context: the ``zmq.Context``; closed after :meth:`shutdown`.
    """

    #: The reactor of all connections; the process's own unless set.
    reactor: Reactor = _DefaultReactor()  # type: ignore[assignment]  # a descriptor gives it
    #: How many I/O threads ZeroMQ uses.
    ioThreads: int = 1
    #: Milliseconds for which :meth:`shutdown` may block to get unsent messages out; -1 for ever.
    lingerPeriod: int = 100
    #: Whether :meth:`shutdown` was called; no connection can be made any more.
    closed: bool = False

    def __init__(self, reactor: Reactor | None = None) -> None:
        """Create the ZeroMQ context.

        :param reactor: for all connections; None for the process's reactor.
        """
        if reactor is not None:
            self.reactor = reactor
        self.connections: set[ZmqConnection] = set()
        self.context: zmq.Context[zmq.Socket[bytes]] = _Context(self.ioThreads)
        # Any: Twisted does not say what a trigger's id is.
        self.trigger: Any = None
        this = weakref.ref(self)
        self.guard = Guard(lambda: getattr(this(), "reactor", None))
        _factories.add(self)
        # An ordered set.
        self._callbacks: dict[Callable[[], None], None] = {}

    def __repr__(self) -> str:
        return "ZmqFactory()"

    def shutdown(self) -> None:
        """Close all connections and the context.

        Blocks for :attr:`lingerPeriod` milliseconds at most, and only if unsent messages are
        left. Sockets that the application opened on :attr:`context` are closed too; for one that
        libzmq knows and pyzmq does not, a quarter of a second more is waited, and a warning
        logged. May be called from a callback, and again.
        """
        self.guard.check()
        if self.closed:
            return
        self.closed = True
        trigger, self.trigger = self.trigger, None
        if trigger is not None:
            self._removeTrigger(trigger)
        for callback in list(self._callbacks):
            try:
                callback()
            except Exception:  # noqa: BLE001 - the others must be called too
                _log.failure("{callback} failed at shutdown", callback=callback)
        self._callbacks.clear()
        for connection in list(self.connections):
            try:
                connection.shutdown()
            except Exception:  # noqa: BLE001 - a subclass's own; the others must be closed too
                _log.failure("{connection} failed to shut down", connection=connection)
        self._closeContext()

    def _closeContext(self) -> None:
        # Not context.term() here: that waits without end for a socket that somebody left open, or
        # closed with messages in it and no linger of its own.
        closing = threading.Thread(
            target=self.context.destroy, kwargs={"linger": self.lingerPeriod}, daemon=True
        )
        closing.start()
        closing.join(None if self.lingerPeriod < 0 else self.lingerPeriod / 1000 + _CLOSING_TIME)
        if closing.is_alive():
            _log.warn(
                "the ZeroMQ context still waits for a socket, in the background; "
                "was one closed with LINGER -1, or is one used by another context?"
            )

    def _removeTrigger(self, trigger: Any) -> None:
        try:
            self.reactor.removeSystemEventTrigger(trigger)
        except (KeyError, ValueError, TypeError):
            pass  # the reactor is calling it right now

    def callWhenClosed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called by :meth:`shutdown`, before the connections are closed.

        :return: a function that takes this back; it may be called again.
        """
        self._callbacks[callback] = None

        def take_back() -> None:
            self._callbacks.pop(callback, None)

        return take_back

    def registerForShutdown(self) -> None:
        """Have :meth:`shutdown` called when the reactor stops; recommended for every factory."""
        self.guard.check()
        if self.trigger is None:
            self.trigger = self.reactor.addSystemEventTrigger("during", "shutdown", self._stopping)

    def _stopping(self) -> None:
        if not self.guard.forked:  # a child that ends the reactor that it got from its parent
            self.shutdown()


_factories: weakref.WeakSet[ZmqFactory] = weakref.WeakSet()


def _forked(factory: ZmqFactory) -> None:
    """Have a factory's child go on: with a new context if nothing was started in the old one."""
    context = factory.context
    if isinstance(context, _Context):  # an application may have set one of its own
        context.forked = True
        if not context.used:
            factory.context = _Context(factory.ioThreads)
            return
    factory.guard.fork()


def _afterForkInChild() -> None:
    for factory in list(_factories):
        _forked(factory)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_afterForkInChild)
