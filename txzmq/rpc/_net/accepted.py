"""A connection that a socket of libzmq has accepted: libzmq has no way to end a single one."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Any, Final, NamedTuple

from txzmq.rpc._net.addresses import ip_of, split_scheme, split_tcp

__all__ = ["AcceptedConnection", "accepted"]


#: Of Linux's ``struct tcp_info``: bytes that were acknowledged (since Linux 4.1).
_ACKNOWLEDGED: Final = struct.Struct("=120xQ")


class AcceptedConnection(NamedTuple):
    """A connection, by the descriptor that libzmq has for it.

    :ivar inode: tells it from a later connection that gets the same descriptor.
    :ivar endpoint: where the socket listens that has accepted it.
    """

    descriptor: int
    inode: int
    endpoint: str

    def is_open(self) -> bool:
        """Whether it has not ended."""
        with suppress(OSError):
            return os.fstat(self.descriptor).st_ino == self.inode
        return False

    def taken(self) -> int | None:
        """How many bytes the peer's host has acknowledged; None if it has ended, or not known.

        Only Linux tells, of TCP. Who has subscribed has taken our handshake, so a system that says
        that it has taken nothing does not count: some sandboxes have a TCP of their own.
        """
        with suppress(OSError, AttributeError, struct.error), _copy(self.descriptor) as twin:
            if os.fstat(twin.fileno()).st_ino != self.inode:
                return None
            info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
            (acknowledged,) = _ACKNOWLEDGED.unpack(info)
            return int(acknowledged) or None
        return None

    def end(self) -> None:
        """Shut it down, whereupon libzmq closes it and forgets all about the peer.

        Nothing happens to what else may have the descriptor by now.
        """
        with suppress(OSError), _copy(self.descriptor) as twin:
            is_it = os.fstat(twin.fileno()).st_ino == self.inode
            if is_it and _is_at(twin.getsockname(), self.endpoint):
                twin.shutdown(socket.SHUT_RDWR)


def accepted(descriptor: int | None, endpoint: str) -> AcceptedConnection | None:
    """The connection that has a descriptor; None if there is none, or it has ended."""
    if descriptor is None:
        return None
    try:
        return AcceptedConnection(descriptor, os.fstat(descriptor).st_ino, endpoint)
    except OSError:
        return None


def _copy(descriptor: int) -> socket.socket:
    """Another descriptor for the same socket.

    :raises OSError: if it is none.
    """
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)  # it finds out of which family it is
    except OSError:
        os.close(copy)
        raise


# Any: text, bytes, or a tuple of host, port and more, after the socket's family.
def _is_at(name: Any, endpoint: str) -> bool:
    """Whether a socket's own name is that of an endpoint."""
    scheme, path = split_scheme(endpoint)
    if scheme == "ipc":
        text = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        return text.replace("\0", "@", 1) == path
    place = split_tcp(endpoint)
    if place is None or not isinstance(name, tuple):
        return False
    host, port = str(name[0]), str(name[1])  # pyright: ignore[reportUnknownArgumentType]  # as above
    listening = ip_of(place[0])
    everywhere = listening is not None and listening.is_unspecified
    return port == place[1] and (everywhere or ip_of(host) == listening)
