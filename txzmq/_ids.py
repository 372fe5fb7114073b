"""Request ids that never come twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

__all__ = ["EPOCH_SIZE", "ID_SIZE", "request_ids"]

#: Bytes of an id that are the same for all of one source.
EPOCH_SIZE = 8
#: Bytes of an id.
ID_SIZE = 16


def request_ids() -> Callable[[], bytes]:
    """A source of ids: 8 random bytes, the same for all of them, and a counter of 64 bits.

    The counter grows by one with each id, most significant byte first. The random bytes keep the
    replies to an earlier connection's requests apart from this one's.
    """
    epoch, counter = os.urandom(EPOCH_SIZE), count(1)
    return lambda: epoch + next(counter).to_bytes(ID_SIZE - EPOCH_SIZE, "big")
