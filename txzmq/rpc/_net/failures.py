"""Why a connection was not made, in words: libzmq's events tell only that it was not."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from txzmq._reactor import Clock
from txzmq.monitor import SocketEvent
from txzmq.rpc._net.addresses import ip_of, split_scheme, split_tcp

__all__ = [
    "ACCEPTED",
    "CLOSED_EARLY",
    "ENDED",
    "NO_HANDSHAKE",
    "Attempt",
    "handshake_failure",
    "is_mismatch",
    "is_unexplained",
    "mismatch",
    "refusal",
]

#: What is said of a peer that closes the connection, or sends nothing, in place of a handshake.
NO_HANDSHAKE: Final = (
    "something listens there that is no ZeroMQ socket (an HTTP server, for example), or one that "
    "does not take clients, as a publisher"
)
#: What is said of a peer that has accepted the connection, and not begun the handshake yet.
ACCEPTED: Final = (
    "it has accepted the connection, and has not spoken ZMTP yet: it may be no ZeroMQ socket (an "
    "HTTP server, for example), or be stopped or busy"
)
CLOSED_EARLY: Final = f"the connection was closed before the handshake was done: {NO_HANDSHAKE}"
#: What is said of a server that has let the client in before, and closes the next connection.
ENDED: Final = (
    "the connection was closed before the handshake was done: the server has ended or been busy, "
    "or has another key than before"
)
_NO_SERVER_KEY: Final = "the server has no credentials, and this client asks for them"
_NO_CLIENT_KEY: Final = "the server asks for a key, and this client has no credentials"
#: libzmq's numbers, of zmq.h.
_MECHANISM_MISMATCH: Final = 0x11000002
_CRYPTOGRAPHIC: Final = 0x11000001
_INVALID_METADATA: Final = 0x10000018
_PROTOCOL_ERRORS: Final = {
    _MECHANISM_MISMATCH: "one side uses a security mechanism that the other does not",
    _CRYPTOGRAPHIC: "the keys do not match",
    _INVALID_METADATA: "there is a ZeroMQ socket of another kind, such as a publisher's",
}


def handshake_failure(event: SocketEvent) -> str:
    """Why a handshake failed, by libzmq's event of it."""
    name, value = event.event.name or "", event.value
    if name == "HANDSHAKE_FAILED_AUTH":
        return f"the handshake failed: the server refuses this client (ZAP status {value})"
    if name == "HANDSHAKE_FAILED_PROTOCOL":
        why = _PROTOCOL_ERRORS.get(value, f"the protocol was broken (libzmq's error {value:#x})")
        return f"the handshake failed: {why}"
    if value in (errno.EPIPE, errno.ECONNRESET):
        return CLOSED_EARLY
    if value == errno.EAGAIN:  # the time was over
        return f"the handshake did not end in time: {NO_HANDSHAKE}"
    return f"the handshake failed ({os.strerror(value)}): {NO_HANDSHAKE}"


def is_mismatch(event: SocketEvent) -> bool:
    """Whether one side asks for keys, and the other has none."""
    is_protocol = event.event.name == "HANDSHAKE_FAILED_PROTOCOL"
    return is_protocol and event.value == _MECHANISM_MISMATCH


def is_unexplained(event: SocketEvent) -> bool:
    """Whether the peer has closed the connection, so that it may have another mechanism."""
    name = event.event.name
    if name == "HANDSHAKE_FAILED_NO_DETAIL":
        return event.value in (errno.EPIPE, errno.ECONNRESET)
    return name == "DISCONNECTED"


def mismatch(mechanism: str, *, has_keys: bool) -> str:
    """Why a client cannot talk to a server with such a mechanism; empty if it can, or may.

    :param has_keys: whether the client has credentials.
    """
    if mechanism == "NULL" and has_keys:
        return _NO_SERVER_KEY
    if mechanism == "CURVE" and not has_keys:
        return _NO_CLIENT_KEY
    return ""


def refusal(event: SocketEvent, *, has_keys: bool) -> str:
    """Why two sides do not trust each other, as far as libzmq tells.

    :param has_keys: whether the client has credentials.
    """
    if event.event.name == "HANDSHAKE_FAILED_AUTH":
        if event.value == 400:
            return "the server does not know this client's key"
        return f"the server cannot decide whether to let this client in (ZAP status {event.value})"
    if is_mismatch(event):
        return _NO_SERVER_KEY if has_keys else _NO_CLIENT_KEY
    return (
        "the handshake failed, and the server does not say why: its key may be another than the "
        f"server_keys of this client's credentials; or {NO_HANDSHAKE}"
    )


class Attempt:
    """The attempts of one socket to connect, and why the last one failed."""

    def __init__(self, clock: Clock, address: str, timeout: float) -> None:
        """:param timeout: seconds after which libzmq gives an attempt up; 0 for the system's."""
        self._clock = clock
        self._address = address
        self._timeout = timeout
        # When libzmq began to wait for an answer; None while it does not wait.
        self._began: float | None = None

    def observe(self, event: SocketEvent) -> None:
        """Note when an attempt begins."""
        if event.event.name == "CONNECT_DELAYED":
            self._began = self._clock.seconds()

    @property
    def failure(self) -> str:
        """Why the attempt failed that has just ended."""
        began, self._began = self._began, None
        waited = 0.0 if began is None else self._clock.seconds() - began
        return f"connecting failed: {self._why(waited)}"

    def _why(self, waited: float) -> str:
        if self._timeout and waited >= 0.9 * self._timeout:
            return f"no answer within {self._timeout:g} s; a firewall, or a machine that is down"
        number = _local_error(self._address)
        if split_scheme(self._address)[0] == "ipc":
            return _IPC_ERRORS.get(number, os.strerror(number))
        if number == errno.ECONNREFUSED:
            return "connection refused, nobody listens there"
        if number:
            return os.strerror(number)
        return "refused, or rejected on the way: nobody listens there, or no way leads there"


_IPC_ERRORS: Final = {
    0: "the attempt failed",
    errno.ENOENT: "there is no such socket; the server has not made it, or has removed it",
    errno.ECONNREFUSED: "connection refused, nobody listens there any more",
    errno.EACCES: "permission denied; the socket or a folder above it is for other users",
}


def _local_error(address: str) -> int:
    """The system's error when somebody connects to an address of this machine.

    Nothing is tried with other machines.

    :return: 0 if there is none, or none at once, or it is not known.
    """
    tcp = split_tcp(address)
    ip = None if tcp is None else ip_of(tcp[0])
    scheme, path = split_scheme(address)
    try:
        if tcp is not None and ip is not None and ip.is_loopback:
            family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
            return _error(socket.socket(family), (str(ip), int(tcp[1])))
        if scheme == "ipc":
            name = path.encode()
            return _error(
                socket.socket(socket.AF_UNIX), b"\0" + name[1:] if path[0] == "@" else name
            )
    except OSError:
        pass  # no descriptor is left, for instance
    return 0


def _error(probe: socket.socket, address: tuple[str, int] | bytes) -> int:
    with probe:
        probe.setblocking(False)
        # A connection that is made, with itself perhaps, leaves nothing behind.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        number = probe.connect_ex(address)
        if number in (errno.EINPROGRESS, errno.EAGAIN):
            # By loopback the answer is there already.
            number = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return number
