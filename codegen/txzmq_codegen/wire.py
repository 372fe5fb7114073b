"""Protobuf's wire format, as far as the generator needs it without a descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["Malformed", "delimited", "fields", "selected"]

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)


class Malformed(ValueError):
    """Bytes are no message. Whoever makes a descriptor may put any bytes into an option."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at == len(data) or shift > _LONGEST:
            raise Malformed
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


#: The bits before the last byte of the longest varint.
_LONGEST: Final = 63


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a message that are no groups or floats.

    :raises Malformed: once it comes to what is no field.
    """
    for number, wire, _, at, end in _spans(data):
        if wire == _VARINT:
            yield number, _varint(data, at)[0]
        elif wire == _BYTES:
            yield number, data[at:end]


def selected(data: bytes, wanted: Callable[[int], bool]) -> bytes:
    """The fields of a message whose numbers are *wanted*, as they are encoded.

    :raises Malformed: if *data* is no message.
    """
    return b"".join(data[start:end] for number, _, start, _, end in _spans(data) if wanted(number))


def _spans(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each field number and type, and where its tag and its value begin, and where it ends."""
    at = depth = group = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value = at
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _BYTES:
            size, value = _varint(data, at)
            at = value + size
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _START:
            group = group if depth else start
            depth += 1
        elif wire == _END and depth:
            depth -= 1
            start = value = group
        else:
            raise Malformed
        if at > len(data):
            raise Malformed
        if not depth:
            yield number, wire, start, value, at
    if depth:
        raise Malformed


def delimited(number: int, data: bytes) -> bytes:
    """A field whose value is a string, bytes or a message, as it is encoded."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    """*value*, which is not negative, as a varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
