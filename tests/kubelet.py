"""A folder as Kubernetes makes it of a Secret or a ConfigMap.

Each name is a link to one in ``..data``, which is a link to a folder with a time in its name. An
update makes another such folder, and puts the new link ``..data`` in the old one's place: see
AtomicWriter in pkg/volume/util of Kubernetes. Links of names that are new or gone come and go a
moment later.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

#: What each Secret with ``defaultMode: 0440`` has, or one with 0400 in a pod with ``fsGroup``.
MODE = 0o440


class Volume:
    """A mounted Secret or ConfigMap."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self._times = itertools.count(1)
        folder.mkdir()
        self.update(files)

    def update(self, files: Mapping[str, str]) -> None:
        """What the volume has from now on."""
        for _ in self.steps(files):
            pass

    def steps(self, files: Mapping[str, str]) -> Iterator[str]:
        """As :meth:`update`, one change of the folder after the other, each of which it names."""
        data = self.folder / "..data"
        old = data.resolve() if data.exists() else None
        new = self.folder / f"..2026_11_30_17_12_54.{next(self._times)}"
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
            (new / name).chmod(MODE)
        yield "written"
        (self.folder / "..data_tmp").symlink_to(new.name)
        os.replace(self.folder / "..data_tmp", data)
        yield "swapped"
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
                yield f"{name} is there"
        for link in sorted(self.folder.iterdir()):
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
                yield f"{link.name} is gone"
        if old is not None:
            shutil.rmtree(old)
            yield "cleaned up"
