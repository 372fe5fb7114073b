"""What happens to a socket's connections: connected, disconnected, handshake failed, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import zmq
from zmq.utils.monitor import parse_monitor_message

from txzmq.connection import ZmqConnection, ZmqEndpoint, ZmqEndpointType

__all__ = ["SocketEvent", "ZmqMonitor"]


class SocketEvent(NamedTuple):
    """One event of a socket, as in ``zmq_socket_monitor(3)``.

    :ivar event: one of ``zmq.Event``, such as ``zmq.EVENT_DISCONNECTED``.
    :ivar value: for most events the file descriptor, for failures the errno, for
        ``CONNECT_RETRIED`` the interval in milliseconds.
    :ivar endpoint: the local endpoint where a socket bound or connected.
    """

    event: zmq.Event
    value: int
    endpoint: str


class ZmqMonitor(ZmqConnection):
    """Watches another connection's socket from within the reactor.

    It is shut down with the connection that it watches. inproc has no events.
    """

    socketType = zmq.PAIR
    #: No limit: at one, libzmq's I/O thread would wait for the reactor.
    highWaterMark = 0

    def __init__(
        self,
        watched: ZmqConnection,
        handler: Callable[[SocketEvent], None],
        events: int = zmq.EVENT_ALL,
    ) -> None:
        """
        :param watched: the connection; it can have one monitor.
        :param handler: called with each event, in order. An exception is logged.
        :param events: which events, a mask of ``zmq.Event``. Ask for few: a listener that is
            out of file descriptors reports 30,000 failed accepts a second.
        :raises ValueError: if the connection has a monitor or is shut down.
        """
        if watched.factory is None or watched.socket is None or watched.hasMonitor():
            raise ValueError(f"{watched!r} cannot be monitored: it is closed, or is already")
        address = f"inproc://monitor.s-{watched.fd}"
        watched.socket.monitor(address, events)
        self._watched = watched
        self._handler = handler
        super().__init__(watched.factory, ZmqEndpoint(ZmqEndpointType.connect, address))
        watched.attachMonitor(self)

    def shutdown(self) -> None:
        """Stop watching."""
        if self.socket is not None and self._watched.socket is not None:
            # While this end is open: libzmq sends a last event, and waits for ever to do so.
            self._watched.socket.disable_monitor()
            self._watched.attachMonitor(None)
        super().shutdown()

    def messageReceived(self, message: list[bytes]) -> None:
        """Parse an event and pass it on."""
        # Any: pyzmq types the dictionary's values loosely.
        fields = cast("dict[str, Any]", parse_monitor_message(message))
        self._handler(
            SocketEvent(zmq.Event(fields["event"]), fields["value"], fields["endpoint"].decode())
        )
