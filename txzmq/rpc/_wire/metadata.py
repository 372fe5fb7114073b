"""Metadata: its rules, its size, its form on the wire. The rules are gRPC's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from txzmq.rpc.v1.header_pb2 import Metadatum

__all__ = ["Metadata", "MetadataInput", "check_size", "from_wire", "normalise", "to_wire"]

#: Metadata as it arrives: pairs in order, str values, bytes where the key ends in ``-bin``.
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
#: Metadata as a caller gives it: a mapping, or pairs where a key occurs more than once.
MetadataInput: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

_KEY: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_TEXT: Final = re.compile(r"[\x20-\x7e]*", re.ASCII)
#: What a pair costs beyond its characters, as in HTTP/2 (RFC 7540, 6.5.2) and so in gRPC.
_OVERHEAD: Final = 32
#: How the keys begin that belong to the protocol itself.
_RESERVED: Final = "txzmq-"
#: Pairs that one header may bring; parsing more would cost too much of the reactor's time.
_MAX_PAIRS: Final = 1_024


def normalise(metadata: MetadataInput | None) -> Metadata:
    """Check what a caller gives, and make a tuple of pairs of it.

    :raises ValueError: for a key with other characters than ``0-9a-z_.-``, one that begins with
        ``txzmq-``, a text value that is not printable ASCII, or more than 1,024 pairs.
    :raises TypeError: for a key that is not str, or a value that is not str, or not bytes where
        the key ends in ``-bin``.
    """
    if not metadata:
        return ()
    pairs = cast(
        "Iterable[tuple[str, str | bytes]]",  # isinstance leaves pyright with an unknown Mapping
        metadata.items() if isinstance(metadata, Mapping) else metadata,
    )
    checked = tuple((_check_key(key), _check_value(key, value)) for key, value in pairs)
    if len(checked) > _MAX_PAIRS:
        raise ValueError(f"the metadata has {len(checked)} pairs, more than {_MAX_PAIRS}")
    return checked


def _check_key(key: str) -> str:
    # Callers without a type checker pass what they like.
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the metadata key {key!r} must be str, not {type(key).__name__}")
    if not _KEY.fullmatch(key):
        raise ValueError(f"the metadata key {key!r} may only have the characters 0-9 a-z _ - .")
    if key.startswith(_RESERVED):
        raise ValueError(f"the metadata key {key!r} is reserved: it begins with {_RESERVED}")
    return key


def _check_value(key: str, value: str | bytes) -> str | bytes:
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"the metadata {key!r} must be bytes, not {type(value).__name__}")
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"the metadata {key!r} must be str, not {type(value).__name__}; a key for bytes "
            "ends in -bin"
        )
    if not _TEXT.fullmatch(value):
        raise ValueError(f"the metadata {key!r} must be printable ASCII; name it {key}-bin")
    return value


def check_size(metadata: Metadata, limit: int) -> bool:
    """Whether *metadata* costs at most *limit* bytes, counted as gRPC does."""
    return sum(len(key) + len(value) + _OVERHEAD for key, value in metadata) <= limit


def to_wire(metadata: Metadata) -> list[Metadatum]:
    """The messages that carry *metadata*."""
    return [
        Metadatum(key=key, value=value if isinstance(value, bytes) else value.encode("ascii"))
        for key, value in metadata
    ]


def from_wire(metadata: Sequence[Metadatum]) -> Metadata:
    """The metadata that the messages carry, without keys that belong to the protocol itself.

    :raises ValueError: if a key or value is not allowed, or there are too many.
    """
    if not metadata:
        return ()
    if len(metadata) > _MAX_PAIRS:
        raise ValueError("too much metadata")
    pairs = [_pair_from_wire(item) for item in metadata]
    return tuple(pair for pair in pairs if not pair[0].startswith(_RESERVED))


def _pair_from_wire(item: Metadatum) -> tuple[str, str | bytes]:
    key = item.key
    if not _KEY.fullmatch(key):
        raise ValueError("a metadata key with characters that are not allowed")
    if key.endswith("-bin"):
        return key, item.value
    value = item.value.decode("ascii")  # a UnicodeDecodeError is a ValueError
    if not _TEXT.fullmatch(value):
        raise ValueError("a metadata value with characters that are not allowed")
    return key, value
