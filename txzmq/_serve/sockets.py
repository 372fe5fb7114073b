"""The listening sockets, which the supervisor keeps while workers come and go."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from txzmq._listening import CannotListen, why_not
from txzmq._serve.addresses import SYSTEMD
from txzmq.rpc._net.addresses import split_scheme, split_tcp, tcp_address
from txzmq.rpc._net.ipc import claim
from txzmq.rpc._net.reading import ip_of
from txzmq.rpc._net.twin import Twin, place_of

__all__ = ["ListeningSocket", "open_all", "open_socket"]

_INT: Final = struct.Struct("=i")
#: Connections that wait to be accepted, while a worker starts again for instance. The system
#: lowers it to its own limit, ``net.core.somaxconn``.
_BACKLOG: Final = 4096
_HOSTS: Final = {"*": "0.0.0.0", "localhost": "127.0.0.1", "lo": "127.0.0.1"}  # noqa: S104 - read


class ListeningSocket:
    """A socket that listens.

    :ivar address: where, with the port that the system has chosen.
    :ivar path: of ipc, to be removed in the end; empty if there is none, or it is another's.
    """

    def __init__(self, fd: int, address: str, path: str = "") -> None:
        """:param fd: its descriptor, which is this object's from now on."""
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        self._fd = fd
        self.address = address
        self.path = path
        self._file = _file_at(path)

    def fileno(self) -> int:
        """Its descriptor; -1 when it is closed."""
        return self._fd

    def close(self) -> None:
        """Refuse connections from now on, unless somebody else has it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        # Somebody may have removed it, and have another server there by now.
        if self._file is not None and _file_at(self.path) == self._file:
            with suppress(OSError):
                os.unlink(self.path)


def _file_at(path: str) -> tuple[int, int] | None:
    """What tells the file at a path from any other; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_all(addresses: Iterable[str], passed: Mapping[str, list[int]]) -> list[ListeningSocket]:
    """Listen at these addresses; all, or none.

    :param passed: descriptors that systemd has passed, by their names.
    :raises CannotListenError: if one is in use, or cannot be listened at.
    :raises InsecureBindError: if others can lead the path of ipc elsewhere, by a link.
    :raises ValueError: if systemd has passed no such socket, or one that is none.
    """
    opened: list[ListeningSocket] = []
    taken: set[int] = set()
    try:
        for address in addresses:
            if address == SYSTEMD or address.startswith(f"{SYSTEMD}:"):
                name = address.partition(":")[2]
                for fd in _descriptors(address, name, passed):
                    if fd in taken:
                        raise ValueError(
                            f"--listen={address}: a socket of systemd's is given twice; each is "
                            "for one process"
                        )
                    taken.add(fd)
                    opened.append(_passed(fd))
            else:
                opened.append(open_socket(address))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def open_socket(address: str) -> ListeningSocket:
    """Listen at an address.

    :raises CannotListenError: if it is in use, or cannot be listened at.
    :raises InsecureBindError: if others can lead the path of ipc elsewhere, by a link.
    """
    try:
        if split_scheme(address)[0] == "ipc":
            return _open_path(address)
        return _open_port(address)
    except OSError as error:
        number = error.errno or errno.EINVAL
        raise CannotListen(address, number, why_not(address, number)) from None


def _open_port(address: str) -> ListeningSocket:
    parts = split_tcp(address)
    assert parts is not None, "it was parsed"
    written, port = parts
    host = _HOSTS.get(written, written).strip("[]")
    ip = ip_of(host)
    if ip is None:
        raise CannotListen(address, errno.EADDRNOTAVAIL, f"{host} is no IP address; give one")
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As libzmq: [::] takes clients by IPv4, too.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind((str(ip), 0 if port == "*" else int(port)))
        opened.listen(_BACKLOG)
    except BaseException:
        opened.close()
        raise
    port = opened.getsockname()[1]
    return ListeningSocket(opened.detach(), f"tcp://{written}:{port}")


def _open_path(address: str) -> ListeningSocket:
    path = split_scheme(address)[1]
    is_abstract = path.startswith("@")
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with claim(address):
            if not is_abstract:
                with suppress(FileNotFoundError):
                    os.unlink(path)  # of a server that is no more
            opened.bind(f"\0{path[1:]}" if is_abstract else path)
            opened.listen(_BACKLOG)
    except BaseException:
        opened.close()
        raise
    path = "" if is_abstract else os.path.abspath(path)
    return ListeningSocket(opened.detach(), address, path)


# -- systemd ------------------------------------------------------------------------------------


def _descriptors(given: str, name: str, passed: Mapping[str, list[int]]) -> list[int]:
    if not passed:
        raise ValueError(
            f"--listen={given}: systemd has passed no socket; a .socket unit of the same name does"
        )
    if not name:
        return [fd for fds in passed.values() for fd in fds]
    if name not in passed:
        raise ValueError(
            f"--listen={given}: systemd has passed no socket with FileDescriptorName={name}, but "
            f"{', '.join(sorted(passed))}"
        )
    return passed[name]


def _passed(fd: int) -> ListeningSocket:
    """A socket that systemd has passed.

    :raises ValueError: if it is none that listens, of tcp or ipc.
    """
    passed = f"systemd has passed the descriptor {fd}"
    try:
        with Twin(fd) as twin:
            place = place_of(twin.name())
            (listens,) = _INT.unpack(twin.option(socket.SOL_SOCKET, socket.SO_ACCEPTCONN, 4))
    except (OSError, struct.error) as error:
        raise ValueError(f"{passed}, no socket: {error}") from None
    if not listens:
        raise ValueError(
            f"{passed}, which does not listen: the .socket unit needs ListenStream= and Accept=no"
        )
    if isinstance(place, tuple):
        return ListeningSocket(fd, tcp_address(*place))
    if place:  # a path is systemd's own
        return ListeningSocket(fd, f"ipc://{os.fsdecode(place).replace(chr(0), '@', 1)}")
    raise ValueError(f"{passed}, of neither tcp nor ipc")
