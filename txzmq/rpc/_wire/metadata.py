"""Metadata in the headers of requests and replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from txzmq.rpc.metadata import (
    MAX_KNOWN_KEY,
    MAX_PAIRS,
    RESERVED_PREFIX,
    Metadata,
    is_text,
    key_takes_bytes,
    known_key_takes_bytes,
)
from txzmq.rpc.v1.header_pb2 import Metadatum, RequestHeader

__all__ = ["add_to", "from_wire", "request_fields"]

#: Serialised pairs that are kept, and bytes that one of them may have: most calls send the same.
_MAX_KEPT: Final = 1_024
_MAX_KEPT_SIZE: Final = 256

# Tags of fields: RequestHeader.metadata, Metadatum.key and Metadatum.value.
_METADATA: Final = 3 << 3 | 2
_KEY: Final = 1 << 3 | 2
_VALUE: Final = 2 << 3 | 2
#: Bytes of a key and its value, with which all lengths have one byte.
_MAX_SHORT: Final = 127 - 4

# Pairs that this program has sent, as fields of a RequestHeader.
_request_fields: dict[tuple[str, str | bytes], bytes] = {}


class _Field(Protocol):
    """A repeated field of pairs."""

    def add(self, *, key: str, value: bytes) -> Metadatum:
        """Append a pair."""
        ...


def add_to(field: _Field, metadata: Metadata) -> None:
    """Put *metadata* into a message."""
    add = field.add
    for key, value in metadata:
        add(key=key, value=value if isinstance(value, bytes) else value.encode("ascii"))


def request_fields(metadata: Metadata) -> bytes:
    """*metadata* as serialised fields of a ``RequestHeader``."""
    known = _request_fields
    try:
        return b"".join([known[pair] for pair in metadata])
    except KeyError:
        return b"".join([known.get(pair) or _request_field(pair) for pair in metadata])


def _request_field(pair: tuple[str, str | bytes]) -> bytes:
    key, given = pair
    value = given if isinstance(given, bytes) else given.encode("ascii")
    if len(key) + len(value) <= _MAX_SHORT and key and value:
        # As protobuf does it, but in an eighth of the time: a trace has another pair in each call.
        inner = len(key) + len(value) + 4
        head = bytes((_METADATA, inner, _KEY, len(key)))
        field = b"%b%b%b%b" % (head, key.encode("ascii"), bytes((_VALUE, len(value))), value)
    else:
        header = RequestHeader()
        add_to(header.metadata, (pair,))
        field = header.SerializeToString()
    if len(field) <= _MAX_KEPT_SIZE:
        if len(_request_fields) >= _MAX_KEPT:
            _request_fields.clear()
        _request_fields[pair] = field
    return field


def from_wire(metadata: Sequence[Metadatum]) -> Metadata:
    """The pairs in *metadata*, without keys that belong to the protocol itself.

    :raises ValueError: if a key or value is not allowed, or there are more than 1,024 pairs.
    """
    if not metadata:
        return ()
    if len(metadata) > MAX_PAIRS:
        raise ValueError(f"the metadata has {len(metadata)} pairs, more than {MAX_PAIRS}")
    pairs: list[tuple[str, str | bytes]] = []
    for item in metadata:
        key, value = item.key, item.value
        takes_bytes = known_key_takes_bytes if len(key) <= MAX_KNOWN_KEY else key_takes_bytes
        if takes_bytes(key):
            pair: tuple[str, str | bytes] = key, value
        else:
            text = value.decode("ascii")  # a UnicodeDecodeError is a ValueError
            if not is_text(text):
                raise ValueError("a metadata value with characters that are not allowed")
            pair = key, text
        if not key.startswith(RESERVED_PREFIX):
            pairs.append(pair)
    return tuple(pairs)
