"""``--against``: each rule fires on the change that it names, in its category, and on no other."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.codegen.breaking_cases import CHANGES, EDITION, HEAD, HEAD2, QA
from tests.codegen.support import run, write_protos
from txzmq_codegen.breaking import breaking_changes
from txzmq_codegen.protoc import compile_protos
from txzmq_codegen.sources import find


def rules(folder: Path, category: str) -> list[str]:
    """The rules that the protos in *folder* break against the set written there."""
    options = ("--against", "before.binpb", "--breaking", category, "-o", "generated")
    ran = run("protos", *options, folder=folder)
    found = [
        line.rpartition("[")[2].rstrip("]") for line in ran.err.splitlines() if ": error: " in line
    ]
    assert ran.status == (1 if found else 0)
    return sorted(found)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileDescriptorSet, FileDescriptorSet]:
    """All changes in two runs of the compiler, each in a file and a package of its own."""
    folder = tmp_path_factory.mktemp("states")
    for number, change in enumerate(CHANGES.values()):
        head = change.head.replace("acme", f"acme.c{number}")
        write_protos({f"{number}.proto": head + change.before}, folder / "before")
        write_protos({f"{number}.proto": head + change.after}, folder / "after")
    before, after = (
        compile_protos(find([folder / name], []), messages=False).descriptors
        for name in ("before", "after")
    )
    return before, after


@pytest.mark.parametrize("category", ["FILE", "WIRE"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_breaks_the_rules_that_name_it(
    name: str,
    category: Literal["FILE", "WIRE"],
    states: tuple[FileDescriptorSet, FileDescriptorSet],
) -> None:
    file = f"{list(CHANGES).index(name)}.proto"
    before, after = (
        FileDescriptorSet(file=[it for it in state.file if it.name == file]) for state in states
    )
    problems = breaking_changes(before, after, [file], category)
    expected = CHANGES[name].file if category == "FILE" else CHANGES[name].wire
    assert sorted(it.rule for it in problems) == expected.split()
    assert all(it.position.line and it.help for it in problems)
    if CHANGES[name].said and category == "FILE":
        package = f"acme.c{list(CHANGES).index(name)}"
        said = [it.replace("acme", package) for it in CHANGES[name].said]
        assert sorted(it.message for it in problems) == sorted(said)


def before_and_after(folder: Path, before: dict[str, str], after: dict[str, str]) -> None:
    write_protos(before, folder / "protos")
    assert run("protos", "--descriptor-set", "before.binpb", folder=folder).status == 0
    for name in before:
        (folder / "protos" / name).unlink()
    write_protos(after, folder / "protos")


def test_a_file_deleted(tmp_path: Path) -> None:
    keep = {"y.proto": HEAD + "message Y {}\n"}
    before_and_after(tmp_path, {"x.proto": HEAD + QA, **keep}, keep)
    assert rules(tmp_path, "FILE") == ["FILE_NO_DELETE"]
    assert rules(tmp_path, "WIRE") == []


def test_a_message_moved_to_another_file(tmp_path: Path) -> None:
    before = {"x.proto": HEAD + QA, "y.proto": HEAD}
    after = {"x.proto": HEAD, "y.proto": HEAD + QA}
    before_and_after(tmp_path, before, after)
    assert rules(tmp_path, "FILE") == ["MESSAGE_NO_DELETE", "MESSAGE_NO_DELETE"]
    assert rules(tmp_path, "WIRE") == []
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    assert "error: message acme.Q moved to y.proto [MESSAGE_NO_DELETE]" in ran.err


def test_the_package_changed(tmp_path: Path) -> None:
    after = {"x.proto": HEAD.replace("acme", "other") + QA}
    before_and_after(tmp_path, {"x.proto": HEAD + QA}, after)
    assert rules(tmp_path, "FILE") == ["FILE_SAME_PACKAGE"]


def test_the_syntax_changed(tmp_path: Path) -> None:
    after = {"x.proto": HEAD.replace('syntax = "proto3"', 'edition = "2023"')}
    before_and_after(tmp_path, {"x.proto": HEAD}, after)
    assert rules(tmp_path, "FILE") == ["FILE_SAME_SYNTAX"]


@pytest.mark.parametrize("head", [HEAD2, "package acme;\n"])
def test_proto2_becomes_proto3(tmp_path: Path, head: str) -> None:
    """No syntax at all is proto2."""
    body = "enum E { Z = 0; }\nmessage M { optional string a = 1; }\n"
    before_and_after(tmp_path, {"x.proto": head + body}, {"x.proto": HEAD + body})
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    assert "error: the syntax changed from proto2 to proto3 [FILE_SAME_SYNTAX]" in ran.err
    assert "error: enum acme.E was closed and is open [ENUM_SAME_TYPE]" in ran.err
    assert rules(tmp_path, "FILE") == ["ENUM_SAME_TYPE", "FILE_SAME_SYNTAX"]
    assert rules(tmp_path, "WIRE") == ["ENUM_SAME_TYPE"]


def test_proto2_becomes_an_edition(tmp_path: Path) -> None:
    body = "option features.enum_type = CLOSED;\nenum E { Z = 0; }\nmessage M { string a = 1; }\n"
    before = HEAD2 + "enum E { Z = 0; }\nmessage M { optional string a = 1; }\n"
    before_and_after(tmp_path, {"x.proto": before}, {"x.proto": EDITION + body})
    assert rules(tmp_path, "FILE") == ["FILE_SAME_SYNTAX"]
    assert rules(tmp_path, "WIRE") == []


def test_another_edition(tmp_path: Path, edition_2024: bool) -> None:
    if not edition_2024:
        pytest.skip("the installed protoc knows one edition only")
    after = {"x.proto": EDITION.replace("2023", "2024")}
    before_and_after(tmp_path, {"x.proto": EDITION}, after)
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    assert "the syntax changed from edition 1000 to edition 1001 [FILE_SAME_SYNTAX]" in ran.err


def test_names_without_a_package(tmp_path: Path) -> None:
    head = 'syntax = "proto3";\n'
    before_and_after(tmp_path, {"x.proto": head + QA}, {"x.proto": head})
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    assert "error: message Q was deleted [MESSAGE_NO_DELETE]" in ran.err


def test_imports_of_others_do_not_count(tmp_path: Path) -> None:
    """Neither if they change, nor if they are not imported any more."""
    write_protos({"dep.proto": HEAD.replace("acme", "dep") + QA}, tmp_path / "third")
    importer = HEAD + 'import "dep.proto";\nimport "google/protobuf/empty.proto";\n'
    used = importer + "message M { dep.Q q = 1; google.protobuf.Empty e = 2; }\n"
    write_protos({"x.proto": used}, tmp_path / "protos")
    options = ("protos", "-I", "third", "--descriptor-set", "before.binpb")
    assert run(*options, folder=tmp_path).status == 0
    write_protos({"dep.proto": HEAD.replace("acme", "dep") + "message Q {}\n"}, tmp_path / "third")
    against = ("protos", "-I", "third", "--against", "before.binpb")
    assert run(*against, folder=tmp_path).status == 0
    write_protos({"x.proto": HEAD + "message M { reserved 1, 2; }\n"}, tmp_path / "protos")
    ran = run(*against, folder=tmp_path)
    assert [line.rpartition("[")[2] for line in ran.err.splitlines()[::2]] == [
        "FIELD_NO_DELETE]"
    ] * 2
    # Without the folder nobody knows whose it was.
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    assert "file dep.proto was deleted [FILE_NO_DELETE]" in ran.err


def test_presence_by_features(tmp_path: Path) -> None:
    """What protoc sees as the same is the same, in whatever way the file says it."""
    head = 'edition = "2023";\npackage acme;\n'
    implicit = head + "option features.field_presence = IMPLICIT;\nmessage M { string a = 1; }\n"
    explicit = implicit.replace("string a = 1", "string a = 1 [features.field_presence = EXPLICIT]")
    before_and_after(tmp_path, {"x.proto": implicit}, {"x.proto": explicit})
    assert rules(tmp_path, "FILE") == ["FIELD_SAME_CARDINALITY"]


def test_an_enum_closed_by_features(tmp_path: Path) -> None:
    head = 'edition = "2023";\npackage acme;\n'
    closed = head + "enum E { option features.enum_type = CLOSED; Z = 0; }\n"
    before_and_after(tmp_path, {"x.proto": head + "enum E { Z = 0; }\n"}, {"x.proto": closed})
    assert rules(tmp_path, "FILE") == rules(tmp_path, "WIRE") == ["ENUM_SAME_TYPE"]


def test_the_place_and_the_advice_are_given_and_nothing_is_written(tmp_path: Path) -> None:
    before = HEAD + "message M {\n  string a = 1;\n}\n"
    write_protos({"x.proto": before}, tmp_path / "protos")
    run("protos", "--descriptor-set", "before.binpb", "-o", "other", folder=tmp_path)
    write_protos({"x.proto": before.replace("string", "int32")}, tmp_path / "protos")
    ran = run("protos", "--against", "before.binpb", folder=tmp_path)
    what = "field 1 (a) of acme.M changed its type from 'string' to 'int32' [FIELD_SAME_TYPE]"
    assert ran.err.splitlines() == [
        f"protos/x.proto:4:3: error: {what}",
        "  help: add a field with a new number",
    ]
    assert not (tmp_path / "generated").exists()


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    write_protos({"acme/x.proto": HEAD + QA}, tmp_path / "api/protos")
    write_protos({"dep/y.proto": HEAD.replace("acme", "dep") + QA}, tmp_path / "third")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_against_a_commit(repository: Path) -> None:
    options = ("api/protos", "-I", "third", "--against", "v1")
    assert run(*options, folder=repository).status == 0
    user = HEAD + 'import "dep/y.proto";\nmessage Q { string a = 1; dep.A d = 2; }\n'
    write_protos({"acme/x.proto": user}, repository / "api/protos")
    ran = run(*options, folder=repository)
    assert ran.status == 1
    assert ran.err.startswith("api/protos/acme/x.proto:1:1: error: message acme.A was deleted")
    git(repository, "commit", "-q", "-a", "-m", "second")
    assert run(*options[:-1], "HEAD", folder=repository).status == 0
    ran = run("protos", "-I", "../third", "--against", "HEAD~1", folder=repository / "api")
    assert ran.status == 1


def test_protos_that_were_not_there_break_nothing(repository: Path) -> None:
    write_protos({"z.proto": HEAD + "message Z {}\n"}, repository / "new")
    assert run("new", "--against", "v1", folder=repository).status == 0


def test_an_unknown_commit_is_wrong_usage(repository: Path) -> None:
    ran = run("api/protos", "--against", "v99", folder=repository)
    assert ran.status == 2
    assert ran.err.startswith("error: --against v99: ")
