"""Links, pipes and folders in the output: none is followed or opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.codegen.support import generate, run, tree, write_protos
from txzmq_codegen.output import write_file

MESSAGE = 'syntax = "proto3";\npackage acme;\nmessage M {}\n'
SERVICE = MESSAGE + "service S { rpc Do(M) returns (M); }\n"
OTHER = MESSAGE.replace("acme", "other")
PROTOS = {"acme/x.proto": MESSAGE, "acme/deep/y.proto": SERVICE.replace("acme", "deep")}


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert generate({**PROTOS, "other.proto": OTHER}, folder) == (0, "", "")
    return folder


@pytest.fixture
def made(tmp_path: Path, _made: Path) -> Path:
    """A folder with protos and what was generated from them."""
    return shutil.copytree(_made, tmp_path / "made")


def _link_folder(out: Path, other: Path) -> str:
    (out / "acme").rename(other)
    (out / "acme").symlink_to(other)
    return "generated/acme"


def _link_deep_folder(out: Path, other: Path) -> str:
    (out / "acme/deep").rename(other)
    (out / "acme/deep").symlink_to(other)
    return "generated/acme/deep"


def _link_file(out: Path, other: Path) -> str:
    (out / "acme/x_pb2.py").rename(other)
    (out / "acme/x_pb2.py").symlink_to(other)
    return "generated/acme/x_pb2.py"


def _dangle(out: Path, other: Path) -> str:
    (out / "acme/x_pb2.py").unlink()
    (out / "acme/x_pb2.py").symlink_to(other)
    return "generated/acme/x_pb2.py"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device", "link to a folder"])
def test_a_descriptor_set_replaces_files_only(tmp_path: Path, kind: str) -> None:
    """A device would be gone, for all programs of the machine if root runs the generator."""
    path = tmp_path / "set.binpb"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull if "device" in kind else tmp_path)
    before = path.lstat().st_ino
    ran = generate(PROTOS, tmp_path, "--descriptor-set", "set.binpb")
    assert ran.status == 1
    assert ran.err.startswith("set.binpb:1:1: error: this is no ordinary file")
    assert path.lstat().st_ino == before
    assert not (tmp_path / "generated").exists()


@pytest.mark.parametrize("link", [_link_folder, _link_deep_folder, _link_file, _dangle])
@pytest.mark.parametrize("option", [None, "--prune", "--check", "--diff"])
def test_links_in_the_output_are_not_followed(
    made: Path, link: Callable[[Path, Path], str], option: str | None
) -> None:
    where = link(made / "generated", made / "elsewhere")
    changed = {name: text + "message More {}\n" for name, text in PROTOS.items()}
    write_protos(changed, made / "protos")
    before = tree(made)
    ran = run("protos", *([option] if option else []), folder=made)
    assert ran.status == 1
    assert ran.err.splitlines() == [
        f"{where}:1:1: error: this is a link, and links in the output are not followed",
        "  help: move it away, or choose another output folder with -o",
    ]
    assert ran.out == ""
    assert tree(made) == before


@pytest.mark.parametrize("link", [_link_folder, _link_file])
@pytest.mark.parametrize("option", ["--prune", "--check"])
def test_what_is_stale_behind_a_link_is_none_of_ours(
    made: Path, link: Callable[[Path, Path], str], option: str
) -> None:
    where = link(made / "generated", made / "elsewhere")
    shutil.rmtree(made / "protos/acme")
    elsewhere = made / "elsewhere"
    before = tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    ran = run("protos", option, folder=made)
    assert f"{where}: stale" not in ran.out
    assert "error: this is" not in ran.err
    assert before == (tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes())
    assert (made / where).is_symlink()


def test_a_part_of_the_output_behind_a_link_is_not_searched(tmp_path: Path) -> None:
    write_protos({**PROTOS, "acme/old.proto": MESSAGE.replace("acme", "old")}, tmp_path / "protos")
    run("protos", "-o", "elsewhere", folder=tmp_path)
    (tmp_path / "protos/acme/old.proto").unlink()
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated/acme").symlink_to(tmp_path / "elsewhere/acme")
    options = ("protos/acme/deep", "-I", "protos", "--prune")
    assert run(*options, folder=tmp_path).status == 1
    assert "acme/old_pb2.py" in tree(tmp_path / "elsewhere")


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "generated").symlink_to("real")
    assert generate(PROTOS, tmp_path) == (0, "", "")
    assert "acme/x_pb2.py" in tree(tmp_path / "real")
    assert run("protos", "--check", folder=tmp_path) == (0, "", "")


@pytest.mark.parametrize("name", ["__init__.py", "py.typed", "acme/__init__.py"])
def test_a_package_file_that_is_a_link_is_left_alone(made: Path, name: str) -> None:
    generate(PROTOS, made)
    (made / "mine").write_text("mine = 1\n", "utf-8")
    for target in ("mine", "nothing"):
        (made / "generated" / name).unlink()
        (made / "generated" / name).symlink_to(made / target)
        for option in ("--prune", "--check"):
            assert run("protos", option, folder=made) == (0, "", "")
        assert (made / "generated" / name).readlink() == made / target
    assert (made / "mine").read_text("utf-8") == "mine = 1\n"
    assert not (made / "nothing").exists()


def test_what_is_neither_file_nor_folder_is_not_opened(made: Path) -> None:
    pipe = made / "generated/acme/x_pb2.py"
    pipe.unlink()
    os.mkfifo(pipe)  # to open it would wait for a writer
    os.mkfifo(made / "generated/acme/stale_pb2.py")
    ran = run("protos", folder=made)
    assert ran.status == 1
    assert ran.err.startswith("generated/acme/x_pb2.py:1:1: error: this is no ordinary file")
    pipe.unlink()
    assert run("protos", "--prune", folder=made).status == 0


def test_a_descriptor_set_in_the_output_follows_no_link(made: Path) -> None:
    (made / "elsewhere").mkdir()
    (made / "generated/sets").symlink_to(made / "elsewhere")
    options = ("--descriptor-set", "generated/sets/all.binpb")
    ran = run("protos", *options, folder=made)
    assert ran.status == 1
    assert ran.err.startswith("generated/sets:1:1: error: this is a link")
    assert not list((made / "elsewhere").iterdir())


def test_a_file_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert (tmp_path / "link").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_what_is_not_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
