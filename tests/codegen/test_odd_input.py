"""Input that is not as it usually is: links, folders, permissions, protobuf's own files, sets."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.codegen.support import generate, python, run, tree, write_protos
from txzmq_codegen.diagnose import imports_of
from txzmq_codegen.layout import WELL_KNOWN
from txzmq_codegen.walk import Walk

MESSAGE = 'syntax = "proto3";\npackage acme;\nmessage M {}\n'


def test_a_mark_at_the_beginning_of_a_text_is_fine(tmp_path: Path) -> None:
    assert generate({"x.proto": f"\ufeff{MESSAGE}"}, tmp_path) == (0, "", "")
    python("from generated.x_pb2 import M", tmp_path)


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    assert generate({"x.proto": ""}, tmp_path).status == 0
    python("import generated.x_pb2", tmp_path)


def test_a_link_that_leads_back_is_told_and_not_followed(tmp_path: Path) -> None:
    write_protos({"a/b/x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "protos/a/b/up").symlink_to("..")
    (tmp_path / "protos/a/self").symlink_to(".")
    ran = run("protos", folder=tmp_path)
    assert ran.status == 0
    what = "warning: this link leads back to a folder that it is in, and is not followed"
    assert ran.err.splitlines() == [
        f"protos/a/b/up:1:1: {what}",
        "  help: remove the link",
        f"protos/a/self:1:1: {what}",
        "  help: remove the link",
    ]
    assert "a/b/x_pb2.py" in tree(tmp_path / "generated")


def test_a_circle_over_another_folder_is_found(tmp_path: Path) -> None:
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "other").mkdir()
    (tmp_path / "protos/other").symlink_to("../other")
    (tmp_path / "other/back").symlink_to("../protos")
    ran = run("protos", folder=tmp_path)
    assert ran.status == 0
    assert ran.err.startswith("protos/other/back:1:1: warning: this link leads back")


def test_a_linked_folder_and_a_linked_file_are_read(tmp_path: Path) -> None:
    write_protos({"deep/x.proto": MESSAGE, "y.proto": MESSAGE.replace("M", "N")}, tmp_path / "far")
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos/linked").symlink_to("../far/deep")
    (tmp_path / "protos/z.proto").symlink_to("../far/y.proto")
    assert run("protos", folder=tmp_path) == (0, "", "")
    python("import generated.linked.x_pb2, generated.z_pb2", tmp_path)


def test_hard_links_are_two_names_too(tmp_path: Path) -> None:
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "protos/y.proto").hardlink_to(tmp_path / "protos/x.proto")
    ran = run("protos", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("protos/y.proto:1:1: error: this is the same file as protos/x.proto")


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    text = MESSAGE.replace("M", "N").replace("acme;", 'acme;\nimport "x.proto/y.proto";')
    protos = {"x.proto/y.proto": MESSAGE, "z.proto": text + "message U { M m = 1; }\n"}
    assert generate(protos, tmp_path) == (0, "", "")
    python("import generated.x.proto.y_pb2, generated.z_pb2", tmp_path)
    assert run("protos/x.proto", "-o", "other", folder=tmp_path) == (0, "", "")
    assert "y_pb2.py" in tree(tmp_path / "other")


def test_a_folder_in_place_of_an_imported_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "protos/x.proto").mkdir(parents=True)
    ran = generate({"z.proto": 'syntax = "proto3";\nimport "x.proto";\n'}, tmp_path)
    assert ran.status == 1
    assert 'protos/z.proto:2:1: error: Import "x.proto" was not found or had errors.' in ran.err


def test_what_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "protos/gone.proto").symlink_to("nowhere")
    (tmp_path / "protos/circle.proto").symlink_to("circle.proto")
    os.mkfifo(tmp_path / "protos/pipe.proto")
    with socket.socket(socket.AF_UNIX) as listener, chdir(tmp_path / "protos"):
        listener.bind("socket.proto")
    ran = run("protos", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.splitlines()[::2] == [
        "protos/circle.proto:1:1: error: this link leads nowhere",
        "protos/gone.proto:1:1: error: this link leads nowhere",
        "protos/pipe.proto:1:1: error: this is no file",
        "protos/socket.proto:1:1: error: this is no file",
    ]
    assert not (tmp_path / "generated").exists()


def test_a_folder_and_a_file_without_permission_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the operating system tells everybody but root."""
    write_protos({"a/x.proto": MESSAGE, "secret/y.proto": MESSAGE, "z.proto": ""}, tmp_path / "p")
    scandir = os.scandir

    def scan(path: Path) -> Iterator[Any]:
        if path.name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def access(path: Path, mode: int) -> bool:
        return path.name != "z.proto"

    monkeypatch.setattr("txzmq_codegen.walk.os.scandir", scan)
    monkeypatch.setattr("txzmq_codegen.walk.os.access", access)
    ran = run("p", folder=tmp_path)
    monkeypatch.undo()
    assert ran.status == 1
    assert ran.err.splitlines()[::2] == [
        "p/secret:1:1: error: this folder cannot be read: Permission denied",
        "p/z.proto:1:1: error: this file cannot be read: Permission denied",
    ]


