"""A connection that a socket of libzmq has accepted: libzmq has no way to end a single one."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

from txzmq.rpc._net.addresses import ip_of, split_scheme, split_tcp
from txzmq.rpc._net.twin import Twin, place_of

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
        with suppress(OSError, AttributeError, struct.error), Twin(self.descriptor) as twin:
            if twin.inode != self.inode:
                return None
            info = twin.option(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
            (acknowledged,) = _ACKNOWLEDGED.unpack(info)
            return int(acknowledged) or None
        return None

    def end(self) -> None:
        """Shut it down, whereupon libzmq closes it and forgets all about the peer.

        Nothing happens to what else may have the descriptor by now.
        """
        with suppress(OSError), Twin(self.descriptor) as twin:
            if twin.inode == self.inode and _is_at(twin.name(), self.endpoint):
                twin.shutdown()


def accepted(descriptor: int | None, endpoint: str) -> AcceptedConnection | None:
    """The connection that has a descriptor; None if there is none, or it has ended."""
    if descriptor is None:
        return None
    try:
        return AcceptedConnection(descriptor, os.fstat(descriptor).st_ino, endpoint)
    except OSError:
        return None


def _is_at(name: bytes, endpoint: str) -> bool:
    """Whether a socket's own address is that of an endpoint."""
    scheme, path = split_scheme(endpoint)
    place = place_of(name)
    if scheme == "ipc":
        text = os.fsdecode(place) if isinstance(place, bytes) else ""
        return text.replace("\0", "@", 1) == path
    wanted = split_tcp(endpoint)
    if wanted is None or not isinstance(place, tuple):
        return False
    host, port = place
    listening = ip_of(wanted[0])
    everywhere = listening is not None and listening.is_unspecified
    return str(port) == wanted[1] and (everywhere or ip_of(host) == listening)
