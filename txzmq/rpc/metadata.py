"""Metadata: pairs of key and value that travel with a call. The rules are gRPC's.

A key has the characters ``0-9a-z_.-``, and does not begin with ``txzmq-``. A value is printable
ASCII text, or bytes where the key ends in ``-bin``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from txzmq._check import wrong_type

__all__ = [
    "MAX_KNOWN_KEY",
    "MAX_PAIRS",
    "PAIR_OVERHEAD",
    "PREVIOUS_ATTEMPTS",
    "PUSHBACK",
    "RESERVED_PREFIX",
    "Metadata",
    "MetadataInput",
    "check_size",
    "is_text",
    "key_takes_bytes",
    "known_key_takes_bytes",
    "normalise",
]

#: Metadata as it arrives: pairs in order, str values, bytes where the key ends in ``-bin``.
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
#: Metadata as a caller gives it: a mapping, or pairs where a key occurs more than once.
MetadataInput: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

#: The beginning of the keys that belong to the protocol itself.
RESERVED_PREFIX: Final = "txzmq-"
#: Metadata of a request that is not the first attempt: how many there were before.
PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"
#: Trailing metadata of a failure by which a server says when to try again, in milliseconds, or
#: with a negative number that nobody shall.
PUSHBACK: Final = "grpc-retry-pushback-ms"
#: Pairs that the metadata of a call may have: parsing more would block the reactor for too long.
MAX_PAIRS: Final = 1_024
#: Characters of the longest key that :func:`known_key_takes_bytes` may be asked for.
MAX_KNOWN_KEY: Final = 256

_KEY: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)
#: Bytes that a pair costs beyond its characters, as in HTTP/2 (RFC 7540, 6.5.2) and so in gRPC.
PAIR_OVERHEAD: Final = 32
#: Checked pairs that are remembered, and characters that one of them may have: most metadata are
#: the same from call to call.
_MAX_CHECKED: Final = 1_024
_MAX_CHECKED_SIZE: Final = 256

_checked: set[tuple[str, str | bytes]] = set()


def normalise(metadata: MetadataInput | None) -> Metadata:
    """Check the metadata that a caller gives, and return it as a tuple of pairs.

    :raises ValueError: for a key with other characters than ``0-9a-z_.-``, one that begins with
        ``txzmq-``, a text value that is not printable ASCII, or more than 1,024 pairs.
    :raises TypeError: for a key that is not str, or a value that is not str, or not bytes where
        the key ends in ``-bin``.
    """
    # Any: isinstance leaves pyright with a Mapping of what, and a cast costs a call.
    given: Any = metadata.items() if isinstance(metadata, (dict, Mapping)) else metadata  # pyright: ignore[reportUnknownVariableType]
    try:
        pairs: Metadata = tuple(given)
    except TypeError:
        if metadata is None:
            return ()
        if hasattr(given, "__iter__"):
            raise  # it is what gives the pairs that fails
        raise _wrong(given) from None
    if len(pairs) > MAX_PAIRS:
        raise ValueError(f"the metadata has {len(pairs)} pairs, more than {MAX_PAIRS}")
    try:
        if _checked.issuperset(pairs):
            return pairs
    except TypeError:
        pass  # lists, or values of a type that is not allowed
    if isinstance(metadata, str | bytes):  # which are iterables, too
        raise _wrong(metadata)
    return _check(pairs)


# Any: whatever a caller gave.
def _wrong(metadata: Any) -> TypeError:
    return wrong_type("metadata", metadata, "a mapping, or pairs of key and value")


def _check(pairs: Iterable[tuple[str, str | bytes]]) -> Metadata:
    checked: list[tuple[str, str | bytes]] = []
    for pair in pairs:
        # Callers without a type checker: a str, for one, is an iterable.
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
            raise _wrong(pair)
        key, value = pair
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise TypeError(f"the metadata key {key!r} must be str, not {type(key).__name__}")
        takes_bytes = known_key_takes_bytes if len(key) <= MAX_KNOWN_KEY else key_takes_bytes
        if takes_bytes(key):
            if not isinstance(value, bytes):
                raise TypeError(f"the metadata {key!r} must be bytes, not {type(value).__name__}")
        elif not isinstance(value, str):
            raise TypeError(
                f"the metadata {key!r} must be str, not {type(value).__name__}; a key for bytes "
                "ends in -bin"
            )
        elif not is_text(value):
            raise ValueError(
                f"the metadata {key!r} must be printable ASCII; to send other text, encode it to "
                f"bytes and name it {key}-bin"
            )
        if key.startswith(RESERVED_PREFIX):
            raise ValueError(
                f"the metadata key {key!r} is reserved: it begins with {RESERVED_PREFIX}"
            )
        checked.append((key, value))
        if len(key) + len(value) <= _MAX_CHECKED_SIZE:
            if len(_checked) >= _MAX_CHECKED:
                _checked.clear()
            _checked.add((key, value))
    return tuple(checked)


def key_takes_bytes(key: str) -> bool:
    """Whether the values of a key are bytes, not text.

    :raises ValueError: for a key that is not allowed.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"the metadata key {key!r} may only have the characters 0-9 a-z _ - .")
    return key.endswith("-bin")


#: Like :func:`key_takes_bytes`, but remembers the answer. Only for keys of at most
#: :data:`MAX_KNOWN_KEY` characters: a peer may send longer ones, and they must not be kept.
known_key_takes_bytes = lru_cache(maxsize=1_024)(key_takes_bytes)


def is_text(value: str) -> bool:
    """Whether all characters are printable ASCII: 0x20 to 0x7e."""
    return value.isascii() and value.isprintable()


def check_size(metadata: Metadata, limit: int) -> bool:
    """Whether *metadata* costs at most *limit* bytes, counted as gRPC does."""
    size = PAIR_OVERHEAD * len(metadata)
    for key, value in metadata:
        size += len(key) + len(value)
    return size <= limit