def test_a_single_file_is_looked_at_likewise(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.proto")
    walk = Walk()
    assert list(walk.protos(tmp_path / "x.proto")) == []
    assert [problem.message for problem in walk.problems] == ["this is no file"]


def _blocked(folder: Path) -> None:
    (folder / "generated").write_text("mine\n", "utf-8")


def _blocked_above(folder: Path) -> None:
    (folder / "up").write_text("mine\n", "utf-8")


def _blocked_inside(folder: Path) -> None:
    (folder / "generated").mkdir()
    (folder / "generated/acme").write_text("mine\n", "utf-8")


def _blocked_by_a_folder(folder: Path) -> None:
    (folder / "generated/acme/x_pb2.py").mkdir(parents=True)


@pytest.mark.parametrize(
    ("block", "output", "said"),
    [
        (_blocked, "generated", "generated:1:1: error: this is no folder, and the output needs"),
        (_blocked_above, "up/gen", "up:1:1: error: this is no folder, and the output needs"),
        (_blocked_inside, "generated", "generated/acme:1:1: error: this is no folder, and the"),
        (_blocked_by_a_folder, "generated", "generated/acme/x_pb2.py:1:1: error: this is no ord"),
    ],
)
@pytest.mark.parametrize("option", ["--prune", "--check"])
def test_an_output_that_cannot_be_one_is_told(
    tmp_path: Path, block: Any, output: str, said: str, option: str
) -> None:
    block(tmp_path)
    before = tree(tmp_path)
    write_protos({"acme/x.proto": MESSAGE}, tmp_path / "protos")
    ran = run("protos", "-o", output, option, folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith(said)
    assert ran.err.count("\n") == 2
    assert tree(tmp_path) == {**before, "protos/acme/x.proto": MESSAGE}


def test_an_output_without_permission_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    (tmp_path / "x.proto").write_text(MESSAGE, "utf-8")
    assert run("x.proto", folder=tmp_path) == (1, "", "error: generated: Permission denied\n")


def test_a_set_without_its_imports_is_told(tmp_path: Path) -> None:
    importer = MESSAGE + 'import "far/y.proto";\nimport "google/protobuf/empty.proto";\n'
    write_protos({"far/y.proto": MESSAGE.replace("M", "N")}, tmp_path / "protos")
    more = {"x.proto": importer + "message U { N n = 1; google.protobuf.Empty e = 2; }\n"}
    assert generate(more, tmp_path, "--descriptor-set", "whole").status == 0
    whole = FileDescriptorSet.FromString((tmp_path / "whole").read_bytes())
    part = FileDescriptorSet(file=[file for file in whole.file if file.name == "x.proto"])
    (tmp_path / "part").write_bytes(part.SerializeToString())
    ran = run("part", "-o", "other", folder=tmp_path)
    assert ran.status == 1
    said, advice = ran.err.splitlines()
    assert said == "part: error: x.proto in this set imports far/y.proto, which is in no set"
    assert advice.startswith("  help: write the set with all imports: protoc --include_imports")


def test_a_set_of_nothing_but_installed_files_is_told(tmp_path: Path) -> None:
    data = FileDescriptorSet()
    data.file.add(name="google/protobuf/x.proto")
    (tmp_path / "set").write_bytes(data.SerializeToString())
    ran = run("set", folder=tmp_path)
    assert ran.status == 2
    assert ran.err.startswith("error: all protos in set come with installed packages")


def test_a_name_in_a_set_ends_as_protos_do(tmp_path: Path) -> None:
    data = FileDescriptorSet()
    data.file.add(name="x.text")
    (tmp_path / "set").write_bytes(data.SerializeToString())
    ran = run("set", folder=tmp_path)
    assert ran.status == 1
    assert 'set: error: "x.text" cannot be the path of a proto: it does not end' in ran.err


def test_a_set_with_two_files_of_one_name_is_told(tmp_path: Path) -> None:
    data = FileDescriptorSet()
    for package in ("a", "b"):
        data.file.add(name="x.proto", package=package)
    (tmp_path / "set").write_bytes(data.SerializeToString())
    ran = run("set", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("set: error: 2 files in this set are called x.proto\n")


def test_a_set_that_is_called_a_proto_is_told(tmp_path: Path) -> None:
    generate({"x.proto": MESSAGE}, tmp_path, "--descriptor-set", "y.proto")
    ran = run("y.proto", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("y.proto:2:1: error: this file is no text: it has a byte 0x1c\n")
    assert ran.err.count("error: ") == 1


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_well_known_files_are_those_of_the_installed_protobuf() -> None:
    folder = _installed("google.protobuf")
    for package, names in WELL_KNOWN.items():
        there = folder.joinpath(*package.split(".")[2:])
        found = {path.name.removesuffix("_pb2.py") for path in there.glob("*_pb2.py")}
        assert names <= found
        # protobuf's tests and options of single languages are no part of the library.
        assert not {name for name in found - names if "options" not in name}


@pytest.mark.parametrize(
    "name", [f"{p.replace('.', '/')}/{n}.proto" for p, ns in WELL_KNOWN.items() for n in sorted(ns)]
)
@pytest.mark.parametrize("include", [(), ("-I", "protos")])
def test_a_file_of_protobuf_is_refused_under_any_name(
    tmp_path: Path, name: str, include: tuple[str, ...]
) -> None:
    vendored = _installed("grpc_tools") / "_proto" / name
    write_protos({name: vendored.read_text("utf-8")}, tmp_path / "protos")
    ran = run(f"protos/{name}", *include, folder=tmp_path)
    assert ran.status == 1
    module = name.removesuffix(".proto").replace("/", ".")
    assert ran.err.splitlines() == [
        f"protos/{name}:1:1: error: this file is a part of protobuf, whose module is {module}_pb2",
        "  help: leave it out: protos may import it, and generated code uses that module",
    ]
    assert not (tmp_path / "generated").exists()


def test_a_folder_of_vendored_files_alone_is_told(tmp_path: Path) -> None:
    write_protos({"google/protobuf/any.proto": MESSAGE}, tmp_path / "protos")
    ran = run("protos", folder=tmp_path)
    assert ran.status == 2
    assert ran.err.startswith("error: all protos in protos come with installed packages")


@pytest.mark.parametrize("text", [MESSAGE, "package google.protobufs;\n", "// google.protobuf\n"])
def test_a_file_of_a_well_known_name_may_be_ones_own(tmp_path: Path, text: str) -> None:
    assert generate({"acme/struct.proto": text}, tmp_path).status == 0


def test_imports_are_found_in_broken_files() -> None:
    text = """import "a.proto"; import public 'b.proto' ; import weak "c.proto"
    // import "no.proto"
    /* import "no.proto" */ s = "import 'no.proto'"; import option "d.proto";
    importx "no.proto"; import /* import "no.proto" """
    assert imports_of(text) == {"a.proto", "b.proto", "c.proto", "d.proto"}


def test_many_unfinished_comments_take_no_time() -> None:
    assert imports_of("/* " * 1_000_000) == frozenset()


def test_an_import_may_be_written_with_escapes(tmp_path: Path) -> None:
    """Protoc reads no import behind an error in the syntax, so the generator does."""
    bad = f'{MESSAGE}message {{\nimport "a\\056proto";\nimport "\\x62.proto";\nimport "\\q";\n'
    ran = generate({"a.proto": MESSAGE.replace("acme", "a"), "x.proto": bad}, tmp_path)
    assert ran.status == 1
    assert 'Import "b.proto" was not found' in ran.err
    assert "a.proto" not in ran.err


def test_a_long_name_is_told_by_the_file_that_it_belongs_to(tmp_path: Path) -> None:
    ran = generate({f"{'x' * 248}.proto": MESSAGE}, tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("error: generated/xxx")
    assert ran.err.endswith("_pb2.pyi: File name too long\n")


@pytest.mark.parametrize("option", ["-o", "-I", "--descriptor-set", "--against", "protos"])
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, option: str) -> None:
    """It is what a variable of a shell leaves that is not set."""
    given = ["protos", ""] if option == "protos" else ["protos", option, ""]
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    ran = run(*given, folder=tmp_path)
    assert ran.status == 2
    assert "must not be empty" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["protos"]
