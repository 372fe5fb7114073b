"""What a process has: descriptors, threads, delayed calls, memory."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any


def resources(reactor: Any) -> dict[str, int]:
    """What must be the same before and after."""
    gc.collect()
    # Twisted keeps its threads for the process's life; the proxies use them to connect.
    pooled = reactor.threadpool.threads if reactor.threadpool else ()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")) - len(pooled),
        "delayed calls": len([call for call in reactor.getDelayedCalls() if call.active()]),
    }


def more(now: dict[str, int], before: dict[str, int]) -> list[str]:
    """Of what there is more now, each in words. There may be less: all had to be made once."""
    return [
        f"{now[what]} {what} at the end, and {before[what]} at the start"
        for what in before
        if now[what] > before[what]
    ]


def resident() -> int:
    """KiB of memory that this process has, garbage apart."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("Linux tells VmRSS")
