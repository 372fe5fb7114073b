"""What strangers may put into protos, sets, requests and folders, and what becomes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import Edition, FileDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from tests.codegen.support import generate, knows_cpp_features, python, run, tree, write_protos
from txzmq_codegen.diagnose import Tools, all_problems
from txzmq_codegen.layout import import_statement
from txzmq_codegen.plugin import plugin
from txzmq_codegen.problems import as_text
from txzmq_codegen.trust import fault_of_path
from txzmq_codegen.wire import delimited

MESSAGE = 'syntax = "proto3";\npackage acme;\nmessage M {}\n'
SERVICE = MESSAGE + "service S { rpc Do(M) returns (M); }\n"

#: No path of a proto, and what is said of it.
BAD_PATHS = {
    "--plugin=protoc-gen-x=/tmp/evil.proto": "it begins with -",
    "-o/tmp/evil.proto": "it begins with -",
    "@/tmp/evil.proto": "it begins with @",
    "x.proto\n--x_out=.": "it has a control character",
    "x\r.proto": "it has a control character",
    "x\x00.proto": "it has a control character",
    "x\x1b[2J.proto": "it has a control character",
    "x\u2028.proto": "it has a control character",
    "x\u202e.proto": "it has an unprintable character",
    "/etc/x.proto": "it is absolute",
    "C:/x.proto": "it is absolute",
    "../x.proto": "it has a part ..",
    "a/../x.proto": "it has a part ..",
    "a/..": "it has a part ..",
    "./x.proto": "it has an empty part",
    "a//x.proto": "it has an empty part",
    "a/": "it has an empty part",
    "a\\x.proto": "it has a backslash",
    "": "it is empty",
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_what_is_no_path_is_told(name: str) -> None:
    assert fault_of_path(name) == BAD_PATHS[name]


@pytest.mark.parametrize("name", ["x.proto", "a/b c/x-y.proto", "a.b/x", "ü/x.proto", "a/-x.proto"])
def test_what_is_a_path_passes(name: str) -> None:
    assert fault_of_path(name) == ""


@given(st.text())
def test_what_passes_is_one_line_and_stays_below_its_folder(name: str) -> None:
    if not fault_of_path(name):
        assert name.splitlines() == [name]
        assert name[0] not in "-@/"
        assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"


def test_a_name_that_is_not_utf_8_is_no_path() -> None:
    assert fault_of_path(b"\xff.proto") == "it is not UTF-8"


def a_set(folder: Path, *files: FileDescriptorProto) -> Path:
    path = folder / "set.binpb"
    path.write_bytes(FileDescriptorSet(file=files).SerializeToString())
    return path


def message_file(name: str, *imports: str) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package="acme", syntax="proto3", dependency=imports)
    file.message_type.add(name="M")
    return file


@pytest.mark.parametrize("name", [name for name in BAD_PATHS if name])
def test_a_set_with_such_a_name_is_refused(tmp_path: Path, name: str) -> None:
    a_set(tmp_path, message_file("fine.proto"), message_file(name))
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith('set.binpb: error: "')
    assert ran.err.splitlines()[0].endswith(f"cannot be the path of a proto: {BAD_PATHS[name]}")
    assert ran.err.count("\n") == 2
    assert not (tmp_path / "generated").exists()


def test_every_bad_name_of_a_set_is_told_once(tmp_path: Path) -> None:
    a_set(tmp_path, message_file("-a"), message_file("b", "-a", "../c"), message_file("-d"))
    ran = run("set.binpb", folder=tmp_path)
    assert [line.split('"')[1] for line in ran.err.splitlines()[::2]] == ["-a", "../c", "-d"]


def test_a_set_runs_no_program(tmp_path: Path) -> None:
    """An option in place of a name would let protoc start a plugin."""
    program = tmp_path / "evil"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n", "utf-8")
    program.chmod(0o755)
    options = [f"--plugin=protoc-gen-x={program}", "--x_out=."]
    a_set(tmp_path, message_file("fine.proto"), *map(message_file, options))
    assert run("set.binpb", folder=tmp_path).status == 1
    a_set(tmp_path, message_file("\n".join(["fine.proto", *options])))
    assert run("set.binpb", folder=tmp_path).status == 1
    assert not (tmp_path / "ran").exists()


NAMED = """package: "acme" syntax: "proto3"
message_type {
  name: "M" field { name: "f" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL oneof_index: 0 }
  oneof_decl { name: "o" }
  nested_type { name: "N" enum_type { name: "E" value { name: "Z" number: 0 } } }
  extension { name: "x" number: 1 extendee: ".A" type: TYPE_INT32 label: LABEL_OPTIONAL }
}
extension { name: "y" number: 1 extendee: ".A" type: TYPE_INT32 label: LABEL_OPTIONAL }
enum_type { name: "F" value { name: "Y" number: 0 } }
service { name: "S" method { name: "Do" input_type: ".acme.M" output_type: ".acme.M" } }
"""


@pytest.mark.parametrize("name", "acme M f o N E Z x y F Y S Do".split())
@pytest.mark.parametrize("bad", ["\ud7ff", "a b", "1", "a-b", "a\\n", "", "a.b"])
def test_a_name_in_a_set_is_an_identifier(tmp_path: Path, name: str, bad: str) -> None:
    """Some of these protoc refuses without a word of the file."""
    text = NAMED.replace(f'name: "{name}"', f'name: "{bad}"').replace('"acme"', f'"{name and bad}"')
    if name != "acme":
        text = text.replace(f'package: "{bad}"', 'package: "acme"')
    elif bad in ("", "a.b"):
        return  # a package may be so
    a_set(tmp_path, text_format.Parse(text, FileDescriptorProto(name="x.proto")))
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith('set.binpb: error: "')
    assert ran.err.splitlines()[0].endswith('" is no identifier, in x.proto')
    assert ran.err.count("error: ") == 1


@pytest.mark.parametrize("bad", [".A\\nb.proto:1:1: error: no", "a b", ".", ".a..b", "a-b"])
@pytest.mark.parametrize("what", ['extendee: ".A"', "type_name", "input_type", "output_type"])
def test_the_name_of_a_type_in_a_set_consists_of_identifiers(
    tmp_path: Path, what: str, bad: str
) -> None:
    """Protoc says it in its errors as it is, so that it could look like other errors."""
    if what == "type_name":
        text = NAMED.replace('name: "f"', f'name: "f" type_name: "{bad}"')
    else:
        before = what if what.startswith("extendee") else f'{what}: ".acme.M"'
        text = NAMED.replace(before, f'{before.partition(":")[0]}: "{bad}"')
    a_set(tmp_path, text_format.Parse(text, FileDescriptorProto(name="x.proto")))
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert {line.partition(" is no name of a type")[2] for line in ran.err.splitlines()[::2]} == {
        ", in x.proto"
    }


def test_a_set_without_what_is_imported_for_options_is_told(tmp_path: Path) -> None:
    file = message_file("x.proto")
    if not hasattr(file, "option_dependency"):
        pytest.skip("protobuf before 6.33 does not know them")
    file.syntax, file.edition = "editions", Edition.EDITION_2024
    file.option_dependency.append("gone.proto")
    a_set(tmp_path, file)
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("set.binpb: error: x.proto in this set imports gone.proto")


def test_a_file_that_only_the_compiler_misses_is_told() -> None:
    """Nothing that imports it is told of, so this is all there is to say."""

    def compiled(protos: Sequence[str]) -> Sequence[str]:
        return ["gone.proto: File not found."]

    def read(proto: str) -> bytes:
        return b""

    problems, _ = all_problems(["x.proto"], Tools(compiled, compiled, read, bool))
    assert [as_text(it).splitlines()[0] for it in problems] == [
        "gone.proto: error: File not found."
    ]


@knows_cpp_features
def test_a_set_that_only_the_compiler_cannot_read_is_told(tmp_path: Path) -> None:
    """It knows options for Python that this process does not."""
    file = message_file("x.proto")
    file.syntax, file.edition = "editions", Edition.EDITION_2023
    known = delimited(1000, b"\xff")  # (pb.cpp), a message
    file.options.features.MergeFromString(known)
    a_set(tmp_path, file)
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert "error: protoc cannot read the options in set.binpb\n" in ran.err


@pytest.mark.parametrize("where", ["leading", "trailing", "leading_detached"])
@pytest.mark.parametrize("path", [[4, 0], [6, 0], [12], [4, 0, 2, 0]])
def test_a_comment_in_a_set_need_not_be_utf_8(tmp_path: Path, where: str, path: list[int]) -> None:
    file = message_file("x.proto")
    file.message_type[0].field.add(name="f", number=1, type=5, label=1)
    file.service.add(name="S").method.add(name="Do", input_type=".acme.M", output_type=".acme.M")
    location = file.source_code_info.location.add(path=path, span=[1, 1, 1])
    if where == "leading_detached":
        location.leading_detached_comments.append("Ca-f-e")
    else:
        setattr(location, f"{where}_comments", "Ca-f-e")
    a = a_set(tmp_path, file)
    a.write_bytes(a.read_bytes().replace(b"Ca-f-e", b"Caf\xe9!!"[:6]))
    ran = run("set.binpb", folder=tmp_path)
    assert (ran.status, ran.err) == (0, "")
    made = tree(tmp_path / "generated")
    if path in ([4, 0], [4, 0, 2, 0]) and where != "leading_detached":
        assert "Caf\xe9" in made["x_pb2.pyi"]
    if path == [6, 0] and where != "leading_detached":
        assert "Caf\xe9" in made["x_txzmq.py"]


@pytest.mark.parametrize("imported", ["\\033[2J.proto", "\\u202e.proto"])
def test_what_a_terminal_takes_for_a_command_is_shown_with_escapes(
    tmp_path: Path, imported: str
) -> None:
    ran = generate({"x.proto": f'{MESSAGE}import "{imported}";\n'}, tmp_path)
    assert ran.status == 1
    lines = ran.err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith(("protos/x.proto:4:1: error: ", "  help: ")) for line in lines)


def test_what_two_files_of_a_set_define_is_told(tmp_path: Path) -> None:
    a_set(tmp_path, message_file("x.proto"), message_file("y.proto"))
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert "acme.M" in ran.err


def test_a_dependency_of_such_a_name_is_refused(tmp_path: Path) -> None:
    a_set(tmp_path, message_file("x.proto", "../y.proto"))
    ran = run("set.binpb", folder=tmp_path)
    assert ran.status == 1
    assert '"../y.proto" cannot be the path of a proto' in ran.err


def test_the_set_to_compare_with_is_held_to_the_same(tmp_path: Path) -> None:
    a_set(tmp_path, message_file("\x1b[2J.proto"))
    ran = generate({"x.proto": MESSAGE}, tmp_path, "--against", "set.binpb")
    assert ran.status == 1
    assert '"\\x1b[2J.proto" cannot be the path of a proto' in ran.err


@pytest.mark.parametrize("name", BAD_PATHS)
@pytest.mark.parametrize("where", ["file", "import"])
def test_a_request_with_such_a_name_is_answered_with_an_error(name: str, where: str) -> None:
    file = message_file(name) if where == "file" else message_file("x.proto", name)
    file.service.add(name="S").method.add(name="Do", input_type=".acme.M", output_type=".acme.M")
    response = plugin(CodeGeneratorRequest(file_to_generate=[file.name], proto_file=[file]))
    assert f"cannot be the path of a proto: {BAD_PATHS[name]}" in response.error
    assert not response.file


CODE = "M:\n    pass\nimport os\nclass N"


def _rename(part: str) -> FileDescriptorProto:
    file = message_file("x.proto")
    rpc = file.service.add(name="S").method.add(name="Do", input_type=".acme.M")
    rpc.output_type = ".acme.M"
    if part == "package":
        file.package = CODE
        rpc.input_type = rpc.output_type = f".{CODE}.M"
    elif part == "message":
        file.message_type[0].name = CODE
        rpc.input_type = rpc.output_type = f".acme.{CODE}"
    elif part == "nested":
        file.message_type[0].nested_type.add(name=CODE)
        rpc.input_type = f".acme.M.{CODE}"
    elif part == "service":
        file.service[0].name = CODE
    else:
        rpc.name = CODE
    return file


@pytest.mark.parametrize("part", ["package", "message", "nested", "service", "rpc"])
def test_a_request_whose_names_are_code_is_answered_with_an_error(part: str) -> None:
    file = _rename(part)
    response = plugin(CodeGeneratorRequest(file_to_generate=["x.proto"], proto_file=[file]))
    assert "is no identifier" in response.error
    assert not response.file


def test_a_request_without_what_it_refers_to_is_answered_with_an_error() -> None:
    file = message_file("x.proto", "gone.proto")
    file.service.add(name="S").method.add(name="Do", input_type=".acme.No", output_type=".acme.M")
    request = CodeGeneratorRequest(file_to_generate=["x.proto", "y.proto"], proto_file=[file])
    assert plugin(request).error.splitlines() == [
        'request: error: the file "y.proto" is missing',
        'request: error: the file "gone.proto" is missing',
        'x.proto: error: rpc Do refers to ".acme.No", which is no message',
    ]


def test_an_include_folder_with_quotes_in_its_name_becomes_no_code(tmp_path: Path) -> None:
    folder = 'a" + str(print("ran")) + "'
    write_protos({f"{folder}/x.proto": MESSAGE}, tmp_path / "third")
    escaped = folder.replace('"', '\\"')
    proto = f'syntax = "proto3";\nimport "{escaped}/x.proto";\nmessage U {{ acme.M m = 1; }}\n'
    ran = generate({"y.proto": proto}, tmp_path, "-I", "third")
    assert ran.status == 1
    module = f"{folder}.x_pb2 of the imported {folder}/x.proto"
    assert ran.err.splitlines() == [
        f"protos/y.proto:2:1: error: the module {module} cannot be imported",
        "  help: generate that file too, or rename it or its folders",
    ]
    assert run("protos", "third", folder=tmp_path) == (0, "", "")
    assert python("import generated.y_pb2", tmp_path) == ""


@pytest.mark.parametrize("public", ["", "public "])
@pytest.mark.parametrize("folder", ["1st", "a b", "a.b-c", "lambda"])
def test_an_included_file_whose_module_has_no_name_is_told(
    tmp_path: Path, folder: str, public: str
) -> None:
    write_protos({f"{folder}/x.proto": MESSAGE}, tmp_path / "third")
    text = (
        f'syntax = "proto3";\nimport {public}"{folder}/x.proto";\nmessage U {{ acme.M m = 1; }}\n'
    )
    ran = generate({"y.proto": text}, tmp_path, "-I", "third")
    if folder == "a.b-c" or (folder == "lambda" and not public):
        assert ran.status == 0  # with a warning that nothing of the name is installed
        assert ": error: " not in ran.err
    else:
        assert ran.status == 1
        assert ran.err.startswith(f"protos/y.proto:2:1: error: the module {folder}.x_pb2 of the")


def test_a_module_that_no_statement_can_name_is_imported_by_an_escaped_name() -> None:
    statement = import_statement('a"b\\', "x_pb2", "_x")
    assert statement.endswith('.import_module("a\\"b\\\\.x_pb2", __package__)')


@pytest.mark.parametrize(
    "name",
    ["a\n--x_out=b", "a:b", "a=b", "-a", "@a", "a\\nb", "a'b \"c", "a,b;c", "ä$(x)`y`*?[z]"],
)
def test_the_project_may_be_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    project = tmp_path / name
    write_protos({"x.proto": SERVICE, "bad/y.proto": "nonsense"}, project / "protos")
    write_protos({"z.proto": MESSAGE.replace("acme", "z")}, project / name / "third")
    include = Path(name, "third").absolute() if name.startswith("-") else Path(name, "third")
    options = ("-I", project / name / "third" if name.startswith("-") else include)
    assert "protos/bad/y.proto:1:1: error" in run("protos", *options, folder=project).err
    shutil.rmtree(project / "protos/bad")
    ran = run("protos", *options, "--descriptor-set", "set.binpb", folder=project)
    assert ran == (0, "", "")
    assert run("set.binpb", "-o", "again", folder=project) == (0, "", "")
    assert "x_txzmq.py" in tree(project / "again")


def test_a_package_in_the_current_folder_is_not_taken_for_a_tool(tmp_path: Path) -> None:
    for tool in ("grpc_tools", "mypy_protobuf"):
        (tmp_path / tool).mkdir()
        for name in ("__init__.py", "protoc.py", "main.py"):
            (tmp_path / tool / name).write_text("raise SystemExit('ran')\n", "utf-8")
    assert generate({"x.proto": MESSAGE}, tmp_path) == (0, "", "")


def test_a_relative_path_of_modules_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools/mypy_protobuf").mkdir(parents=True)
    (tmp_path / "tools/mypy_protobuf/__init__.py").touch()
    (tmp_path / "tools/mypy_protobuf/main.py").write_text("raise SystemExit('ours')\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", "tools")
    ran = generate({"x.proto": MESSAGE}, tmp_path)
    assert ran.status == 70
    assert ran.err.endswith("\nours\n")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_commit_is_never_an_option_of_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.txzmq.codegen]\nprotos = "protos"\nagainst = "--output=evil"\n', "utf-8"
    )
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert run(folder=tmp_path).status == 2
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / ".git/refs/tags/--output=evil").write_text(f"{head}\n", "utf-8")
    assert run(folder=tmp_path).status == 0  # it is a tag now
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("name", [":(top)", ":!x", "*", "a\nb", "-x"])
def test_against_a_commit_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    repository = tmp_path / f"r{name}"
    repository.mkdir()
    git(repository, "init", "-q")
    write_protos({"x.proto": MESSAGE}, repository / name)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "first")
    write_protos({"x.proto": MESSAGE.replace("M", "N")}, repository / name)
    ran = run(f"./{name}", "--against", "HEAD", folder=repository)
    assert "[MESSAGE_NO_DELETE]" in ran.err


def test_a_link_in_a_commit_that_leads_out_is_left_out(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write_protos({"x.proto": MESSAGE}, tmp_path / "protos")
    (tmp_path / "protos/etc").symlink_to("/etc")
    (tmp_path / "protos/up").symlink_to("../../..")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    for link in ("etc", "up"):
        (tmp_path / "protos" / link).unlink()
    assert run("protos", "--against", "HEAD", folder=tmp_path) == (0, "", "")
