"""What pyzmq's two backends do differently: Cython's on CPython, cffi's on PyPy."""

from __future__ import annotations

import sys
from typing import Any, cast

import zmq

__all__ = ["frameProperty", "recv"]

# Bound once: the reader calls it for every part of every message, and going through the
# connection's own socket class would report each as a touch from outside.
recv = zmq.Socket[bytes].recv


def _recvOnPyPy(
    socket: zmq.Socket[bytes], flags: int = 0, copy: bool = True, track: bool = False
) -> bytes | zmq.Frame:
    """As ``zmq.Socket.recv``; the frames that cffi's makes never know that more follow."""
    if copy:
        return zmq.Socket[bytes].recv(socket, flags)
    frame = zmq.Socket[bytes].recv(socket, flags, copy=False, track=track)
    frame.more = bool(zmq.Socket[bytes].get(socket, zmq.RCVMORE))
    return frame


if sys.implementation.name == "pypy":
    recv = cast("Any", _recvOnPyPy)


def frameProperty(frame: zmq.Frame, name: str | int) -> str | int | None:
    """A property of a message, such as ``"Peer-Address"``.

    :return: None where the transport does not have it, and always on PyPy, whose backend cannot
        ask libzmq for it.
    """
    try:
        return frame.get(name)
    except (zmq.ZMQError, NotImplementedError):
        return None
