"""What is said when a socket cannot listen: where, why, and who to look for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final, Protocol

import zmq
from twisted.internet.error import CannotListenError

__all__ = ["CannotListen", "cannotListen", "no_folder", "no_interface", "why_not"]

#: Errors of bind() that are about the address, not about the socket.
_OF_THE_ADDRESS: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EISDIR,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        # libzmq has numbers of its own where the system has none.
        int(zmq.Errno.EADDRINUSE),
        int(zmq.Errno.EADDRNOTAVAIL),
    }
)


class CannotListen(CannotListenError, zmq.ZMQError):
    """A socket cannot listen at an address: Twisted's error, and libzmq's.

    :ivar address: where.
    :ivar interface: the host, as in Twisted; of other transports than TCP, what follows ``://``.
    :ivar port: the port; 0 of other transports than TCP.
    :ivar errno: the system's error.
    """

    def __init__(self, address: str, number: int, why: str) -> None:
        """:param why: in words, with what to do."""
        host, port = _parts(address)
        error = OSError(number, os.strerror(number))
        CannotListenError.__init__(self, host, port, error)  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
        self.address = address
        self.errno = number
        self.strerror = f"cannot listen at {address}: {why}"

    def __str__(self) -> str:
        return self.strerror


class _Bound(Protocol):
    """What is to be known of the other connections of a factory."""

    @property
    def endpoints(self) -> Iterable[tuple[str, str]]:
        """Type and address of each."""
        ...


def cannotListen(address: str, error: zmq.ZMQError, others: Iterable[_Bound]) -> zmq.ZMQError:
    """The error for an address that libzmq did not bind; the same one if it is not about that.

    :param others: the connections of the same factory.
    """
    number = error.errno or 0
    if number not in _OF_THE_ADDRESS:
        return error
    return CannotListen(address, number, why_not(address, number, others))


def _parts(address: str) -> tuple[str, int]:
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp":
        return rest, 0
    return host, int(port) if port.isascii() and port.isdecimal() else 0


def why_not(address: str, number: int, others: Iterable[_Bound] = ()) -> str:
    """Why nothing can listen at an address, and what to do.

    :param number: the system's error, or libzmq's.
    :param others: the connections of the same factory.
    """
    host, port = _parts(address)
    is_tcp = address.startswith("tcp://")
    if number in (errno.EADDRINUSE, zmq.Errno.EADDRINUSE):
        return _in_use(address, port, others)
    if number in (errno.EADDRNOTAVAIL, zmq.Errno.EADDRNOTAVAIL):
        return f"{host} is no address of this machine"
    if number == errno.ENODEV:
        return no_interface(host)
    if is_tcp and number in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        return (
            f"ports below 1024 such as {port} are for root; take another, or give the process the "
            "capability CAP_NET_BIND_SERVICE"
        )
    if number in (errno.ENOENT, errno.ENOTDIR):
        return no_folder(os.path.dirname(host))
    return os.strerror(number)


def no_folder(folder: str) -> str:
    """Why nothing listens at a path in a folder that there is not."""
    return f"there is no folder {folder!r}; make it first"


def no_interface(host: str) -> str:
    """Why nothing listens at a host that is neither an IP address nor an interface."""
    return (
        f"this machine has no interface {host!r}, and names of hosts are not looked up for "
        "listening; give an IP address"
    )


def _in_use(address: str, port: int, others: Iterable[_Bound]) -> str:
    if address.startswith("inproc://"):
        return "it is in use: another connection of the same ZmqFactory is bound to it"
    if any(
        address == bound for other in others for kind, bound in other.endpoints if kind == "bind"
    ):
        return "it is in use: another connection of the same ZmqFactory is bound to it"
    if not port:
        return "it is in use by another socket, of this process or another"
    return (
        f"port {port} is in use by another socket, of this process or another, or was a moment "
        f"ago. On Linux, ss -ltnp 'sport = :{port}' says whose it is; elsewhere, "
        f"lsof -nP -iTCP:{port} -sTCP:LISTEN"
    )
