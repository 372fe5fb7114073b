"""Keeps the C library's allocator from returning the memory of large messages to the kernel."""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["keep_large_blocks"]

_LARGE_BLOCK: Final = 16 * 1024 * 1024


@functools.cache
def keep_large_blocks() -> None:
    """Have glibc keep up to 32 MiB of freed memory per heap for the next large message.

    By default glibc returns the free end of a heap to the kernel, and the next large message has to
    get it again, page by page: half of what a message of 1 MiB costs. glibc keeps twice the size of
    the largest block that was freed so far (``mallopt(3)``, ``M_MMAP_THRESHOLD``), so this frees a
    large block that was never written to. ``MALLOC_TRIM_THRESHOLD_`` in the environment overrides
    it; other allocators are not affected.
    """
    bytes(_LARGE_BLOCK)
