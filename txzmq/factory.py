"""The ZeroMQ context of an application, and all its connections."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq
from twisted.logger import Logger

from txzmq._arguments import callable_or_raise, wrong_type
from txzmq._guard import Guard
from txzmq._inproc import InprocAddresses
from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Reactor, default_reactor
from txzmq._zap import Authenticator, Decision
from txzmq.auth import CurveServerCredentials
from txzmq.connection import ZmqConnection

__all__ = ["ZmqFactory"]

_log = Logger()

#: Seconds beyond the linger period that libzmq gets to close a context. It takes 5 ms, and 15 on a
#: busy machine.
_CLOSING_TIME = 0.25


class _DefaultReactor:
    """``factory.reactor`` until somebody sets it: the process's reactor, looked up when used.

    Not a data descriptor, so that ``factory.reactor = r`` and ``reactor = r`` in a subclass
    both override it.
    """

    def __get__(self, instance: object, owner: type) -> Reactor:
        return default_reactor()


class _Context(zmq.Context[zmq.Socket[bytes]]):
    """A context that may become garbage, or belong to the parent of a forked child."""

    # Class attributes, because zmq.Context takes other names for options.
    #: Whether a socket was made; libzmq starts its threads with the first one.
    used = False
    #: Whether this process is a forked child. It lacks libzmq's threads, and must not close this.
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
        # zmq.Context calls term() here, which waits for the sockets; they are garbage, too, and may
        # be closed only after this returns. So a thread calls it, and not a threading.Thread, whose
        # locks may be held while garbage is collected.
        _thread.start_new_thread(self.term, ())


class ZmqFactory:
    """Owns a ZeroMQ context and keeps track of the connections that use it.

    An application needs one. Set :attr:`ioThreads` in a subclass, and the other attributes there,
    or on the instance before making connections.

    Once the reactor runs, only its thread may use a factory and its connections; others get
    :class:`~txzmq.WrongThreadError`. A forked child gets :class:`~txzmq.ForkedError`, and must make
    a factory of its own. But a factory that had no connection before the fork (such as that of a
    ``.tac`` file, which twistd reads before it forks) can be used in the child.

    :ivar connections: all connections that are open.
    :ivar context: the ``zmq.Context``; closed after :meth:`shutdown`.
    """

    #: The reactor of all connections; the process's own unless set.
    reactor: Reactor = _DefaultReactor()  # type: ignore[assignment]  # a descriptor gives it
    #: How many I/O threads ZeroMQ uses.
    ioThreads: int = 1
    #: How many sockets may be open at a time, from 1 to 65,535; libzmq's own default is 1,023. A
    #: channel's endpoint takes three, six once it has streams, since watching a connection takes
    #: two. It cannot be raised once a socket exists. The table for so many takes 0.8 MB.
    maxSockets: int = 65_535
    #: Milliseconds for which :meth:`shutdown` may block to get unsent messages out; -1 for ever.
    lingerPeriod: int = 100
    #: Whether :meth:`shutdown` was called; no connection can be made any more.
    closed: bool = False

    def __init__(self, reactor: Reactor | None = None) -> None:
        """Create the ZeroMQ context.

        :param reactor: for all connections; None for the process's reactor.
        """
        if reactor is not None:
            if not hasattr(reactor, "callLater"):
                raise wrong_type("reactor", "a reactor, or None for the process's own", reactor)
            self.reactor = reactor
        self.connections: set[ZmqConnection] = set()
        self.context: zmq.Context[zmq.Socket[bytes]] = self._makeContext()
        #: Where its connections listen by inproc.
        self.inproc = InprocAddresses()
        # Any: Twisted does not say what a trigger's id is.
        self.trigger: Any = None
        this = weakref.ref(self)
        self.guard = Guard(lambda: getattr(this(), "reactor", None))
        _factories.add(self)
        self._callbacks: OrderedSet[Callable[[], None]] = OrderedSet()
        # Decides about the clients of sockets with credentials; None while there is none.
        self._authenticator: Authenticator | None = None

    def __repr__(self) -> str:
        return "ZmqFactory()"

    def _makeContext(self) -> _Context:
        context = _Context(self.ioThreads)
        context.set(zmq.MAX_SOCKETS, self.maxSockets)
        return context

    def renewContext(self) -> None:
        """Replace the context; for a forked child that has the unused one of its parent."""
        self.context = self._makeContext()

    def shutdown(self) -> None:
        """Close all connections and the context.

        Blocks for :attr:`lingerPeriod` milliseconds at most, and only if unsent messages are
        left. Sockets that the application opened on :attr:`context` are closed too. For one that
        libzmq knows and pyzmq does not, this waits a quarter of a second more, and logs a warning.
        May be called from a callback, and again.
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
        if self._authenticator is not None:
            self._authenticator.shutdown()
        self._closeContext()

    def _closeContext(self) -> None:
        # In a thread, since closing a context waits without end for a socket that somebody left
        # open, or closed with messages in it and no linger of its own.
        closing = threading.Thread(
            target=self.context.destroy, kwargs={"linger": self.lingerPeriod}, daemon=True
        )
        try:
            closing.start()
        except RuntimeError:  # Python ends, and starts no more threads
            self.context.destroy(linger=self.lingerPeriod)
            return
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
            pass  # the trigger is being called right now

    def callWhenClosed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called by :meth:`shutdown`, before the connections are closed.

        :return: a function that takes this back; it may be called again.
        """
        callable_or_raise("callback", callback)
        self._callbacks.add(callback)
        return partial(self._callbacks.discard, callback)

    def domainOf(self, credentials: CurveServerCredentials) -> bytes:
        """The ZAP domain of a server's credentials; from now on, somebody decides about clients.

        :raises RuntimeError: if something else decides in this context already, such as an
            authenticator of ``zmq.auth``.
        """
        self.guard.check()
        if self._authenticator is None or self._authenticator.socket is None:
            self._authenticator = Authenticator(self)
        return self._authenticator.domain_of(credentials)

    def watchClients(
        self, credentials: CurveServerCredentials, callback: Callable[[Decision], None]
    ) -> Callable[[], None]:
        """Have *callback* called with what is decided about clients of a server's credentials.

        Of this factory's sockets only. What it raises is logged.

        :return: a function that takes this back.
        :raises RuntimeError: as :meth:`domainOf`.
        """
        self.domainOf(credentials)
        assert self._authenticator is not None, "it has just been made"
        return self._authenticator.watch(credentials, callback)

    def registerForShutdown(self) -> None:
        """Have :meth:`shutdown` called when the reactor stops; recommended for every factory."""
        self.guard.check()
        if self.trigger is None:
            self.trigger = self.reactor.addSystemEventTrigger("during", "shutdown", self._stopping)

    def _stopping(self) -> None:
        if not self.guard.forked:  # a child may stop the reactor that it has from its parent
            self.shutdown()


_factories: weakref.WeakSet[ZmqFactory] = weakref.WeakSet()


def _forked(factory: ZmqFactory) -> None:
    """In a child: give a factory a new context if the old one had no socket, else block it."""
    context = factory.context
    if isinstance(context, _Context):  # the application may have set another
        context.forked = True
        if not context.used:
            factory.renewContext()
            return
    factory.guard.fork()


def _afterForkInChild() -> None:
    for factory in list(_factories):
        _forked(factory)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_afterForkInChild)
