"""The differences between pyzmq's two backends: Cython on CPython, cffi on PyPy."""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from typing import Any, cast

import zmq
import zmq.backend

__all__ = ["frameProperty", "hasMulticast", "recv", "send"]

# Bound once, as they are called for every part of every message. The connection's own socket class
# would report each call as a touch from outside. zmq.Socket.send looks for draft options first, and
# takes three times as long as the backend's.
recv = zmq.Socket[bytes].recv
send = zmq.backend.Socket.send


def _recvOnPyPy(
    socket: zmq.Socket[bytes], flags: int = 0, copy: bool = True, track: bool = False
) -> bytes | zmq.Frame:
    """As ``zmq.Socket.recv``, with ``frame.more`` set, which the cffi backend leaves out."""
    if copy:
        return zmq.Socket[bytes].recv(socket, flags)
    frame = zmq.Socket[bytes].recv(socket, flags, copy=False, track=track)
    frame.more = bool(zmq.Socket[bytes].get(socket, zmq.RCVMORE))
    return frame


if sys.implementation.name == "pypy":
    recv = cast("Any", _recvOnPyPy)


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
    cffi, libzmq = _libzmq()
    # Any: what cffi's frames have besides is not in pyzmq's types.
    message = int(cffi.ffi.cast("uintptr_t", cast("Any", frame).zmq_msg))
    if isinstance(name, int):
        number: int = libzmq.zmq_msg_get(message, name)
        return None if number == -1 else number
    text: bytes | None = libzmq.zmq_msg_gets(message, name.encode())
    return None if text is None else text.decode()


@functools.cache
def _libzmq() -> tuple[Any, Any]:
    """The cffi backend, and the functions of pyzmq's own libzmq."""
    cffi = importlib.import_module("zmq.backend.cffi._cffi")
    # A library's handle also finds the symbols of the libraries that it depends on.
    libzmq = ctypes.CDLL(cffi.__file__)
    libzmq.zmq_msg_get.argtypes = [ctypes.c_void_p, ctypes.c_int]
    libzmq.zmq_msg_gets.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    libzmq.zmq_msg_gets.restype = ctypes.c_char_p
    return cffi, libzmq
