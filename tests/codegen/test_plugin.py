"""``protoc-gen-txzmq``: the function that answers protoc, and three programs that drive it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition, FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from tests.codegen.support import ROOT, generate, python, tree, write_protos
from txzmq_codegen.plugin import main, plugin

PROTOS = {
    "acme/v1/orders.proto": """syntax = "proto3";
package acme.v1;
import "common/types.proto";
import "google/protobuf/empty.proto";
// Orders.
service Orders {
  rpc Place(common.Money) returns (google.protobuf.Empty);
  rpc Watch(google.protobuf.Empty) returns (stream common.Money);
}
""",
    "common/types.proto": """syntax = "proto3";
package common;
message Money { int64 units = 1; }
""",
}
SCRIPTS = Path(sysconfig.get_path("scripts"))
PLUGIN = SCRIPTS / "protoc-gen-txzmq"


def request(parameter: str = "", **names: str) -> CodeGeneratorRequest:
    """A request for one file with one service, called as *names* say."""
    file = FileDescriptorProto(name=names.get("file", "acme/x.proto"), package="acme")
    file.message_type.add(name="M")
    service = file.service.add(name="S")
    service.method.add(name=names.get("rpc", "Do"), input_type=".acme.M", output_type=".acme.M")
    return CodeGeneratorRequest(
        file_to_generate=[file.name], parameter=parameter, proto_file=[file]
    )


def test_features_are_declared() -> None:
    response = plugin(request())
    assert response.supported_features == (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    assert response.minimum_edition == Edition.EDITION_PROTO2
    assert response.maximum_edition == Edition.EDITION_2024


@pytest.mark.parametrize(
    ("parameter", "line"),
    [
        ("", "from acme import x_pb2 as _x_pb2"),
        ("imports=absolute", "from acme import x_pb2 as _x_pb2"),
        ("imports=relative", "from . import x_pb2 as _x_pb2"),
    ],
)
def test_imports_are_as_the_option_says(parameter: str, line: str) -> None:
    (file,) = plugin(request(parameter)).file
    assert file.name == "acme/x_txzmq.py"
    assert f"\n    {line}\n" in file.content


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("import=relative", "unknown option 'import'; did you mean imports?"),
        ("nonsense", "unknown option 'nonsense'"),
        ("imports=sideways", "imports=sideways: must be relative or absolute"),
    ],
)
def test_wrong_options_are_errors(parameter: str, error: str) -> None:
    response = plugin(request(parameter))
    assert response.error == f"protoc-gen-txzmq: {error}"
    assert not response.file


def test_a_module_that_cannot_be_imported_is_an_error() -> None:
    response = plugin(request(file="lambda/x.proto"))
    assert response.error.startswith("lambda/x.proto: error: acme.M is in the module lambda.x_pb2")


def test_other_packages_are_external() -> None:
    files = [
        FileDescriptorProto(name="acme/x.proto", package="acme", dependency=["other/y.proto"]),
        FileDescriptorProto(name="other/y.proto", package="other"),
    ]
    files[1].message_type.add(name="M")
    method = files[0].service.add(name="S").method.add(name="Do")
    method.input_type = method.output_type = ".other.M"
    given = CodeGeneratorRequest(file_to_generate=["acme/x.proto"], proto_file=files)
    given.parameter = "imports=relative"
    assert "from ..other import y_pb2 as" in plugin(given).file[0].content
    given.parameter = "imports=relative,external=other"
    assert "\nfrom other import y_pb2 as" in plugin(given).file[0].content


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_it_helps_who_starts_it_by_hand(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 0
    said = capsys.readouterr()
    for word in ("--txzmq_out", "imports=absolute|relative", "external=FOLDER", "buf generate"):
        assert word in said.out
    assert said.err == ""


def test_it_says_where_its_options_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imports=relative"]) == 2
    said = capsys.readouterr()
    assert "unknown argument 'imports=relative'" in said.err
    assert "--txzmq_opt=imports=relative" in said.err


def test_what_is_no_request_is_told_without_a_traceback() -> None:
    command = [sys.executable, "-m", "txzmq_codegen.plugin"]
    done = subprocess.run(command, cwd=ROOT / "codegen", input=b"\xff\xff", capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"protoc-gen-txzmq: standard input is no request of protoc")


@given(st.binary(max_size=60))
def test_any_comment_becomes_a_module_that_compiles(comment: bytes) -> None:
    given = request()
    location = given.proto_file[0].source_code_info.location.add(path=[6, 0], span=[1, 2, 3])
    location.leading_comments = comment.decode("utf-8", "replace")
    compile(plugin(given).file[0].content, "x_txzmq.py", "exec")


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PLUGIN.exists():
        pytest.skip("txzmq is not installed, so there is no protoc-gen-txzmq to run")
    folder = tmp_path_factory.mktemp("plugin")
    write_protos(PROTOS, folder / "protos")
    return folder


def protoc(project: Path, out: str, *options: str) -> None:
    (project / out).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *options, *PROTOS],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


USE = """
from acme.v1.orders_txzmq import OrdersClient, OrdersMethods
from common.types_pb2 import Money
assert OrdersMethods.place.request_type is Money
"""


def test_under_grpc_tools(project: Path) -> None:
    protoc(project, "grpc_tools", "--python_out=grpc_tools", "--txzmq_out=grpc_tools")
    python(USE, project / "grpc_tools")


def test_under_grpc_tools_with_relative_imports(project: Path) -> None:
    options = ("--txzmq_out=relative", "--txzmq_opt=imports=relative")
    protoc(project, "relative", "--python_out=relative", *options)
    text = (project / "relative/acme/v1/orders_txzmq.py").read_text("utf-8")
    assert "from ...common import types_pb2 as _common_types_pb2" in text


def test_the_plugin_and_the_command_write_the_same(project: Path, tmp_path: Path) -> None:
    protoc(project, "same", "--txzmq_out=imports=relative:same")
    generate(PROTOS, tmp_path)
    name = "acme/v1/orders_txzmq.py"
    assert tree(project / "same")[name] == tree(tmp_path / "generated")[name]


def test_errors_of_the_input_are_protocs_errors(project: Path) -> None:
    write_protos({"bad.proto": BAD}, project / "bad")
    (project / "bad_out").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Ibad", "--txzmq_out=bad_out", "bad.proto"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "bad.proto:5:3: error: rpc _Do and rpc Do (line 4) would both become" in done.stderr


BAD = """syntax = "proto3";
message M {}
service S {
  rpc Do(M) returns (M);
  rpc _Do(M) returns (M);
}
"""


def test_under_protoc(project: Path) -> None:
    """A protoc of its own, where there is one: apt-get install protobuf-compiler."""
    if shutil.which("protoc") is None:
        pytest.skip("no protoc on the path; grpc_tools.protoc is the same compiler")
    (project / "protoc").mkdir()
    command = ["protoc", "-Iprotos", "--txzmq_out=protoc", *PROTOS]
    subprocess.run(command, cwd=project, env=environment(), check=True)
    assert list(tree(project / "protoc")) == ["acme/v1/orders_txzmq.py"]


@pytest.fixture(scope="module")
def buf() -> str:
    """The buf program: on the path, or from npm, once for all runs."""
    found = shutil.which("buf")
    if found is not None:
        return found
    if shutil.which("npm") is None:
        pytest.skip("neither buf nor npm, which would bring it, is installed")
    folder = ROOT / "build" / "buf"
    program = folder / "node_modules" / ".bin" / "buf"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
        done = subprocess.run([*command, "@bufbuild/buf@1.75.0"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm cannot install buf: {done.stderr.strip().splitlines()[-1:]}")
    return str(program)


def test_under_buf(project: Path, buf: str) -> None:
    (project / "buf.yaml").write_text("version: v2\nmodules:\n  - path: protos\n", "utf-8")
    (project / "buf.gen.yaml").write_text(BUF_GEN, "utf-8")
    done = subprocess.run(
        [buf, "generate"],
        cwd=project,
        env={**environment(), "HOME": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tree(project / "buf_out")) == ["acme/v1/orders_txzmq.py"]
    made = tree(project / "buf_out")["acme/v1/orders_txzmq.py"]
    protoc(project, "like_buf", "--txzmq_out=like_buf")
    assert made == tree(project / "like_buf")["acme/v1/orders_txzmq.py"]


BUF_GEN = """version: v2
plugins:
  - local: protoc-gen-txzmq
    out: buf_out
    opt:
      - imports=absolute
"""
