"""A peer that speaks ZMTP 3.1 and CurveZMQ (RFC 26) byte by byte, right or wrong.

The cryptography is libsodium's, by ctypes: the one that pyzmq's wheel brings, or the system's.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import socket
import struct
from functools import cache
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils import z85

__all__ = ["COMMAND", "LARGE", "MORE", "Peer", "Refused", "frame", "greeting", "has_sodium"]

#: Flags of a frame.
MORE, LARGE, COMMAND = 1, 2, 4
_MAC: Final = 16


class Refused(Exception):
    """The server has said ERROR, or ended the connection."""


@cache
def _sodium() -> Any:  # Any: ctypes has no types for what a library has
    beside = Path(zmq.__file__).parents[1].glob("pyzmq.libs/libsodium*.so*")
    names = [*map(str, beside), ctypes.util.find_library("sodium")]
    for name in names:
        if name:
            with contextlib.suppress(OSError):
                return ctypes.CDLL(name)
    return None


def has_sodium() -> bool:
    """Whether there is a libsodium to use."""
    return _sodium() is not None


def _box(data: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(data) + _MAC)
    size = ctypes.c_ulonglong(len(data))
    assert _sodium().crypto_box_easy(out, data, size, nonce, public, secret) == 0
    return out.raw


def _open(data: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(data) - _MAC)
    size = ctypes.c_ulonglong(len(data))
    assert _sodium().crypto_box_open_easy(out, data, size, nonce, public, secret) == 0
    return out.raw


def _new_pair() -> tuple[bytes, bytes]:
    public, secret = (ctypes.create_string_buffer(32) for _ in range(2))
    assert _sodium().crypto_box_keypair(public, secret) == 0
    return public.raw, secret.raw


def greeting(mechanism: bytes = b"CURVE", version: bytes = b"\3\1") -> bytes:
    """The 64 bytes with which a client begins."""
    start = b"\xff" + bytes(8) + b"\x7f" + version + mechanism.ljust(20, b"\0")
    return start.ljust(64, b"\0")


def frame(body: bytes, flags: int = 0, size: int | None = None) -> bytes:
    """A frame; with a size that is not that of its body, where one is given."""
    size = len(body) if size is None else size
    if size > 255:
        return bytes((flags | LARGE,)) + struct.pack(">Q", size) + body
    return bytes((flags, size)) + body


def properties(metadata: dict[bytes, bytes]) -> bytes:
    """Metadata of a handshake."""
    return b"".join(
        bytes((len(name),)) + name + struct.pack(">I", len(value)) + value
        for name, value in metadata.items()
    )


class Peer:
    """A connection to a server.

    :ivar sent: all that was sent.
    """

    def __init__(
        self, endpoint: str, server_key: str, keys: tuple[str, str], kind: bytes = b"DEALER"
    ) -> None:
        """
        :param keys: public and secret key of the client.
        :param kind: of its socket.
        """
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.sent = bytearray()
        self._server = z85.decode(server_key.encode())
        self._public, self._secret = (z85.decode(key.encode()) for key in keys)
        self._kind = kind
        #: For this connection.
        self.short_public, self.short_secret = _new_pair()
        self.cookie = self._short_server = b""
        self._nonces = 0

    def send(self, data: bytes) -> None:
        self.sent += data
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def is_closed(self) -> bool:
        """Whether the server has ended the connection; does not wait."""
        try:
            return self.socket.recv(4096, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait_for_end(self) -> bytes:
        """What comes until the server ends the connection."""
        came = b""
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65_536):
                came += part
        return came

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            try:
                part = self.socket.recv(size - len(received))
            except ConnectionError:
                part = b""
            if not part:
                raise Refused("the connection was ended")
            received += part
        return received

    def receive_frame(self) -> bytes:
        """The body of the next frame."""
        flags = self._receive(1)[0]
        size = int.from_bytes(self._receive(8 if flags & LARGE else 1), "big")
        return self._receive(size)

    # -- the handshake -------------------------------------------------------------------------

    def _nonce(self, prefix: bytes) -> tuple[bytes, bytes]:
        self._nonces += 1
        short = struct.pack(">Q", self._nonces)
        return short, prefix + short

    def greet(self) -> None:
        self.send(greeting())
        self._receive(64)

    def hello(self) -> bytes:
        """The frame of the first command."""
        short, nonce = self._nonce(b"CurveZMQHELLO---")
        box = _box(bytes(64), nonce, self._server, self.short_secret)
        body = b"\5HELLO\1\0" + bytes(72) + self.short_public + short + box
        return frame(body, COMMAND)

    def welcome(self) -> None:
        """Take the server's answer to it."""
        body = self.receive_frame()
        if not body.startswith(b"\7WELCOME"):
            raise Refused(repr(body))
        nonce = b"WELCOME-" + body[8:24]
        opened = _open(body[24:], nonce, self._server, self.short_secret)
        self._short_server, self.cookie = opened[:32], opened[32:]

    def initiate(self, metadata: dict[bytes, bytes] | None = None) -> bytes:
        """The frame of the second command."""
        vouch_nonce = os.urandom(16)
        vouch = _box(
            self.short_public + self._server,
            b"VOUCH---" + vouch_nonce,
            self._short_server,
            self._secret,
        )
        given = properties({b"Socket-Type": self._kind, b"Identity": b""} | (metadata or {}))
        short, nonce = self._nonce(b"CurveZMQINITIATE")
        box = _box(
            self._public + vouch_nonce + vouch + given, nonce, self._short_server, self.short_secret
        )
        return frame(b"\x08INITIATE" + self.cookie + short + box, COMMAND)

    def ready(self) -> None:
        """Take the server's answer to it.

        :raises Refused: if the server does not let the client in.
        """
        body = self.receive_frame()
        if not body.startswith(b"\5READY"):
            raise Refused(repr(body))

    def shake_hands(self, metadata: dict[bytes, bytes] | None = None) -> None:
        """All of it.

        :raises Refused: likewise.
        """
        self.greet()
        self.send(self.hello())
        self.welcome()
        self.send(self.initiate(metadata))
        self.ready()

    # -- messages ------------------------------------------------------------------------------

    def message(self, part: bytes, *, more: bool = False) -> bytes:
        """The frame of a part of a message."""
        short, nonce = self._nonce(b"CurveZMQMESSAGEC")
        box = _box(bytes((more,)) + part, nonce, self._short_server, self.short_secret)
        return frame(b"\7MESSAGE" + short + box)

    def send_message(self, parts: list[bytes]) -> None:
        """Send a whole message."""
        last = len(parts) - 1
        self.send(b"".join(self.message(part, more=at < last) for at, part in enumerate(parts)))

    def receive_message(self) -> list[bytes]:
        """The parts of the next message."""
        parts: list[bytes] = []
        while True:
            body = self.receive_frame()
            if not body.startswith(b"\7MESSAGE"):
                continue
            nonce = b"CurveZMQMESSAGES" + body[8:16]
            opened = _open(body[16:], nonce, self._short_server, self.short_secret)
            parts.append(opened[1:])
            if not opened[0] & MORE:
                return parts
