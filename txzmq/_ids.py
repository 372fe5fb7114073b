"""Request ids that never come twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

__all__ = ["EPOCH_SIZE", "ID_SIZE", "new_epoch", "request_id", "request_ids"]

#: Bytes of an id that are the same for all of one source.
EPOCH_SIZE = 8
#: Bytes of an id.
ID_SIZE = 16


def new_epoch() -> bytes:
    """The first half of the ids of one source: 8 random bytes.

    They distinguish the replies to this source's requests from those to an earlier one's.
    """
    return os.urandom(EPOCH_SIZE)


def request_id(epoch: bytes, counter: int) -> bytes:
    """An id: the epoch, and a counter of 64 bits, most significant byte first."""
    return epoch + counter.to_bytes(ID_SIZE - EPOCH_SIZE, "big")


def request_ids() -> Callable[[], bytes]:
    """A source of ids, whose counter grows by one with each."""
    epoch, counter = new_epoch(), count(1)
    return lambda: request_id(epoch, next(counter))
