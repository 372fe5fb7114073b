"""``runtime_path``: where programs of one user meet, and no other user can go."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, InsecureBindError, Server, runtime_path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ZeroMQ has no ipc on Windows")


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The system's folder for sockets."""
    base = tmp_path / "run"
    base.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_folder_is_made_for_this_user_alone(base: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        address = runtime_path("greeter")
    finally:
        os.umask(before)
    assert address == f"ipc://{base}/txzmq/greeter"
    assert mode(base / "txzmq") == 0o700
    assert runtime_path("greeter") == address  # for the client, too
    assert list((base / "txzmq").iterdir()) == []


def test_a_server_and_its_client_meet_there(base: Path, one_loop: Loop) -> None:
    """Without ``insecure=True``, and streams have their place, too."""

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        assert server.listen(runtime_path("greeter")) == f"ipc://{base}/txzmq/greeter"
        channel = Channel(factory, runtime_path("greeter"))
        assert (await channel.unary_unary(ECHO, text("hello"))).value == "hello"
        assert {path.name for path in (base / "txzmq").iterdir()} == {"greeter", "greeter.streams"}
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\nb", "a\0b"])
def test_a_name_is_no_path(base: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^name must be"):
        runtime_path(name)
    assert list(base.iterdir()) == []


def test_a_name_that_is_too_long_is_refused_before_anything_is_made(base: Path) -> None:
    with pytest.raises(ValueError, match="the path is too long"):
        runtime_path("x" * 108)
    assert list(base.iterdir()) == []


def test_a_folder_that_others_can_enter_is_refused(base: Path) -> None:
    for more in (0o001, 0o010, 0o050, 0o005, 0o077):
        (base / "txzmq").mkdir(exist_ok=True)
        (base / "txzmq").chmod(0o700 | more)
        with pytest.raises(InsecureBindError, match="chmod 700 it"):
            runtime_path("greeter")


def test_a_link_in_place_of_the_folder_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (base / "txzmq").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InsecureBindError, match="txzmq is a link: move it away"):
        runtime_path("greeter")


def test_a_file_in_place_of_the_folder_is_refused(base: Path) -> None:
    (base / "txzmq").touch()
    with pytest.raises(InsecureBindError, match="txzmq is no folder: move it away"):
        runtime_path("greeter")


def test_a_folder_of_another_user_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_path("greeter")
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        status = list(real(path))
        if str(path) == str(base / "txzmq"):
            status[stat.ST_UID] = 4_711
        return os.stat_result(status)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(InsecureBindError, match="belongs to another user, of id 4711"):
        runtime_path("greeter")


@pytest.mark.parametrize("which", ["run", "."])
def test_a_folder_above_that_others_can_write_to_is_refused(
    base: Path, tmp_path: Path, which: str
) -> None:
    (tmp_path / which).chmod(0o777)
    with pytest.raises(InsecureBindError, match=r"others can write to .*: set XDG_RUNTIME_DIR"):
        runtime_path("greeter")
    assert list(base.iterdir()) == []
    (tmp_path / which).chmod(0o1777)  # with the sticky bit, as /tmp has it
    assert runtime_path("greeter") == f"ipc://{base}/txzmq/greeter"


def test_a_link_on_the_way_is_followed_where_nobody_else_can_change_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir(0o755)
    (place / "link").symlink_to(base)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "link"))
    assert runtime_path("greeter") == f"ipc://{base}/txzmq/greeter"
    place.chmod(0o777)
    with pytest.raises(InsecureBindError, match="is a link in a folder that others can write to"):
        runtime_path("greeter")


@pytest.mark.parametrize("given", [None, "", "run", "./run"])
def test_without_the_variable_the_systems_folder_is_taken(
    monkeypatch: pytest.MonkeyPatch, base: Path, given: str | None
) -> None:
    """A relative path counts as none, as the specification of the variable says."""
    monkeypatch.chdir(base.parent)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if given is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    monkeypatch.setattr(os, "geteuid", lambda: 4_711)

    def isdir(path: str) -> bool:
        return path == "/run"

    monkeypatch.setattr(os.path, "isdir", isdir)
    with pytest.raises(FileNotFoundError, match="there is no folder /run/user/4711 for sockets"):
        runtime_path("greeter")


def test_a_variable_that_names_no_folder_is_said(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base / "nix"))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*/nix for sockets of this"):
        runtime_path("greeter")


def test_programs_that_start_together_share_the_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has made it between two steps of this one."""
    make = os.mkdir

    def mkdir(path: str, mode: int) -> None:
        make(path, mode)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert runtime_path("greeter") == f"ipc://{base}/txzmq/greeter"
