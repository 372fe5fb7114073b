"""Files that change are noticed."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.task import Clock

from tests.kubelet import Volume
from tests.serve.fakes import House
from txzmq._serve.reloading import FileWatcher, KeyWatcher


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


class WatchedKeys:
    """A watcher of the keys of a folder."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.changes = 0
        self.watcher = KeyWatcher(self.clock, str(folder), 5.0, self._changed)
        self.watcher.start()

    def _changed(self) -> None:
        self.changes += 1

    def look(self, times: int = 1) -> None:
        self.clock.pump([5.0] * times)


def test_keys_that_come_change_and_go_are_told(tmp_path: Path) -> None:
    (tmp_path / "alice.key").write_text("alice's")
    watched = WatchedKeys(tmp_path)
    watched.look(3)
    assert watched.changes == 0
    (tmp_path / "bob.key").write_text("bob's")
    (tmp_path / "notes.txt").write_text("no key")
    watched.look(2)
    assert watched.changes == 1
    (tmp_path / "notes.txt").write_text("no key at all")
    watched.look(2)
    assert watched.changes == 1
    (tmp_path / "bob.key").write_text("another of bob's")
    watched.look(2)
    assert watched.changes == 2
    (tmp_path / "alice.key").unlink()
    watched.look(3)
    assert watched.changes == 3


def test_a_folder_of_keys_may_go_and_come_back(tmp_path: Path) -> None:
    """A worker that cannot read it keeps the keys that it has, and says so."""
    folder = tmp_path / "clients"
    watched = WatchedKeys(folder)
    watched.look(3)
    assert watched.changes == 0
    folder.mkdir()
    (folder / "alice.key").write_text("alice's")
    watched.look(2)
    assert watched.changes == 1
    folder.rename(tmp_path / "elsewhere")
    watched.look(2)
    assert watched.changes == 2


def test_a_volume_of_kubernetes_is_told_of_when_its_update_is_over(tmp_path: Path) -> None:
    """Whoever looks in the middle of it may find links without files."""
    old = {"alice.key": "a", "bob.key": "b"}
    new = {"alice.key": "A", "carol.key": "c"}  # of the same size
    steps = [*Volume(tmp_path / "clients", old).steps(new)]
    for number, step in enumerate(steps, 1):
        volume = Volume(tmp_path / f"clients{number}", old)
        watched = WatchedKeys(volume.folder)
        update = volume.steps(new)
        for _ in range(number):
            next(update)
        watched.look()
        for _ in update:
            pass
        told = watched.changes
        watched.look(3)
        assert (told, watched.changes) == (0, 1), step


def test_keys_are_not_looked_at_after_the_end(tmp_path: Path) -> None:
    watched = WatchedKeys(tmp_path)
    house = House(1)
    house.all_ready()
    house.supervisor.stop()
    watched.watcher.changed(house.supervisor)
    assert watched.clock.getDelayedCalls() == []
