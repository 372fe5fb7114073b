"""Generates again whenever a proto changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from txzmq_codegen.walk import Walk

__all__ = ["snapshot", "watch"]


def snapshot(paths: Sequence[Path]) -> Mapping[str, tuple[int, int]]:
    """Time and size of every proto in *paths*, through links."""
    found: dict[str, tuple[int, int]] = {}
    for path in paths:
        for file in Walk().protos(path):
            try:
                status = file.stat()
            except OSError:
                continue  # deleted since it was listed: the next look sees that
            found[os.fspath(file)] = (status.st_mtime_ns, status.st_size)
    return found


def watch(paths: Sequence[Path], run: Callable[[], object], wait: Callable[[], object]) -> None:
    """Call *run* at once, and again after each change of a proto in *paths*; does not return.

    Polling: it sees changes on network and container file systems too, and five thousand files
    take some twenty milliseconds.

    :param wait: sleeps until the next look; what it raises ends the watch.
    """
    seen: Mapping[str, tuple[int, int]] | None = None
    while True:
        now = snapshot(paths)
        if now != seen:
            seen = now
            run()
        wait()
