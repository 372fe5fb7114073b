"""The socket of a connection, which notices when somebody else touches it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from txzmq._guard import Guard

__all__ = ["WatchedSocket", "watch"]


class Owner(Protocol):
    """What a socket needs of its connection."""

    @property
    def guard(self) -> Guard:
        """The thread in which the socket may be used."""
        ...

    def scheduleRead(self) -> None:
        """Look for messages soon."""
        ...

    def collected(self) -> None:
        """The socket is garbage; called in any thread."""
        ...

    def shutdown(self) -> None:
        """Somebody has closed the socket."""
        ...


class WatchedSocket(zmq.Socket[bytes]):
    """A socket that tells its connection when somebody else touches it.

    Almost every libzmq call may consume the signal on the socket's file descriptor while input
    waits, so whoever uses ``connection.socket`` directly would make the reactor miss messages.
    """

    # A class attribute, because zmq.Socket takes other names for socket options.
    connection: Owner | None = None

    def touched(self) -> None:
        """Have the connection look for messages, as the signal may be consumed."""
        if self.connection is not None:
            self.connection.scheduleRead()

    def check(self) -> None:
        """Raise unless the current thread may touch the socket."""
        if self.connection is not None:
            self.connection.guard.check()

    def __del__(self) -> None:
        # Its connection is garbage, too, and this may be any thread. In a forked child the socket
        # is the parent's, and stays open.
        connection, self.connection = self.connection, None
        if connection is not None:
            if connection.guard.forked:
                return
            connection.collected()
            super().close()  # so that zmq.Socket does not warn: the factory's context warns for all
        super().__del__()

    def close(self, linger: int | None = None) -> None:
        """Close the socket and shut its connection down, whoever asked for it.

        The connection must leave the reactor before its descriptor is used again.
        """
        self.check()
        connection, self.connection = self.connection, None
        if connection is not None:
            if linger is not None:
                self.set(zmq.LINGER, linger)
            connection.shutdown()
        super().close(linger)


def _reporting(name: str) -> Callable[..., Any]:
    """The method *name* of ``zmq.Socket``; it checks the thread and reports the touch."""
    original = getattr(zmq.Socket, name)

    @functools.wraps(original)
    def method(self: WatchedSocket, *args: Any, **kwargs: Any) -> Any:
        self.check()
        try:
            return original(self, *args, **kwargs)
        finally:
            self.touched()

    return method


for _name in (
    "bind",
    "connect",
    "disconnect",
    "get",
    "getsockopt",
    "monitor",
    "poll",
    "recv",
    "recv_into",
    "send",
    "set",
    "setsockopt",
    "unbind",
):
    if hasattr(zmq.Socket, _name):  # recv_into came with pyzmq 27.1
        setattr(WatchedSocket, _name, _reporting(_name))


def watch(socket: zmq.Socket[bytes], owner: Owner | None) -> None:
    """Have a watched socket tell a connection from now on; None for nobody."""
    assert isinstance(socket, WatchedSocket), "its connection has made it"
    socket.connection = owner
