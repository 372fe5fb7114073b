"""A progress bar for long runs in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ["Bar", "files"]

#: Seconds that a run may take before anything is shown.
_PATIENCE: Final = 0.5
_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"


def files(count: int) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} file" if count == 1 else f"{count} files"


class Bar:
    """Shows how far a run is; nothing if the stream is not a terminal.

    A context manager, which clears the line at the end.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started = clock()
        self._enabled = stream.isatty()
        self._shown = False

    def show(self, what: str, done: float) -> None:
        """Show which step begins, and which share of the run is over, from 0 to 1."""
        # The first step is the longest, so it is shown at once if it is known to be long.
        late = self._clock() - self._started >= _PATIENCE
        if self._enabled and (late or not done):
            full = round(done * _WIDTH)
            bar = "#" * full + "." * (_WIDTH - full)
            self._stream.write(f"{_CLEAR}[{bar}] {what}")
            self._stream.flush()
            self._shown = True

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._stream.write(_CLEAR)
            self._stream.flush()
