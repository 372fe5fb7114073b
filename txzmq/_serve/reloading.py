"""``--reload`` and ``--reload-keys``: look again and again whether files have changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twisted.logger import Logger

from txzmq._key_pair import PUBLIC_SUFFIX
from txzmq._reactor import Clock
from txzmq._serve.supervisor import Supervisor, Watching
from txzmq._timer import ResettableTimer

__all__ = ["FileWatcher", "KeyWatcher"]

_log = Logger()
#: Seconds between two looks at the code.
_INTERVAL: Final = 0.5
#: Looks after which a change is told although files go on changing: some are written all the time.
_MOST_LOOKS: Final = 10

_Stamp = tuple[int, int, int] | None


class _Watcher(Watching):
    """Calls a function when files have changed, and no more has changed since the last look.

    If files change at each look, it is called all the same after some seconds.
    """

    def __init__(self, clock: Clock, interval: float, changed: Callable[[], None]) -> None:
        """:param changed: called without arguments."""
        self._tell = changed
        self._interval = interval
        self._stamps: dict[str, _Stamp] = {}
        self._timer = ResettableTimer(clock, self._look)
        # At how many looks files had changed since the last call.
        self._changes = 0

    def start(self) -> None:
        """Look from now on."""
        self._timer.start(self._interval)

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    def _found(self) -> Mapping[str, _Stamp]:
        """The files as they are now; None for one that is gone."""
        raise NotImplementedError

    def _look(self) -> None:
        found = self._found()
        changed = [
            path
            for path in sorted({*self._stamps, *found})
            if self._stamps.get(path) != found.get(path)
        ]
        self._stamps = dict(found)
        if changed:
            # An editor may write several files, or one in several steps.
            self._changes += 1
            _log.info("changed: {files}", files=", ".join(map(os.path.relpath, changed)))
        if self._changes > _MOST_LOOKS or (self._changes and not changed):
            self._changes = 0
            self._tell()
        self._timer.start(self._interval)

    def changed(self, supervisor: Supervisor) -> None:
        """Look no more once it stops; see :class:`~txzmq._serve.supervisor.Watching`."""
        if supervisor.is_stopping:
            self.stop()


class FileWatcher(_Watcher):
    """Looks at the files that the workers have imported."""

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        """:param changed: called without arguments."""
        super().__init__(clock, _INTERVAL, changed)

    @property
    def files(self) -> list[str]:
        """Those that are looked at."""
        return [*self._stamps]

    def _found(self) -> Mapping[str, _Stamp]:
        return {path: _stamp(path) for path in self._stamps}

    def imported(self, files: Sequence[str]) -> None:
        """Look at these files, too; see :class:`~txzmq._serve.supervisor.Watching`."""
        for path in files:
            if path not in self._stamps:
                self._stamps[path] = _stamp(path)


class KeyWatcher(_Watcher):
    """Looks at the clients' keys of a folder: those that are there, and those that come."""

    def __init__(
        self, clock: Clock, folder: str, interval: float, changed: Callable[[], None]
    ) -> None:
        """
        :param interval: seconds between two looks.
        :param changed: called without arguments.
        """
        super().__init__(clock, interval, changed)
        self._folder = folder

    def start(self) -> None:
        """Look from now on. Who reads the folder later than this misses no change."""
        self._stamps = dict(self._found())
        super().start()

    def _found(self) -> Mapping[str, _Stamp]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return {}  # who reads it says why
        # Links are followed: in Kubernetes each name is one, by way of a folder that is replaced.
        return {
            path: _stamp(path)
            for path in (
                os.path.join(self._folder, name) for name in names if name.endswith(PUBLIC_SUFFIX)
            )
        }


def _stamp(path: str) -> _Stamp:
    """What changes with a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
