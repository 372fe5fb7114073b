"""Events of a socket's connections: connected, disconnected, handshake failed, ..."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import zmq

from txzmq._arguments import callable_or_raise, wrong_type
from txzmq._backend import monitor, noSocket
from txzmq.connection import ZmqConnection, ZmqEndpoint, ZmqEndpointType

__all__ = ["ATTEMPT_EVENTS", "CONNECTION_EVENTS", "SocketEvent", "ZmqMonitor"]

#: The events that tell whether a peer can be reached: a few per connection, and none that a
#: stranger or a lack of file descriptors can cause by the thousand.
CONNECTION_EVENTS: Final[int] = int(
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

#: Also that an attempt to connect has begun, and waits for an answer.
ATTEMPT_EVENTS: Final[int] = CONNECTION_EVENTS | int(zmq.EVENT_CONNECT_DELAYED)

# An unsigned number of 16 bits and a signed one of 32, in the machine's byte order.
_EVENT: Final = struct.Struct("=Hi")

# Of zmq.Socket, as that of the connection's own class checks the thread and schedules a read.
_monitor = zmq.Socket[bytes].monitor

# For the names of the sockets between libzmq and a monitor. They are numbered, not named after the
# watched socket's descriptor: libzmq closes its end late, and the name would still be taken.
_names = itertools.count(1)


class SocketEvent(NamedTuple):
    """One event of a socket, as in ``zmq_socket_monitor(3)``.

    :ivar event: one of ``zmq.Event``, such as ``zmq.EVENT_DISCONNECTED``.
    :ivar value: for most events the file descriptor, for failures the errno, for
        ``CONNECT_RETRIED`` the interval in milliseconds.
    :ivar endpoint: the endpoint of the socket where it happened.
    """

    event: zmq.Event
    value: int
    endpoint: str


class ZmqMonitor(ZmqConnection):
    """Watches another connection's socket from within the reactor.

    It is shut down with the connection that it watches, and is not among the factory's
    ``connections``. inproc has no events.
    """

    socketType = zmq.PAIR
    credentials = None
    #: No limit, since libzmq's I/O thread would wait for the reactor when it is reached.
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
        :raises zmq.ZMQError: if libzmq cannot make the sockets.
        """
        # Callers without a type checker may pass anything.
        if not isinstance(watched, ZmqConnection):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("watched", "a ZmqConnection", watched)
        callable_or_raise("handler", handler)
        factory, socket = watched.factory, watched.socket
        if factory is None or socket is None or watched.monitor is not None:
            raise ValueError(f"{watched!r} cannot be monitored: it is closed, or has a monitor")
        address = f"inproc://txzmq.monitor.{next(_names)}"
        self._watched = watched
        self._handler = handler
        # This end is made first, since libzmq's end waits for it with each event. It is connected
        # last: a connection that nobody binds for, as there is no socket left for libzmq's end,
        # ends the process when the context is closed.
        super().__init__(factory)
        try:
            monitor(socket, address, events)
            watched.scheduleRead()  # it may have consumed the signal of a message
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])
        except BaseException as error:
            super().shutdown()
            if isinstance(error, zmq.ZMQError):
                raise noSocket(factory.context, error) from None
            raise
        watched.attachMonitor(self)
        factory.connections.discard(self)

    def shutdown(self) -> None:
        """Stop watching; the handler is not called any more."""
        self.guard.check()
        if self._watched.detachMonitor(self) and self._watched.socket is not None:
            # While this end is open: libzmq sends a last event, and waits for ever to do so.
            try:
                self._watched.socket.disable_monitor()
            except zmq.ZMQError:
                pass  # somebody has closed the socket, or the context
        super().shutdown()

    def collected(self) -> None:
        """Stop libzmq's events while this end is open, as in :meth:`shutdown`."""
        socket = self._watched.socket
        if socket is not None and self._watched.detachMonitor(self):
            with suppress(zmq.ZMQError):
                _monitor(socket, None, 0)

    def catchUp(self) -> None:
        """Tell the handler, now, of all events so far.

        Does nothing from within the handler.
        """
        while not (self._reading or self._readSome()):
            pass

    def messageReceived(self, message: list[bytes]) -> None:
        """Parse an event and pass it on; what is none is dropped and counted."""
        if len(message) != 2 or len(message[0]) != _EVENT.size:
            self.discard("malformed")
            return
        event, value = _EVENT.unpack(message[0])
        self._handler(SocketEvent(zmq.Event(event), value, message[1].decode(errors="replace")))
