"""Batches: messages of one connection that travel as one, which costs every layer below less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from txzmq._ids import EPOCH_SIZE
from txzmq.rpc.v1.batch_pb2 import Batch

__all__ = [
    "EARLY_BATCH",
    "MAX_BATCH",
    "MAX_BATCHED_SIZE",
    "MAX_BATCH_HEADERS",
    "MAX_BATCH_SIZE",
    "BadBatch",
    "is_batch",
    "pack",
    "unpack",
]

#: Messages that one batch may have.
MAX_BATCH: Final = 256
#: A batch of so many messages is sent before the turn ends: the other side begins with them while
#: this one makes more. Fewer cost more per message; more leave one side idle while the other works.
EARLY_BATCH: Final = 32
#: Bytes of header and body above which a message travels alone: there, copying costs more than it
#: saves.
MAX_BATCHED_SIZE: Final = 32 * 1024
#: Bytes of headers and bodies of a batch; the message that reaches them is its last.
MAX_BATCH_SIZE: Final = 128 * 1024
#: Bytes of different headers that are decoded of one batch: more than a batch has that ends where
#: it should. To decode a header takes much longer than to receive it.
MAX_BATCH_HEADERS: Final = 192 * 1024


class BadBatch(ValueError):
    """A batch cannot be parsed, or its parts do not fit together."""


def is_batch(parts: list[bytes]) -> bool:
    """Whether a message, from its request id on, is a batch: half an id in front, 3 parts."""
    return len(parts) == 3 and len(parts[0]) == EPOCH_SIZE and not parts[1]


def pack(
    epoch: bytes, counters: Sequence[int], headers: Sequence[bytes], bodies: Sequence[bytes]
) -> list[bytes]:
    """The message that carries several messages: each has a counter, a header frame and a body.

    :param epoch: the first half of all their ids.
    """
    # Columns, not rows: a row for each message would cost more than all the rest.
    first = headers[0]
    if headers.count(first) == len(headers):  # most batches have one header
        table: Iterable[bytes] = (first,)
        indexes = [0] * len(headers)
    else:
        known: dict[bytes, int] = {}
        indexes = [known.setdefault(header, len(known)) for header in headers]
        table = known
    batch = Batch(counters=counters, header_indexes=indexes, headers=table, bodies=bodies)
    return [epoch, b"", batch.SerializeToString()]


def unpack(frame: bytes) -> tuple[list[bytes], Iterator[tuple[int, int, bytes]]]:
    """The headers of a batch, and its messages: counter, index of the header, body.

    :raises BadBatch: if the frame is not a batch.
    """
    try:
        batch = Batch.FromString(frame)
    except (DecodeError, UnicodeDecodeError) as error:  # the latter on PyPy
        raise BadBatch("the batch cannot be parsed") from error
    size = len(batch.counters)
    if not size:
        raise BadBatch("the batch is empty")
    if size > MAX_BATCH or len(batch.headers) > size:
        raise BadBatch("the batch is too large")
    indexes = list(batch.header_indexes)
    if len(batch.bodies) != size or len(indexes) != size:
        raise BadBatch("the batch's counters, indexes and bodies differ in number")
    if max(indexes) >= len(batch.headers):
        raise BadBatch("the batch refers to a header that it does not have")
    return list(batch.headers), zip(batch.counters, indexes, batch.bodies, strict=True)
