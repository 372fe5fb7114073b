"""Compressions of connectrpc's, with a bound on what a client can have them do."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from connectrpc.code import Code
from connectrpc.compression import Compression
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError

__all__ = ["BoundedGzip", "bounded"]

#: How many members a message may have (RFC 1952, 2.2). One is what compressors write.
_MEMBERS: Final = 16
#: Of zlib: the format is gzip's, with the largest window.
_GZIP: Final = 31


class BoundedGzip(Compression):
    """connectrpc's gzip, where a message has few members.

    A member may be 20 bytes long, and zlib copies all that is behind it. connectrpc takes any
    number: a message of 4 MiB would have kept the reactor for minutes.
    """

    def __init__(self, inner: GzipCompression) -> None:
        """:param inner: compresses."""
        self._inner = inner

    def name(self) -> str:
        """What headers call it."""
        return self._inner.name()

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Compress a message."""
        return self._inner.compress(data)

    def decompress(
        self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None
    ) -> bytes:
        """Decompress a message.

        :param read_max_bytes: how long the result may be; None for no limit.
        :raises ConnectError: if the result is longer, or there are too many members.
        :raises zlib.error: for what is no gzip.
        :raises EOFError: if the end is missing.
        """
        parts: list[bytes] = []
        total = 0
        rest = memoryview(data)
        for _ in range(_MEMBERS):
            member = zlib.decompressobj(wbits=_GZIP)
            # To zlib, 0 is no limit.
            most = 0 if read_max_bytes is None else read_max_bytes + 1 - total
            parts.append(member.decompress(rest, most))
            total += len(parts[-1])
            if read_max_bytes is not None and total > read_max_bytes:
                raise ConnectError(
                    Code.RESOURCE_EXHAUSTED,
                    f"message is larger than configured max {read_max_bytes}",
                )
            if not member.eof:
                raise EOFError("the gzip stream has no end")
            rest = rest[len(rest) - len(member.unused_data) :]
            if not rest:
                return b"".join(parts)
        raise ConnectError(
            Code.INVALID_ARGUMENT, f"the gzip stream has more than {_MEMBERS} members"
        )


def bounded(compressions: Iterable[Compression] | None) -> tuple[Compression, ...]:
    """Compressions as a gateway uses them.

    :param compressions: None for gzip.
    """
    given = (GzipCompression(),) if compressions is None else compressions
    return tuple(BoundedGzip(each) if isinstance(each, GzipCompression) else each for each in given)
