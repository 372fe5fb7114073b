"""Listening sockets that a process was given, by a supervisor or by systemd, for libzmq to use.

Several processes may have one of them: whichever calls ``accept`` first gets a connection. So one
process can take the place of another, and no client is refused meanwhile.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from txzmq.rpc._net.addresses import ip_of, split_scheme, split_tcp, tcp_address
from txzmq.rpc._net.twin import Twin, libc, place_of

__all__ = ["accept_no_more", "duplicate", "endpoint_of"]

_INT: Final = struct.Struct("=i")
#: One descriptor that an instance of epoll watches, in ``/proc/self/fdinfo``: with its events, and
#: what whoever watches it has put there.
_WATCHED: Final = re.compile(r"tfd:\s*(\d+)\s.*\sdata:\s*([0-9a-f]+)", re.ASCII)
#: Of ``epoll_ctl``: change what is watched.
_MODIFY: Final = 3


def endpoint_of(fd: int, address: str, name: str) -> str:
    """The endpoint of a listening socket.

    :param address: where it must listen; its port may be a wildcard.
    :param name: the argument that *fd* was given by, for messages.
    :raises ValueError: if *fd* is no listening socket, or one of another address; or where sockets
        have no descriptors.
    """
    try:
        with Twin(fd) as twin:
            place = place_of(twin.name())
            (listens,) = _INT.unpack(twin.option(socket.SOL_SOCKET, socket.SO_ACCEPTCONN, 4))
    except (OSError, struct.error) as error:
        raise ValueError(f"{name}={fd}: it is no socket: {error}") from None
    if not listens:
        raise ValueError(f"{name}={fd}: the socket does not listen; call its listen() first")
    if isinstance(place, tuple):
        endpoint = tcp_address(*place)
    elif place:
        endpoint = f"ipc://{os.fsdecode(place).replace(chr(0), '@', 1)}"
    else:
        raise ValueError(f"{name}={fd}: the socket has no address of tcp or ipc")
    if not _is_meant(address, endpoint):
        raise ValueError(f"{name}={fd}: the socket listens at {endpoint}, and not at {address}")
    return endpoint


def _is_meant(address: str, endpoint: str) -> bool:
    wanted, there = split_tcp(address), split_tcp(endpoint)
    if wanted is None or there is None:
        same_kind = split_scheme(address)[0] == split_scheme(endpoint)[0] == "ipc"
        return same_kind and _real(address) == _real(endpoint)
    host = {"*": "0.0.0.0", "localhost": "127.0.0.1"}.get(wanted[0], wanted[0])  # noqa: S104 - read
    ip = ip_of(host)
    return ip is not None and ip == ip_of(there[0]) and wanted[1] in ("*", "0", there[1])


def _real(address: str) -> str:
    """A path of ipc without links: a socket knows the path by which it was bound."""
    path = split_scheme(address)[1]
    return path if path.startswith("@") else os.path.realpath(path)


@contextmanager
def duplicate(fd: int) -> Generator[int]:
    """A descriptor of the same socket, for libzmq, which closes it; closed here on an exception."""
    own = os.dup(fd)
    try:
        # Of all processes that have it: the slower of two would wait in accept() for the next one.
        os.set_blocking(own, False)
        yield own
    except BaseException:
        os.close(own)
        raise


def accept_no_more(fd: int) -> bool:
    """Have libzmq accept no further connections from a listening socket that other processes have.

    Its own ``unbind()`` would end the connections that were accepted, and a socket that nobody
    accepts from would not let them in either. So libzmq's thread is left with its descriptor, and
    told of nothing that happens to it: the instance of epoll that watches it gets an empty set of
    events for it, with all else as it is.

    :param fd: libzmq's own descriptor.
    :return: whether that was possible: on Linux, where ``/proc`` tells of instances of epoll.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError):
        return any(_forget(int(epoll), fd) for epoll in os.listdir("/proc/self/fd"))
    return False


#: Linux's ``struct epoll_event``, which is packed on x86-64 alone.
_EPOLL_EVENT: Final = struct.Struct("=IQ" if platform.machine() in ("x86_64", "AMD64") else "@IQ")


def _forget(epoll: int, fd: int) -> bool:
    """Have an instance of epoll tell nothing of a descriptor; False if it does not watch it."""
    try:
        if os.readlink(f"/proc/self/fd/{epoll}") != "anon_inode:[eventpoll]":
            return False
        with open(f"/proc/self/fdinfo/{epoll}", encoding="ascii") as file:
            watched = {int(number): int(data, 16) for number, data in _WATCHED.findall(file.read())}
    except OSError:
        return False  # it was the descriptor by which the folder was read
    if fd not in watched:
        return False
    changed: int = libc().epoll_ctl(epoll, _MODIFY, fd, _EPOLL_EVENT.pack(0, watched[fd]))
    return changed == 0
