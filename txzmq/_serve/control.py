"""What a supervisor and its workers tell each other, by a pipe each way; no IO.

A message is four bytes with its length, big-endian, and JSON: an object with the name of the
message and its fields.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, cast

__all__ = [
    "Drain",
    "Draining",
    "Failed",
    "Figures",
    "GetFigures",
    "HandOver",
    "KeysReloaded",
    "Message",
    "MessageReader",
    "Ping",
    "Pong",
    "ProtocolError",
    "Ready",
    "ReloadKeys",
    "Start",
    "encode",
]

_LENGTH: Final = struct.Struct(">I")
#: Bytes of a message at most; the figures of a thousand methods have 5 MB.
_MOST: Final = 64 * 1024 * 1024


class ProtocolError(Exception):
    """What came is no message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Either side's; the fields of subclasses are str, int, float, bool, or lists of JSON."""


# -- to a worker --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Message):
    """The first one: what to serve, and how.

    :ivar number: of the worker, from 1: that of its address.
    :ivar address: where it listens, at the socket that it was given.
    :ivar publisher: where it publishes streams; empty for any free port.
    :ivar publisher_given: whether it was given the publisher's socket.
    :ivar services: ``package.module:Name`` of each.
    :ivar options: ``package.module:name`` of arguments of the server; empty without.
    :ivar keys: the file of the server's secret key; empty without.
    :ivar allow_group: whether the group of that file may read it.
    :ivar clients: the folder of the clients' keys.
    :ivar grace: seconds that calls have to end when it drains by itself.
    :ivar figures: whether metrics are counted.
    :ivar log: ``text`` or ``json``.
    """

    number: int
    address: str
    publisher: str
    publisher_given: bool
    services: list[str]
    options: str
    keys: str
    allow_group: bool
    clients: str
    insecure: bool
    grace: float
    admin: bool
    figures: bool
    access_log: bool
    log: str
    log_level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Message):
    """Take no more calls, and end.

    :ivar grace: seconds that calls have to end.
    """

    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver(Message):
    """Another worker has the same socket and is ready: send the clients there, and end.

    :ivar grace: seconds that they have to go.
    """

    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadKeys(Message):
    """Read the clients' keys again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFigures(Message):
    """Tell the metrics now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """Say that the reactor turns."""


# -- to the supervisor --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """It takes calls.

    :ivar files: of the modules that it has imported.
    """

    files: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """It cannot serve, and ends.

    :ivar why: in a sentence.
    :ivar traceback: of the user's code; empty without.
    :ivar files: of the modules that it has imported, and those that could not be.
    """

    why: str
    traceback: str
    files: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(Message):
    """It drains of its own accord: somebody has sent it SIGTERM, or its server was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Message):
    """The reactor turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysReloaded(Message):
    """The clients' keys were read again, or could not be.

    :ivar error: empty if they were.
    :ivar clients: how many there are now; -1 on a server without keys.
    """

    error: str
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Message):
    """The metrics.

    :ivar families: see :mod:`txzmq._serve.figures`.
    :ivar asked: whether it answers :class:`GetFigures`.
    """

    families: list[Any]
    asked: bool


_KINDS: Final[dict[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (
        *(Start, Drain, HandOver, ReloadKeys, GetFigures, Ping),
        *(Ready, Failed, Draining, Pong, KeysReloaded, Figures),
    )
}
#: What JSON has for the annotation of a field.
_TYPES: Final[dict[str, type]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": float,
    "list[str]": list,
    "list[Any]": list,
}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    body = json.dumps({"": type(message).__name__, **asdict(message)}).encode()
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Takes messages out of the bytes that come."""

    _HEAD: ClassVar[int] = _LENGTH.size

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a message that has not come as a whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now.

        :raises ProtocolError: if what came is none; nothing more can be read then.
        """
        self._buffer += data
        while len(self._buffer) >= self._HEAD:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _MOST:
                raise ProtocolError(f"a message of {length} bytes")
            end = self._HEAD + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[self._HEAD : end])
            del self._buffer[:end]
            yield _decode(body)


def _decode(body: bytes) -> Message:
    try:
        # Of bytes, json would guess the encoding.
        found: Any = json.loads(body.decode())
    except (ValueError, RecursionError):
        # Not in the words of the error: PyPy fails to format some of them, with SystemError.
        raise ProtocolError("no JSON") from None
    if not isinstance(found, dict):
        raise ProtocolError("no object")
    values = cast("dict[str, Any]", found)
    name = values.pop("", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"no message {name!r}")
    wanted = {field.name: str(field.type) for field in fields(kind)}
    if values.keys() != wanted.keys():
        raise ProtocolError(f"{name} has not the fields {sorted(wanted)}")
    for field, annotation in wanted.items():
        if not _fits(values[field], annotation):
            raise ProtocolError(f"{field} of {name} is no {annotation}")
    return kind(**values)


def _fits(value: object, annotation: str) -> bool:
    kind = _TYPES[annotation]
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    if annotation == "list[str]":
        return all(isinstance(each, str) for each in cast("list[object]", value))
    return True
