"""Makes the message modules, and txzmq's client and server base, from ``bench.proto``.

They are made anew for each run, so that what is measured is what the generator writes today.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["PROTOS", "GenerateError", "with_grpc", "with_protoc", "with_txzmq"]

PROTOS: Final = Path(__file__).parent / "protos"


class GenerateError(Exception):
    """A generator failed; the message is what it said."""


def with_protoc(folder: Path) -> None:
    """Make ``bench_pb2`` in *folder*, as every user of protobuf does.

    :raises GenerateError: if protoc fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _python(
        ["grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={folder.resolve()}", "bench.proto"],
        cwd=folder,
    )


def with_grpc(folder: Path) -> None:
    """Make ``bench_pb2`` and ``bench_pb2_grpc`` in *folder*, as grpc's documentation has it.

    :raises GenerateError: if protoc fails.
    """
    with_protoc(folder)
    _python(
        [
            "grpc_tools.protoc",
            f"-I{PROTOS}",
            f"--grpc_python_out={folder.resolve()}",
            "bench.proto",
        ],
        cwd=folder,
    )


def with_txzmq(folder: Path, protos: Path = PROTOS) -> None:
    """Make the package ``generated`` in *folder*, as the README's first command does.

    :param protos: the folder of the protos.
    :raises GenerateError: if the generator fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _python(["txzmq.codegen", str(protos.resolve())], cwd=folder)


def _python(module_and_arguments: list[str], cwd: Path) -> None:
    command = [sys.executable, "-m", *module_and_arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise GenerateError(f"python -m {module_and_arguments[0]} failed:\n{said}")
