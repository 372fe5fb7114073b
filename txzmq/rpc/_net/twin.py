"""A look at a socket that is libzmq's, by its descriptor, which changes nothing of it.

Not by ``socket.socket(fileno=...)`` or ``socket.fromfd``: on PyPy these make the socket a blocking
one, also for libzmq, whose thread for all connections then waits in ``recv`` for one of them.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, Self

__all__ = ["Twin", "libc", "place_of"]

#: Bytes of the longest address, ``struct sockaddr_storage``.
_LONGEST: Final = 128
#: Where the family is, behind a length on systems that have one there.
_FAMILY: Final = struct.Struct("=xB" if sys.platform == "darwin" or "bsd" in sys.platform else "=H")


class Twin:
    """Another descriptor of the same socket, which stays that socket's when libzmq closes its own.

    A context manager, which closes the descriptor. Methods raise OSError where the system does.
    """

    def __init__(self, descriptor: int) -> None:
        """:raises OSError: if it is none, or the system has no such calls."""
        self._libc = libc()
        self._descriptor = os.dup(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @property
    def inode(self) -> int:
        """Tells the socket from others that have the descriptor later."""
        return os.fstat(self._descriptor).st_ino

    def name(self) -> bytes:
        """Its own address, as the system has it: ``struct sockaddr``."""
        return self._address("getsockname")

    def peer(self) -> bytes:
        """The address of the other end, likewise."""
        return self._address("getpeername")

    def option(self, level: int, option: int, size: int) -> bytes:
        """The value of an option, of no more than *size* bytes."""
        value = ctypes.create_string_buffer(size)
        length = ctypes.c_uint(size)
        self._call("getsockopt", level, option, value, ctypes.byref(length))
        return value.raw[: length.value]

    def set_option(self, level: int, option: int, value: bytes) -> None:
        """Set an option."""
        self._call("setsockopt", level, option, value, ctypes.c_uint(len(value)))

    def shutdown(self) -> None:
        """End the connection."""
        self._call("shutdown", int(socket.SHUT_RDWR))

    def _address(self, function: str) -> bytes:
        address = ctypes.create_string_buffer(_LONGEST)
        length = ctypes.c_uint(_LONGEST)
        self._call(function, address, ctypes.byref(length))
        return address.raw[: length.value]

    # Any: arguments of C.
    def _call(self, function: str, *arguments: Any) -> None:
        call: Callable[..., int] = getattr(self._libc, function)
        if call(self._descriptor, *arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@functools.cache
def libc() -> ctypes.CDLL:
    """The functions of the C library.

    :raises OSError: on Windows, where sockets have no descriptors.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return ctypes.CDLL(None, use_errno=True)


def place_of(address: bytes) -> tuple[str, int] | bytes | None:
    """Host and port of an address, or the path of one of ipc; None for another family.

    :param address: as :meth:`Twin.name` returns it. A path in Linux's abstract namespace begins
        with a zero.
    """
    if len(address) < _FAMILY.size:
        return None
    (family,) = _FAMILY.unpack_from(address)
    if family == socket.AF_INET and len(address) >= 8:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), _port(address)
    if family == socket.AF_INET6 and len(address) >= 24:
        return socket.inet_ntop(socket.AF_INET6, address[8:24]), _port(address)
    if family == socket.AF_UNIX:
        path = address[_FAMILY.size :]
        return path if path.startswith(b"\0") else path.split(b"\0")[0]
    return None


def _port(address: bytes) -> int:
    return int.from_bytes(address[2:4], "big")
