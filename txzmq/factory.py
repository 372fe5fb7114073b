"""The ZeroMQ context of an application, and all its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

from txzmq._reactor import Reactor, default_reactor

if TYPE_CHECKING:
    from txzmq.connection import ZmqConnection

__all__ = ["ZmqFactory"]


class _DefaultReactor:
    """``factory.reactor`` until somebody sets it: the process's reactor, looked up when used.

    Not a data descriptor, so that ``factory.reactor = r`` and ``reactor = r`` in a subclass
    both win over it.
    """

    def __get__(self, instance: object, owner: type) -> Reactor:
        return default_reactor()


class ZmqFactory:
    """Owns a ZeroMQ context and keeps track of the connections that use it.

    An application needs one. Set :attr:`ioThreads` in a subclass, the others there or on the
    instance before making connections.

    :ivar connections: all connections that are open.
    :ivar context: the ``zmq.Context``; closed after :meth:`shutdown`.
    """

    #: The reactor of all connections; the process's own unless set.
    reactor: Reactor = _DefaultReactor()  # type: ignore[assignment]  # a descriptor gives it
    #: How many I/O threads ZeroMQ uses.
    ioThreads: int = 1
    #: Milliseconds for which :meth:`shutdown` may block to get unsent messages out; -1 for ever.
    lingerPeriod: int = 100

    def __init__(self, reactor: Reactor | None = None) -> None:
        """Create the ZeroMQ context.

        :param reactor: for all connections; None for the process's reactor.
        """
        if reactor is not None:
            self.reactor = reactor
        self.connections: set[ZmqConnection] = set()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(self.ioThreads)
        # Any: Twisted does not say what a trigger's id is.
        self.trigger: Any = None

    def __repr__(self) -> str:
        return "ZmqFactory()"

    def shutdown(self) -> None:
        """Close all connections and the context.

        Blocks for :attr:`lingerPeriod` milliseconds at most, and only if unsent messages are
        left. May be called from a callback, and again.
        """
        trigger, self.trigger = self.trigger, None
        if trigger is not None:
            self._removeTrigger(trigger)
        for connection in list(self.connections):
            connection.shutdown()
        if not self.context.closed:
            # Not term(): that waits for ever for a socket which somebody else left open.
            self.context.destroy(linger=self.lingerPeriod)

    def _removeTrigger(self, trigger: Any) -> None:
        try:
            self.reactor.removeSystemEventTrigger(trigger)
        except (KeyError, ValueError, TypeError):
            pass  # the reactor is calling it right now

    def registerForShutdown(self) -> None:
        """Have :meth:`shutdown` called when the reactor stops; recommended for every factory."""
        if self.trigger is None:
            self.trigger = self.reactor.addSystemEventTrigger("during", "shutdown", self.shutdown)
