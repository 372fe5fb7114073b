"""What stands in the way of the output: files of others, and links, which are never followed.

A link in the output folder may lead anywhere, for instance to files that the folder's author could
not write himself. Only the output folder itself may be one, for the user has named it.
"""

from __future__ import annotations

import stat
from functools import cache
from pathlib import Path

from txzmq_codegen.problems import Position, Problem, Problems

__all__ = ["Obstacles", "in_the_way", "is_plain_file"]

_ELSEWHERE = "move it away, or choose another output folder with -o"


def in_the_way(path: Path, what: str) -> Problem:
    """The problem that *path*, of which *what* is said, cannot be written."""
    return Problem(Position(str(path), 1, 1), what, _ELSEWHERE)


def is_plain_file(path: Path) -> bool:
    """Whether *path* is a file, and neither a link to one nor anything else."""
    return _kind(path) == stat.S_IFREG


def _kind(path: Path) -> int:
    """The type of what stands at *path*, links not followed; 0 if nothing does."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


class Obstacles:
    """What keeps files from being written below *out*; nothing may change meanwhile."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = cache(self._folder_uncached)

    def root(self) -> Problem | None:
        """What is wrong with the output folder itself, which need not exist."""
        for folder in (self._out, *self._out.parents):
            if folder.is_dir():
                return None
            if _kind(folder):
                return in_the_way(folder, "this is no folder, and the output needs one here")
        return None

    def folder(self, name: str) -> Problem | None:
        """What keeps files from folder *name*, with slashes, below the output folder."""
        return self._folder(name)

    def _folder_uncached(self, name: str) -> Problem | None:
        if not name:
            return None
        return self._other_than(stat.S_IFDIR, "folder", name)

    def file(self, name: str) -> Problem | None:
        """What keeps file *name* from being read and written."""
        return self._other_than(stat.S_IFREG, "ordinary file", name)

    def _other_than(self, wanted: int, what: str, name: str) -> Problem | None:
        """The first on the way to *name* that is no folder, or itself if it is not as wanted."""
        around = self._folder(name.rpartition("/")[0])
        if around is not None:
            return around
        path = self._out / name
        kind = _kind(path)
        if kind == stat.S_IFLNK:
            return in_the_way(path, "this is a link, and links in the output are not followed")
        if kind not in (0, wanted):
            return in_the_way(path, f"this is no {what}, and the output needs one here")
        return None

    def check(self, path: Path) -> None:
        """Look at the path of a file that is not generated and may be below the output folder.

        :raises Problems: if it cannot be written, or is a device, which a file would replace.
        """
        if path.exists() and not path.is_file():
            what = "this is no ordinary file, and the descriptor set needs one here"
            raise Problems([Problem(Position(str(path), 1, 1), what, "name another file")])
        try:
            name = path.absolute().relative_to(self._out.absolute()).as_posix()
        except ValueError:
            return
        found = self.file(name)
        if found is not None:
            raise Problems([found])
