"""``--reload``: looks whether the files have changed that the workers have imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from twisted.logger import Logger

from txzmq._reactor import Clock
from txzmq._serve.supervisor import Supervisor, Watching
from txzmq._timer import ResettableTimer

__all__ = ["FileWatcher"]

_log = Logger()
#: Seconds between two looks.
_INTERVAL: Final = 0.5
#: Looks after which a change is told although files go on changing: some are written all the time.
_MOST_LOOKS: Final = 10

_Stamp = tuple[int, int] | None


class FileWatcher(Watching):
    """Calls a function when a file has changed, and no more has changed since the last look.

    If files change at each look, it is called all the same after some seconds.
    """

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        """:param changed: called without arguments."""
        self._tell = changed
        self._stamps: dict[str, _Stamp] = {}
        self._timer = ResettableTimer(clock, self._look)
        # At how many looks files had changed since the last call.
        self._changes = 0

    @property
    def files(self) -> list[str]:
        """Those that are looked at."""
        return [*self._stamps]

    def start(self) -> None:
        """Look from now on."""
        self._timer.start(_INTERVAL)

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    def _look(self) -> None:
        changed = [path for path, before in self._stamps.items() if _stamp(path) != before]
        for path in changed:
            self._stamps[path] = _stamp(path)
        if changed:
            # An editor may write several files, or one in several steps.
            self._changes += 1
            _log.info("changed: {files}", files=", ".join(map(os.path.relpath, changed)))
        if self._changes > _MOST_LOOKS or (self._changes and not changed):
            self._changes = 0
            self._tell()
        self._timer.start(_INTERVAL)

    # -- what it is told by the supervisor -----------------------------------------------------

    def imported(self, files: Sequence[str]) -> None:
        """Look at these files, too."""
        for path in files:
            if path not in self._stamps:
                self._stamps[path] = _stamp(path)

    def changed(self, supervisor: Supervisor) -> None:
        """Look no more once it stops."""
        if supervisor.is_stopping:
            self.stop()


def _stamp(path: str) -> _Stamp:
    """What changes with a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
