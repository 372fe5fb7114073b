"""Metadata: its rules, its size, its form on the wire. The rules are gRPC's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from txzmq.rpc.v1.header_pb2 import Metadatum, RequestHeader

__all__ = [
    "Metadata",
    "MetadataInput",
    "add_to",
    "check_size",
    "from_wire",
    "normalise",
    "request_fields",
]

#: Metadata as it arrives: pairs in order, str values, bytes where the key ends in ``-bin``.
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
#: Metadata as a caller gives it: a mapping, or pairs where a key occurs more than once.
MetadataInput: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

_KEY: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)
#: What a pair costs beyond its characters, as in HTTP/2 (RFC 7540, 6.5.2) and so in gRPC.
_OVERHEAD: Final = 32
#: How the keys begin that belong to the protocol itself.
_RESERVED: Final = "txzmq-"
#: Pairs and keys that are kept of those that have been checked, or made ready for the wire, and
#: characters that one of them may have: most metadata are the same from call to call.
_MAX_KEPT: Final = 1_024
_MAX_KEPT_SIZE: Final = 256
#: Pairs that one header may bring; parsing more would cost too much of the reactor's time.
_MAX_PAIRS: Final = 1_024

# Whether the value of a key is bytes.
_for_bytes: dict[str, bool] = {}
# What a program has given and what is right.
_checked: set[tuple[str, str | bytes]] = set()
# What it has sent: as a field of a RequestHeader.
_request_fields: dict[tuple[str, str | bytes], bytes] = {}


def normalise(metadata: MetadataInput | None) -> Metadata:
    """Check what a caller gives, and make a tuple of pairs of it.

    :raises ValueError: for a key with other characters than ``0-9a-z_.-``, one that begins with
        ``txzmq-``, a text value that is not printable ASCII, or more than 1,024 pairs.
    :raises TypeError: for a key that is not str, or a value that is not str, or not bytes where
        the key ends in ``-bin``.
    """
    if not metadata:
        return ()
    # Any: isinstance leaves pyright with a Mapping of what, and a cast costs a call.
    given: Any = metadata.items() if isinstance(metadata, (dict, Mapping)) else metadata  # pyright: ignore[reportUnknownVariableType]
    pairs: Metadata = tuple(given)
    if len(pairs) > _MAX_PAIRS:
        raise ValueError(f"the metadata has {len(pairs)} pairs, more than {_MAX_PAIRS}")
    try:
        if _checked.issuperset(pairs):
            return pairs
    except TypeError:
        pass  # lists, or values of a type that is not allowed
    return _check(pairs)


def _check(pairs: Iterable[tuple[str, str | bytes]]) -> Metadata:
    checked: list[tuple[str, str | bytes]] = []
    for key, value in pairs:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise TypeError(f"the metadata key {key!r} must be str, not {type(key).__name__}")
        if _is_for_bytes(key):
            if not isinstance(value, bytes):
                raise TypeError(f"the metadata {key!r} must be bytes, not {type(value).__name__}")
        elif not isinstance(value, str):
            raise TypeError(
                f"the metadata {key!r} must be str, not {type(value).__name__}; a key for bytes "
                "ends in -bin"
            )
        elif not _is_text(value):
            raise ValueError(f"the metadata {key!r} must be printable ASCII; name it {key}-bin")
        if key.startswith(_RESERVED):
            raise ValueError(f"the metadata key {key!r} is reserved: it begins with {_RESERVED}")
        checked.append((key, value))
        if len(key) + len(value) <= _MAX_KEPT_SIZE:
            if len(_checked) >= _MAX_KEPT:
                _checked.clear()
            _checked.add((key, value))
    return tuple(checked)


def _is_for_bytes(key: str) -> bool:
    """Whether a key's value is bytes.

    :raises ValueError: for a key that is not allowed.
    """
    known = _for_bytes.get(key)
    if known is not None:
        return known
    if not _KEY.fullmatch(key):
        raise ValueError(f"the metadata key {key!r} may only have the characters 0-9 a-z _ - .")
    for_bytes = key.endswith("-bin")
    if len(key) <= _MAX_KEPT_SIZE:  # a peer may send others, and they are to be forgotten
        if len(_for_bytes) >= _MAX_KEPT:
            _for_bytes.clear()
        _for_bytes[key] = for_bytes
    return for_bytes


def _is_text(value: str) -> bool:
    """Whether all characters are printable ASCII: 0x20 to 0x7e."""
    return value.isascii() and value.isprintable()


def check_size(metadata: Metadata, limit: int) -> bool:
    """Whether *metadata* costs at most *limit* bytes, counted as gRPC does."""
    size = _OVERHEAD * len(metadata)
    for key, value in metadata:
        size += len(key) + len(value)
    return size <= limit


class _Field(Protocol):
    """A repeated field of pairs."""

    def add(self, *, key: str, value: bytes) -> Metadatum:
        """Append one."""
        ...


def add_to(field: _Field, metadata: Metadata) -> None:
    """Put *metadata* into a message."""
    add = field.add
    for key, value in metadata:
        add(key=key, value=value if isinstance(value, bytes) else value.encode("ascii"))


def request_fields(metadata: Metadata) -> bytes:
    """*metadata* as a serialised ``RequestHeader`` has it."""
    known = _request_fields
    try:
        return b"".join([known[pair] for pair in metadata])
    except KeyError:
        return b"".join([known.get(pair) or _request_field(pair) for pair in metadata])


def _request_field(pair: tuple[str, str | bytes]) -> bytes:
    header = RequestHeader()
    add_to(header.metadata, (pair,))
    field = header.SerializeToString()
    if len(field) <= _MAX_KEPT_SIZE:
        if len(_request_fields) >= _MAX_KEPT:
            _request_fields.clear()
        _request_fields[pair] = field
    return field


def from_wire(metadata: Sequence[Metadatum]) -> Metadata:
    """The metadata that the messages carry, without keys that belong to the protocol itself.

    :raises ValueError: if a key or value is not allowed, or there are too many.
    """
    if not metadata:
        return ()
    if len(metadata) > _MAX_PAIRS:
        raise ValueError("too much metadata")
    pairs: list[tuple[str, str | bytes]] = []
    for item in metadata:
        key, value = item.key, item.value
        for_bytes = _for_bytes.get(key)  # there are few keys, and each comes with every call
        if _is_for_bytes(key) if for_bytes is None else for_bytes:
            pair: tuple[str, str | bytes] = key, value
        else:
            text = value.decode("ascii")  # a UnicodeDecodeError is a ValueError
            if not _is_text(text):
                raise ValueError("a metadata value with characters that are not allowed")
            pair = key, text
        if not key.startswith(_RESERVED):
            pairs.append(pair)
    return tuple(pairs)
