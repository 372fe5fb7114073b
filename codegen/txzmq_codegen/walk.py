"""Finds files in folders, through links, and says what keeps it from looking."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from txzmq_codegen.problems import Position, Problem

__all__ = ["Walk"]

#: Folders in which nobody keeps protos of their own.
_SKIPPED: Final = frozenset({"node_modules", "__pycache__"})


class Walk:
    """Looks for ``.proto`` files.

    :ivar problems: what it came across: errors, and warnings of links that lead in circles.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def protos(self, path: Path) -> Iterator[Path]:
        """*path* itself, if it is a file; else the protos below it, in the order of their names."""
        if path.is_dir():
            yield from self._below(path, (os.path.realpath(path),))
        elif self._is_fine(path):
            yield path

    def _below(self, folder: Path, around: tuple[str, ...]) -> Iterator[Path]:
        """The protos in *folder*.

        :param around: the real paths of that folder and of those that led to it.
        """
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self._report(folder, f"this folder cannot be read: {error.strerror}", _PERMISSION)
            return
        for entry in entries:
            path = folder / entry.name
            if _is_folder(entry):
                if entry.name.startswith(".") or entry.name in _SKIPPED:
                    continue
                real = os.path.join(around[-1], entry.name)
                if entry.is_symlink():
                    real = os.path.realpath(path)
                    if real in around:
                        self._warn_of_circle(path)
                        continue
                yield from self._below(path, (*around, real))
            elif entry.name.endswith(".proto") and self._is_fine(path):
                yield path

    def _is_fine(self, path: Path) -> bool:
        """Whether *path* is a file that can be read."""
        try:
            mode = path.stat().st_mode
        except OSError as error:
            what = "this link leads nowhere" if path.is_symlink() else str(error.strerror)
            self._report(path, what, "remove it, or give it something to lead to")
            return False
        if not stat.S_ISREG(mode):
            self._report(path, "this is no file", "rename it")
            return False
        if not os.access(path, os.R_OK):
            self._report(path, "this file cannot be read: Permission denied", _PERMISSION)
            return False
        return True

    def _report(self, path: Path, what: str, advice: str) -> None:
        self.problems.append(Problem(Position(str(path), 1, 1), what, advice))

    def _warn_of_circle(self, path: Path) -> None:
        what = "this link leads back to a folder that it is in, and is not followed"
        advice = "remove the link"
        self.problems.append(Problem(Position(str(path), 1, 1), what, advice, "warning"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


_PERMISSION: Final = "give yourself the permission to read it, or name other folders"
