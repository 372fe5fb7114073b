"""What the C library's allocator is told about large messages."""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["keep_large_blocks"]

_LARGE_BLOCK: Final = 16 * 1024 * 1024


@functools.cache
def keep_large_blocks() -> None:
    """Have freed memory kept for the next large message, up to 32 MiB of it per thread's heap.

    glibc gives the free end of a heap back to the kernel, and the next large message takes it
    anew, page by page: half of all that a message of 1 MiB costs. How much is kept follows from the
    largest block that was freed (``mallopt(3)``, ``M_MMAP_THRESHOLD``), and the one here is never
    written to. ``MALLOC_TRIM_THRESHOLD_`` in the environment says otherwise, and other allocators
    do as they like.
    """
    bytes(_LARGE_BLOCK)
