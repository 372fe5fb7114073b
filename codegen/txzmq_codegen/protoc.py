"""Runs the compiler and the stub writer, each as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from txzmq_codegen.problems import Position, Problem, Problems

__all__ = ["Compiled", "compile_protos", "stubs"]


class Compiled(NamedTuple):
    """What protoc made of the protos."""

    #: The files and all that they import, with comments and options.
    descriptors: FileDescriptorSet
    #: The text of each ``_pb2.py``, by the proto's name.
    messages: Mapping[str, str]


def compile_protos(protos: Sequence[str], path: Sequence[Path]) -> Compiled:
    """Compile *protos*, which are names relative to a folder of *path*.

    :raises Problems: with what protoc says of the files.
    """
    with tempfile.TemporaryDirectory(prefix="txzmq-codegen-") as folder:
        out = Path(folder, "out")
        out.mkdir()
        descriptors = Path(folder, "descriptors")
        _protoc(
            Path(folder, "arguments"),
            *(f"--proto_path={root}" for root in path),
            f"--descriptor_set_out={descriptors}",
            "--include_imports",
            "--include_source_info",
            "--retain_options",
            f"--python_out={out}",
            *protos,
        )
        return Compiled(
            FileDescriptorSet.FromString(descriptors.read_bytes()),
            {proto: _module_file(out, proto).read_text("utf-8") for proto in protos},
        )


def _module_file(out: Path, proto: str) -> Path:
    stem = proto.removesuffix(".proto").replace("-", "_").replace(".", "/")
    return out / f"{stem}_pb2.py"


def _protoc(arguments_file: Path, *arguments: str) -> None:
    # One argument a line, spaces and all, and no limit on their number. The -m form adds the
    # well-known protos to the path.
    arguments_file.write_text("\n".join(arguments), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"@{arguments_file}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        text = done.stdout.decode("utf-8", "replace")
        raise Problems([Problem(Position("protoc"), line) for line in text.splitlines()])


def stubs(protos: Sequence[str], descriptors: FileDescriptorSet) -> Mapping[str, str]:
    """The text of each ``_pb2.pyi``, by the name of its proto."""
    request = CodeGeneratorRequest(
        file_to_generate=protos, proto_file=descriptors.file, parameter="quiet"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy_protobuf.main"],
        input=request.SerializeToString(),
        stdout=subprocess.PIPE,
        check=True,
    )
    response = CodeGeneratorResponse.FromString(done.stdout)
    return {proto: file.content for proto, file in zip(protos, response.file, strict=True)}
