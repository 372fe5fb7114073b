"""Which security mechanism a peer has, where libzmq's events do not tell."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.python.failure import Failure

from txzmq._reactor import Reactor
from txzmq._timer import ResettableTimer
from txzmq.rpc._net.addresses import split_scheme, split_tcp

__all__ = ["GreetingProbe"]

#: Seconds for which a peer's greeting is waited for.
_PATIENCE: Final = 0.5
#: Of a greeting: its size, where its mechanism stands, and the part before all else. See RFC 23.
_SIZE: Final = 64
_MECHANISM: Final = slice(12, 32)
_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
_MAJOR_VERSION: Final = b"\x03"


class GreetingProbe:
    """Reads the greeting of a ZeroMQ socket by a connection of its own.

    When the mechanisms of two sides differ, each ends the connection as soon as it has read the
    other's. The one that reads first closes it before its own greeting is sent, so that the other
    does not learn why. This sends no mechanism, and so gets to read the peer's. It sends nothing
    before the peer has: who waits for its client to speak first is no ZeroMQ socket.
    """

    def __init__(self, reactor: Reactor, address: str, told: Callable[[str], None]) -> None:
        """
        :param address: of tcp, with an IP address, or of ipc.
        :param told: called once, in a later turn, with the peer's mechanism, such as ``CURVE``;
            empty if it is not known after half a second. Not called after :meth:`stop`.
        """
        self._reactor = reactor
        self._told = told
        self._received = b""
        self._timer = ResettableTimer(reactor, self._finish)
        self._timer.start(_PATIENCE)
        self._socket: socket.socket | None = None
        try:
            self._socket = _connect(address)
        except (OSError, ValueError):
            self._timer.start(0)  # no descriptor is left, for instance
        else:
            reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor that the reactor watches; -1 at the end."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """What log lines of the reader begin with."""
        return "ZMQ"

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when it stops reading the descriptor."""
        self._finish()

    def doRead(self) -> None:
        """Read a part of the greeting."""
        assert self._socket is not None, "the reactor reads it"
        try:
            data = self._socket.recv(_SIZE - len(self._received))
            if data and not self._received:
                self._socket.send(_SIGNATURE + _MAJOR_VERSION)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or len(self._received) == _SIZE:
            self._finish()

    def stop(self) -> None:
        """Close the connection; nothing is left in the reactor."""
        self._timer.stop()
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = None

    def _finish(self) -> None:
        self.stop()
        greeting = self._received
        is_whole = len(greeting) == _SIZE and greeting[0] == _SIGNATURE[0]
        name = greeting[_MECHANISM].rstrip(b"\0") if is_whole else b""
        self._told(name.decode("ascii", "replace"))


def _connect(address: str) -> socket.socket:
    """Begin to connect.

    :raises OSError: if that fails at once.
    :raises ValueError: if no such socket can be made.
    """
    scheme, path = split_scheme(address)
    tcp = split_tcp(address)
    place: Any  # Any: of the forms that addresses of sockets have
    if tcp is not None:
        host = tcp[0].rpartition(";")[2].strip("[]")
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, int(tcp[1]), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        made = socket.socket(family, kind, protocol)
    elif scheme == "ipc":
        place = b"\0" + path[1:].encode() if path[0] == "@" else path.encode()
        made = socket.socket(socket.AF_UNIX)
    else:
        raise ValueError(address)
    made.setblocking(False)
    try:
        made.connect(place)
    except BlockingIOError:
        pass  # it goes on
    except OSError:
        made.close()
        raise
    return made
