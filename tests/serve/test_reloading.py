"""Files that change are noticed."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.task import Clock

from tests.serve.fakes import House
from txzmq._serve.reloading import FileWatcher


class Watched:
    """A watcher of files, with time of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.changes = 0
        self.watcher = FileWatcher(self.clock, self._changed)
        self.watcher.start()

    def _changed(self) -> None:
        self.changes += 1

    def look(self, times: int = 1) -> None:
        self.clock.pump([0.5] * times)


def test_a_change_is_told_once_it_is_over(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("a = 1")
    watched = Watched()
    watched.watcher.imported([str(file)])
    watched.look(3)
    assert watched.changes == 0
    file.write_text("a = 22")
    watched.look()
    file.write_text("a = 333")
    watched.look()
    assert watched.changes == 0, "it may be in the middle of it"
    watched.look()
    assert watched.changes == 1
    watched.look(3)
    assert watched.changes == 1


def test_a_file_that_changes_all_the_time_holds_up_nothing_for_long(tmp_path: Path) -> None:
    file = tmp_path / "version.py"
    watched = Watched()
    watched.watcher.imported([str(file)])
    for number in range(100):
        file.write_text("#" * number)
        watched.look()
    assert watched.changes == 9
    watched.look(2)
    assert watched.changes == 10


def test_the_time_of_a_file_counts_and_its_removal(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("a = 1")
    watched = Watched()
    watched.watcher.imported([str(file)])
    os.utime(file, (1, 1))
    watched.look(2)
    assert watched.changes == 1
    file.unlink()
    watched.look(2)
    file.write_text("a = 1")
    watched.look(2)
    assert watched.changes == 3


def test_a_change_between_import_and_roll_is_seen(tmp_path: Path) -> None:
    """A worker that becomes ready later does not hide it."""
    file = tmp_path / "shop.py"
    file.write_text("a = 1")
    watched = Watched()
    watched.watcher.imported([str(file)])
    file.write_text("a = 22")
    watched.watcher.imported([str(file)])
    watched.look(2)
    assert watched.changes == 1


def test_nothing_is_looked_at_after_the_end() -> None:
    watched = Watched()
    house = House(1)
    house.all_ready()
    watched.watcher.changed(house.supervisor)
    assert len(watched.clock.getDelayedCalls()) == 1
    house.supervisor.stop()
    watched.watcher.changed(house.supervisor)
    assert watched.clock.getDelayedCalls() == []
