"""The differences between pyzmq's two backends: Cython on CPython, cffi on PyPy."""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import operator
import os
import sys
from typing import Any, Final, cast

import zmq
import zmq.backend

__all__ = [
    "SHARES_MEMORY",
    "frameProperty",
    "hasMulticast",
    "monitor",
    "noSocket",
    "recv",
    "send",
]

#: Whether libzmq may be given memory of Python's, to send it without a copy and to tell when it is
#: done with it. Elsewhere than on CPython, the collector may move what libzmq reads, and pyzmq's
#: thread that is told crashes the process.
SHARES_MEMORY: Final = sys.implementation.name == "cpython"

# Bound once, as they are called for every part of every message. The connection's own socket class
# would report each call as a touch from outside. zmq.Socket.send looks for draft options first, and
# takes three times as long as the backend's.
recv = zmq.Socket[bytes].recv
send = zmq.backend.Socket.send

#: On PyPy, parts of so many bytes keep no memory of libzmq's.
_LARGE: Final = 16 * 1024
#: What is asked of frames by :func:`frameProperty`.
_PROPERTIES: Final = (int(zmq.SRCFD), "Peer-Address", "User-Id")


def _recvOnPyPy(
    socket: zmq.Socket[bytes], flags: int = 0, copy: bool = True, track: bool = False
) -> bytes | zmq.Frame:
    """As ``zmq.Socket.recv``, with ``frame.more`` set, which the cffi backend leaves out.

    libzmq's memory of a large part is given back at once. The collector does not know of it, so
    that it would grow to gigabytes before the frames are collected.
    """
    if copy:
        return zmq.Socket[bytes].recv(socket, flags)
    frame = zmq.Socket[bytes].recv(socket, flags, copy=False, track=track)
    frame.more = bool(zmq.Socket[bytes].get(socket, zmq.RCVMORE))
    if len(frame.bytes) >= _LARGE:
        # Past the frame's own __setattr__, which takes names of options only.
        vars(frame)["properties"] = {name: _propertyOnPyPy(frame, name) for name in _PROPERTIES}
        cast("Any", frame).close()  # not in pyzmq's types, which are those of Cython's frames
    return frame


def _sendCopy(socket: zmq.Socket[bytes], data: bytes, flags: int = 0) -> None:
    """Send a copy: unless it is told to, the cffi backend shares parts of 64 KiB or more."""
    zmq.backend.Socket.send(socket, data, flags, copy=True)


if not SHARES_MEMORY:
    send = cast("Any", _sendCopy)
if sys.implementation.name == "pypy":
    recv = cast("Any", _recvOnPyPy)


def monitor(socket: zmq.Socket[bytes], address: str, events: int) -> None:
    """Have libzmq tell of a socket's events at an inproc address.

    :raises zmq.ZMQError: if it cannot.
    """
    if sys.implementation.name == "pypy":
        _monitorOnPyPy(socket, address, events)
    else:
        socket.monitor(address, events)


def noSocket(context: zmq.Context[Any], error: zmq.ZMQError) -> zmq.ZMQError:
    """The error for a socket that libzmq did not make: the same, with a message that says why.

    libzmq says "too many open files" also when the context has as many sockets as it may have.
    """
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return error
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as full:
        if full.errno == errno.ENFILE:
            return zmq.ZMQError(full.errno, "the system has no file descriptors left (fs.file-max)")
        message = (
            f"the process has no file descriptors left: {_descriptorLimit()}; raise it (ulimit -n, "
            "LimitNOFILE= of systemd). An endpoint takes about five"
        )
    else:
        message = (
            f"the ZeroMQ context has all {context.get(zmq.MAX_SOCKETS)} sockets that it may have: "
            "set ZmqFactory.maxSockets (65,535 at most) before the factory is made, or use several "
            "factories. A channel's endpoint takes three, six with streams"
        )
    return zmq.ZMQError(error.errno, message)


def _descriptorLimit() -> str:
    try:
        import resource  # not on Windows
    except ImportError:
        return "its limit is reached"
    return f"its limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} (RLIMIT_NOFILE)"


def hasMulticast() -> bool:
    """Whether libzmq was built with PGM."""
    return zmq.has("pgm")


def frameProperty(frame: zmq.Frame, name: str | int) -> str | int | None:
    """A property of a message: ``zmq.SRCFD``, ``"Peer-Address"``, ...

    :return: None where the transport does not have it.
    """
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return None
    except NotImplementedError:  # of cffi's frames; ask libzmq itself
        return _propertyOnPyPy(frame, name)


def _propertyOnPyPy(frame: zmq.Frame, name: str | int) -> str | int | None:
    cffi, libzmq = _libzmqOnPyPy()
    own = cast("Any", frame)  # what cffi's frames have besides is not in pyzmq's types
    if own.closed:
        kept: str | int | None = vars(frame)["properties"][name]
        return kept
    message = int(cffi.ffi.cast("uintptr_t", own.zmq_msg))
    if isinstance(name, int):
        number: int = libzmq.zmq_msg_get(message, name)
        return None if number == -1 else number
    text: bytes | None = libzmq.zmq_msg_gets(message, name.encode())
    return None if text is None else text.decode()


@functools.cache
def _libzmqOnPyPy() -> tuple[Any, Any]:
    """The cffi backend, and the functions of pyzmq's own libzmq."""
    cffi = importlib.import_module("zmq.backend.cffi._cffi")
    # A library's handle also finds the symbols of the libraries that it depends on.
    libzmq = ctypes.CDLL(cffi.__file__)
    libzmq.zmq_msg_get.argtypes = [ctypes.c_void_p, ctypes.c_int]
    libzmq.zmq_msg_gets.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    libzmq.zmq_msg_gets.restype = ctypes.c_char_p
    libzmq.zmq_socket_monitor.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    return cffi, libzmq


def _monitorOnPyPy(socket: zmq.Socket[bytes], address: str, events: int) -> None:
    """As ``zmq.Socket.monitor``, which does not tell of an error in the cffi backend.

    Whoever connects to a monitor that is not there has libzmq end the process in the end.
    """
    cffi, libzmq = _libzmqOnPyPy()
    handle = cast("Any", socket)._zmq_socket  # what cffi's sockets have is not in pyzmq's types
    pointer = int(cffi.ffi.cast("uintptr_t", handle))
    if libzmq.zmq_socket_monitor(pointer, address.encode(), operator.index(events)) < 0:
        raise zmq.ZMQError()
