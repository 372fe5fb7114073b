"""``--against``: each rule fires on the change that it names, in its category, and on no other."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.codegen.support import run, write_protos
from txzmq_codegen.breaking import breaking_changes
from txzmq_codegen.protoc import compile_protos
from txzmq_codegen.sources import find

HEAD = 'syntax = "proto3";\npackage acme;\n'
HEAD2 = 'syntax = "proto2";\npackage acme;\n'
QA = "message Q { string a = 1; }\nmessage A { string a = 1; }\n"


class Change(NamedTuple):
    """One change, and the rules that it breaks in either category."""

    before: str
    after: str
    file: str = ""
    wire: str = ""
    head: str = HEAD


def service(rpc: str) -> str:
    return QA + f"service S {{\n  {rpc}\n}}\n"


CHANGES = {
    "nothing": Change(QA, QA),
    "something new": Change(QA, QA + "message New {}\nservice S { rpc Do(Q) returns (A); }\n"),
    "a new field": Change("message M {}\n", "message M { string a = 1; }\n"),
    "comments and order": Change(QA, "// Said.\n" + "".join(reversed(QA.splitlines(True)))),
    "message deleted": Change(QA, "message Q { string a = 1; }\n", "MESSAGE_NO_DELETE"),
    "nested message deleted": Change(
        "message M { message N {} }\n", "message M {}\n", "MESSAGE_NO_DELETE"
    ),
    "enum deleted": Change("enum E { Z = 0; }\n" + QA, QA, "ENUM_NO_DELETE"),
    "service deleted": Change(service("rpc Do(Q) returns (A);"), QA, "SERVICE_NO_DELETE"),
    "rpc deleted": Change(
        service("rpc Do(Q) returns (A);"), service("rpc Be(Q) returns (A);"), "RPC_NO_DELETE"
    ),
    "request type": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(A) returns (A);"),
        "RPC_SAME_REQUEST_TYPE",
        "RPC_SAME_REQUEST_TYPE",
    ),
    "response type": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(Q) returns (Q);"),
        "RPC_SAME_RESPONSE_TYPE",
        "RPC_SAME_RESPONSE_TYPE",
    ),
    "client streaming": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(stream Q) returns (A);"),
        "RPC_SAME_CLIENT_STREAMING",
        "RPC_SAME_CLIENT_STREAMING",
    ),
    "server streaming": Change(
        service("rpc Do(Q) returns (stream A);"),
        service("rpc Do(Q) returns (A);"),
        "RPC_SAME_SERVER_STREAMING",
        "RPC_SAME_SERVER_STREAMING",
    ),
    "idempotency level": Change(
        service("rpc Do(Q) returns (A) { option idempotency_level = IDEMPOTENT; }"),
        service("rpc Do(Q) returns (A);"),
        "RPC_SAME_IDEMPOTENCY_LEVEL",
        "RPC_SAME_IDEMPOTENCY_LEVEL",
    ),
    "python name": Change(
        service("rpc GetFoo(Q) returns (A);"),
        service("rpc GetFoo(Q) returns (A);\n  rpc getFoo(Q) returns (A);"),
        "TXZMQ_RPC_SAME_PYTHON_NAME",
    ),
    "field deleted": Change(
        "message M { string a = 1; }\n",
        "message M {}\n",
        "FIELD_NO_DELETE",
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ),
    "field deleted and reserved": Change(
        "message M { string a = 1; }\n", "message M { reserved 1; }\n", "FIELD_NO_DELETE"
    ),
    "field renamed": Change(
        "message M { string a = 1; }\n", "message M { string b = 1; }\n", "FIELD_SAME_NAME"
    ),
    "JSON name": Change(
        "message M { string a = 1; }\n",
        'message M { string a = 1 [json_name = "b"]; }\n',
        "FIELD_SAME_JSON_NAME",
    ),
    "field type": Change(
        "message M { string a = 1; }\n",
        "message M { int32 a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "compatible field type": Change(
        "message M { int32 a = 1; }\n", "message M { uint64 a = 1; }\n", "FIELD_SAME_TYPE"
    ),
    "zigzag is another encoding": Change(
        "message M { int32 a = 1; }\n",
        "message M { sint32 a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "text becomes bytes": Change(
        "message M { string a = 1; }\n", "message M { bytes a = 1; }\n", "FIELD_SAME_TYPE"
    ),
    "bytes become text": Change(
        "message M { bytes a = 1; }\n",
        "message M { string a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "message type of a field": Change(
        QA + "message M { Q m = 1; }\n",
        QA + "message M { A m = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "repeated": Change(
        "message M { string a = 1; }\n",
        "message M { repeated string a = 1; }\n",
        "FIELD_SAME_CARDINALITY",
        "FIELD_WIRE_COMPATIBLE_CARDINALITY",
    ),
    "presence": Change(
        "message M { string a = 1; }\n",
        "message M { optional string a = 1; }\n",
        "FIELD_SAME_CARDINALITY",
    ),
    "oneof": Change(
        "message M { oneof o { string a = 1; string b = 2; } }\n",
        "message M { oneof o { string a = 1; } string b = 2; }\n",
        "FIELD_SAME_CARDINALITY FIELD_SAME_ONEOF",
        "FIELD_SAME_ONEOF",
    ),
    "oneof deleted": Change(
        "message M { oneof o { string a = 1; } }\n",
        "message M { oneof p { string a = 1; } }\n",
        "FIELD_SAME_ONEOF ONEOF_NO_DELETE",
        "FIELD_SAME_ONEOF",
    ),
    "default": Change(
        "message M { optional int32 a = 1 [default = 1]; }\n",
        "message M { optional int32 a = 1 [default = 2]; }\n",
        "FIELD_SAME_DEFAULT",
        "FIELD_SAME_DEFAULT",
        HEAD2,
    ),
    "required": Change(
        "message M { optional int32 a = 1; }\n",
        "message M { required int32 a = 1; }\n",
        "FIELD_SAME_CARDINALITY MESSAGE_SAME_REQUIRED_FIELDS",
        "MESSAGE_SAME_REQUIRED_FIELDS",
        HEAD2,
    ),
    "reserved": Change(
        'message M { reserved 1 to 5; reserved "a"; }\n',
        "message M { reserved 1 to 3; }\n",
        "RESERVED_MESSAGE_NO_DELETE RESERVED_MESSAGE_NO_DELETE",
        "RESERVED_MESSAGE_NO_DELETE RESERVED_MESSAGE_NO_DELETE",
    ),
    "reserved otherwise": Change(
        "message M { reserved 1 to 5; }\n", "message M { reserved 1 to 2, 3, 4 to 9; }\n"
    ),
    "enum value deleted": Change(
        "enum E { Z = 0; ONE = 1; }\n",
        "enum E { Z = 0; }\n",
        "ENUM_VALUE_NO_DELETE",
        "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ),
    "enum value deleted and reserved": Change(
        "enum E { Z = 0; ONE = 1; }\n", "enum E { Z = 0; reserved 1; }\n", "ENUM_VALUE_NO_DELETE"
    ),
    "enum value renamed": Change(
        "enum E { Z = 0; ONE = 1; }\n", "enum E { Z = 0; UNO = 1; }\n", "ENUM_VALUE_SAME_NAME"
    ),
    "enum value gets an alias": Change(
        "enum E { Z = 0; ONE = 1; }\n",
        "enum E { option allow_alias = true; Z = 0; ONE = 1; UNO = 1; }\n",
    ),
    "reserved enum value": Change(
        "enum E { Z = 0; reserved 2 to 4; }\n",
        "enum E { Z = 0; reserved 2; }\n",
        "RESERVED_ENUM_NO_DELETE",
        "RESERVED_ENUM_NO_DELETE",
    ),
    "extension range": Change(
        "message M { extensions 100 to 199; }\n",
        "message M { extensions 100 to 150; }\n",
        "EXTENSION_MESSAGE_NO_DELETE",
        head=HEAD2,
    ),
    "extension": Change(
        "message M { extensions 100 to 199; }\nextend M { optional int32 e = 100; }\n",
        "message M { extensions 100 to 199; }\n",
        "EXTENSION_NO_DELETE",
        head=HEAD2,
    ),
    "map": Change(
        "message M { map<string, string> m = 1; }\n",
        "message M { map<string, int32> m = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
}


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


def test_the_package_changed(tmp_path: Path) -> None:
    after = {"x.proto": HEAD.replace("acme", "other") + QA}
    before_and_after(tmp_path, {"x.proto": HEAD + QA}, after)
    assert rules(tmp_path, "FILE") == ["FILE_SAME_PACKAGE"]


def test_the_syntax_changed(tmp_path: Path) -> None:
    after = {"x.proto": HEAD.replace('syntax = "proto3"', 'edition = "2023"')}
    before_and_after(tmp_path, {"x.proto": HEAD}, after)
    assert rules(tmp_path, "FILE") == ["FILE_SAME_SYNTAX"]


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
    assert "\napi/protos/acme/x.proto:1:1: error: message acme.A was deleted" in ran.err
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
